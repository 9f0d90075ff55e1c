"""What other trainers wrote, as the contents of a checkpoint."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptstore.errors import CheckpointError, CheckpointNotFound, InvalidRequest, UnreadableFormat
from ckptstore.format.manifest import DIRECTORY
from ckptstore.format.marks import is_mark
from ckptstore.read.files import Files
from ckptstore.read.how import SAFELY, How
from ckptstore.rllib_formats.notes import Note
from ckptstore.work import Lock

if TYPE_CHECKING:
    from ckptstore.trainer_formats.checkpoints import Arrays, Found
    from ckptstore.trainer_formats.containers import Decode


class TrainerContents:
    """Files of another trainer: what is known of their formats comes back as data."""

    kind = DIRECTORY
    version = ""
    ray_version = ""
    policy_ids: tuple[str, ...] = ()

    def __init__(self, files: Files) -> None:
        """Nothing is read yet."""
        self._files = files
        self._looked: tuple[Found | None] | None = None
        self._lock = Lock()

    def is_known(self) -> bool:
        """Whether the format is one that is known here. Raises what reading the files raises."""
        with self._translate_errors():
            return self._found is not None

    @property
    def _found(self) -> Found | None:
        """What the files are; None if nobody here knows."""
        if self._looked is None:
            # Here, as nothing else needs them: our own checkpoints and RLlib's have decoders of their own.
            from ckptstore.trainer_formats.checkpoints import open_checkpoint
            from ckptstore.trainer_formats.source import Source

            self._looked = (open_checkpoint(Source(self._files.paths(), self._files.read_range)),)
        return self._looked[0]

    @property
    def format(self) -> str:
        """The trainer, or the format of its files; empty where nobody here knows it."""
        with self._translate_errors():
            return self._found.name if self._found is not None else ""

    @property
    def components(self) -> tuple[str, ...]:
        """See `Contents`: the modules in a file of Lightning's, or the files of a directory."""
        with self._translate_errors():
            return self._found.components if self._found is not None else ()

    def step(self) -> int:
        """See `Contents`."""
        with self._translate_errors():
            return self._found.step() if self._found is not None else -1

    def holds(self, policy_id: str) -> bool:
        """Nothing: what is a policy only its trainer knows."""
        return False

    def state(self, how: How = SAFELY) -> Any:
        """What the file holds, or each file of a directory by its name."""
        with self._translate_errors():
            return self._require().state(_decode(how))

    def policy(self, policy_id: str, how: How = SAFELY) -> Any:
        """CheckpointNotFound."""
        raise CheckpointNotFound(self._files.label, "it holds no policies", "Read `state`")

    def component(self, name: str, how: How = SAFELY) -> Any:
        """See `Contents`."""
        with self._translate_errors():
            return self._require().component(name, _decode(how))

    def weights(self, policy_id: str) -> Any:
        """CheckpointNotFound."""
        return self.policy(policy_id)

    def outline(self, policy_id: str) -> tuple[Any, Any]:
        """CheckpointNotFound."""
        return self.policy(policy_id), None

    def arrays(self) -> Arrays:
        """The weights of all networks: name to what makes the array. UnreadableFormat if there are none."""
        with self._translate_errors():
            return self._require().weights()

    def make(self, arrays: Arrays) -> dict[str, Any]:
        """Those arrays, read now."""
        with self._translate_errors():
            return {name: make() for name, make in arrays.items()}

    def paths_of(self, policy_id: str) -> list[str]:
        """None."""
        return []

    def files_of(self, policy_id: str) -> list[str]:
        """None."""
        return []

    def notes(self) -> tuple[Note, ...]:
        """See `Contents`."""
        return self._looked[0].notes if self._looked and self._looked[0] is not None else ()

    def problems(self) -> list[str]:
        """One line for each file that is damaged or missing: no digests say so, but its format does."""
        with self._translate_errors():
            found = self._found.problems() if self._found is not None else []
        return [f"{error.what}: {error.why}" for error in found]

    def _require(self) -> Found:
        if self._found is None:
            raise UnreadableFormat(
                self._files.label, "it holds files of another program", "Use as_directory() or download()"
            )
        return self._found

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """One thread at a time; errors name the file in full, and what decoding raises is typed."""
        with self._lock:
            try:
                yield
            except RecursionError as error:
                raise UnreadableFormat(self._files.label, "nested too deeply") from error
            except CheckpointError as error:
                if error.what.startswith(self._files.label):
                    raise
                label = self._files.label
                inside = error.what in self._files.paths()
                what = f"{label}/{error.what}" if inside and not label.endswith(f"/{error.what}") else label
                whole = inside or error.what == "checkpoint directory"
                why = error.why if whole else ": ".join(filter(None, (error.what, error.why)))
                raise type(error)(what, why, error.remedy) from error


def open_trainers(files: Files, error: UnreadableFormat) -> TrainerContents:
    """What another trainer wrote, where RLlib didn't: `error` says why, and is raised if nobody is known."""
    paths = files.paths()
    if any(is_mark(path.rpartition("/")[2]) for path in paths):
        raise error
    contents = TrainerContents(files)
    if contents.is_known():
        return contents
    from ckptstore.trainer_formats.checkpoints import looks_deeper

    if any(size < 0 for path, size in paths.items() if "/" not in path):
        why, remedy = "there are links among its files, which aren't followed", "Copy it with `cp -rL` first"
        raise UnreadableFormat(files.label, why, remedy) from error
    inner = looks_deeper(paths)
    if not inner:
        raise error
    why = "what looks like checkpoints lies below it"
    if len(inner) == 1:
        raise UnreadableFormat(files.label, why, f"Did you mean {inner[0]}?") from error
    shown = ", ".join(inner[:6]) + (", ..." if len(inner) > 6 else "")
    raise UnreadableFormat(files.label, f"{why}: {shown}", "Name one of them") from error


def _decode(how: How) -> Decode:
    from ckptstore.trainer_formats.containers import Decode

    return Decode(how.tensors, how.classes, _unpickle if how.trusted else None)


def _unpickle(data: bytes, is_torch: bool) -> Any:
    """Real objects, which runs whatever code the file names."""
    if not is_torch:
        return pickle.loads(data)
    try:
        import torch
    except ImportError as error:
        raise InvalidRequest("trusted=True", "torch is not installed", "pip install torch") from error
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
