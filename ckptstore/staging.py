"""A local directory for frameworks that write their checkpoints themselves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Literal, SupportsIndex

from ckptstore import logs
from ckptstore.backends.local.scratch import Scratch
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointCorrupt, InvalidRequest
from ckptstore.format import names
from ckptstore.read import contents
from ckptstore.run import Run
from ckptstore.save.local_files import copy_item, file_changed, local_files
from ckptstore.save.requests import Request
from ckptstore.save.save import Save
from ckptstore.save.staged import check_directory, mark_empty, settle_links
from ckptstore.work import Progress, run_off_main

Job = Callable[[], Checkpoint]
_PREFIX = "ckptstore-stage-"
"""Of temporary directories, which only the next stage removes when they are dead: no reader takes a
killed trainer's work away."""


class Staged(os.PathLike[str]):
    """Real and empty while its ``with`` block runs; a checkpoint once the block ends well.

    Whatever lies in the directory then is committed as it is, byte for byte, but for what systems drop
    anywhere (``.DS_Store``, ``.nfs*``). A link to another file in there becomes a file, and an empty
    directory gets one, so that it survives. After an exception nothing is. On local disk the directory is the
    checkpoint's own, renamed into place; for an object store it is a temporary one, uploaded at the end.

    Raises InvalidRequest at the end for links that lead elsewhere, pipes and devices, for an empty directory,
    and for a directory that already is a ckptstore checkpoint; SaveAborted if it was moved away. What was
    written then isn't lost: the error says where it is kept, on local disk in ``.unsaved/`` of the store, and
    nothing here removes it.
    """

    def __init__(
        self, run: Run, request: Request, submit: Callable[[Job], Future[Checkpoint]] | None = None
    ) -> None:
        self._run = run
        self._request = request
        self._submit = submit
        self._save: Save | None = None
        self._temporary: Scratch | None = None
        self._directory: str | None = None
        self.checkpoint: Checkpoint | None = None
        """The committed checkpoint: after the block, or once `future` is done."""
        self.future: Future[Checkpoint] | None = None
        """With `CheckpointStore.stage_async`, the commit that goes on after the block."""

    def __fspath__(self) -> str:
        if self._directory is None:
            raise InvalidRequest("stage", "its directory exists inside the `with` block only", "Use it there")
        return self._directory

    def __str__(self) -> str:
        return self.__fspath__()

    def as_posix(self) -> str:
        """The same: RLlib's `save_to_path` asks any path that is no str for it."""
        return self.__fspath__()

    def __enter__(self) -> Staged:
        try:
            run_off_main(self._begin)
            return self
        except BaseException:  # also an interrupt, after which no `__exit__` follows
            run_off_main(self._give_up)
            raise

    def _begin(self) -> None:
        if self._submit is None or self._run.catalog.in_place:
            self._save = self._run.begin(self._request)
            self._directory = self._save.begin().attempt.directory
        if self._directory is None:
            self._temporary = Scratch(prefix=_PREFIX)
            # Within it, as a program may put another directory in the place of its own.
            self._directory = os.path.join(self._temporary.make(), "files")
            os.mkdir(self._directory)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_off_main(partial(self._end, error))

    def _end(self, error: BaseException | None) -> None:
        submitted = False  # interrupted before the next line, it stays until this process has ended
        try:
            directory, self._directory = self.__fspath__(), None
            if error is not None:
                self._give_up()
            elif self._submit is None:
                self._finish(directory)
            else:
                self.future = self._submit(lambda: self._finish(directory))
                submitted = True
        except BaseException:
            if not submitted:
                self._give_up()
            raise

    def _give_up(self) -> None:
        if self._save is not None:
            self._save.discard()
        self._clean_up()

    def _finish(self, directory: str) -> Checkpoint:
        try:
            self._save = self._save or self._run.begin(self._request)
            self.checkpoint = checkpoint = self._save.run(lambda save: self._commit(save, directory))
            return checkpoint
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary is not None:
            self._temporary.remove()

    def _commit(self, save: Save, directory: str) -> Checkpoint:
        try:
            check_directory(directory)
            settle_links(directory)
            paths = _list_files(directory)
            paths = sorted([*paths, *mark_empty(directory)])
        except InvalidRequest as error:
            raise self._keep_files(directory, error) from error
        with logs.log_time("staged", f"{self._run.catalog.backend.url} step {self._request.step}") as done:
            if self._temporary is None:
                files = save.hash_in_place(paths)
            else:
                files = save.write([copy_item(path, os.path.join(directory, path)) for path in paths])
            request = self._describe(_LocalFiles(directory, {file.path: file.size for file in files}))
            name, manifest = save.commit(request, files)
            done(manifest.size)
        return self._run.note_commit(name, manifest)

    def _keep_files(self, directory: str, error: InvalidRequest) -> InvalidRequest:
        """Move what was written to where it stays, and say so in the error."""
        if os.path.islink(directory) or not os.path.exists(directory):
            return error
        if os.path.isdir(directory) and not os.listdir(directory):
            return error
        above = None if self._temporary else os.path.dirname(os.path.dirname(directory))
        try:
            if above is not None:
                above = os.path.join(above, names.UNSAVED)
                os.makedirs(above, exist_ok=True)
            kept = tempfile.mkdtemp(prefix=f"{names.CheckpointName(self._request.step)}-", dir=above)
            kept = os.path.join(kept, "files")
            os.rename(directory, kept)
        except OSError:
            logs.logger.warning("%s could not be kept", directory, exc_info=True)
            return error
        remedy = f"{error.remedy}. Your files are kept in {kept}: copy them from there into a new stage()"
        return InvalidRequest(error.what.replace(directory, kept), error.why, remedy)

    def _describe(self, files: _LocalFiles) -> Request:
        found = contents.describe(files)
        return replace(
            self._request,
            origin="stage",
            kind=found.kind,
            policies=found.policy_ids,
            checkpoint_version=found.version,
            format="",
        )


def _list_files(directory: str) -> list[str]:
    """What will be committed. InvalidRequest where that can't be, or is nothing."""
    paths = local_files(directory)
    if not paths:
        raise InvalidRequest(directory, "nothing was written into it", "Write the checkpoint's files there")
    if any(path.split("/")[0] == names.META for path in paths):
        why = f"it holds {names.META}/ of another checkpoint"
        raise InvalidRequest(directory, why, "Use copy_to() to copy a checkpoint")
    return paths


class _LocalFiles:
    """The files in the directory, so that what RLlib wrote is known for what it is."""

    def __init__(self, directory: str, sizes: Mapping[str, int]) -> None:
        self.label = self._directory = directory
        self._sizes = sizes

    def paths(self) -> Mapping[str, int]:
        return self._sizes

    def _stat(self, path: str) -> os.stat_result:
        full = os.path.join(self._directory, path)
        try:
            return os.stat(full)
        except FileNotFoundError as error:
            raise file_changed(full) from error

    def read(self, path: str) -> bytes:
        self._stat(path)
        with open(os.path.join(self._directory, path), "rb") as file:
            return file.read()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        self._stat(path)
        with open(os.path.join(self._directory, path), "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def stream(self, path: str) -> Iterator[bytes]:
        yield self.read(path)


Stage = Callable[..., Staged]
"""`CheckpointStore.stage`."""


def import_files(
    stage: Stage,
    checkpoint: Checkpoint,
    step: SupportsIndex | None,
    if_exists: Literal["error", "replace"],
    progress: Progress | None,
) -> Checkpoint:
    """Commit the files of a checkpoint that has no manifest, byte for byte.

    CheckpointCorrupt for another trainer's that are damaged: a digest would call them whole for ever.
    """
    chosen = checkpoint.step if step is None else names.step_number(step)
    if chosen < 0:
        raise InvalidRequest(
            checkpoint.url, "its files don't tell its step", "Give it one: --step N, or step=N"
        )
    from ckptstore.read.trainers import TrainerContents  # here, as staging alone needs none

    held = checkpoint._contents
    if isinstance(held, TrainerContents) and (problems := held.problems()):
        raise CheckpointCorrupt(checkpoint.url, "; ".join(problems[:20]), "Download or copy it again")
    with stage(chosen, metrics=checkpoint.metrics, if_exists=if_exists) as staged:
        checkpoint.download(os.fspath(staged), progress=progress)
    assert staged.checkpoint is not None
    return staged.checkpoint
