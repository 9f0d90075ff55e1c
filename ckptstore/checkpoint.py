"""One checkpoint, lazily: nothing is fetched before it is asked for, nothing is handed out unchecked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ckptstore import logs
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend, place_of
from ckptstore.backends.translate import translate_errors
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    StoreUnavailable,
    UnreadableFormat,
)
from ckptstore.format import layout as plan
from ckptstore.format import names
from ckptstore.format.manifest import Manifest, Parent
from ckptstore.format.parts import FileParts
from ckptstore.format.signing import Trust
from ckptstore.read import contents
from ckptstore.read.reader import (
    Files,
    UnverifiedFiles,
    VerifiedFiles,
    VerifyReport,
    fetch_manifest,
    require_manifest,
)
from ckptstore.rllib_formats import Note, scan
from ckptstore.rllib_formats.detect import V0_FILE
from ckptstore.save.writing import Progress, run_all

if TYPE_CHECKING:
    from ckptstore.export.formats import Exported
    from ckptstore.rllib_formats.migrate import Step
    from ckptstore.rllib_formats.write.report import PolicyReport
    from ckptstore.save.migrated import Destination


class AlgorithmState(NamedTuple):
    """What `Checkpoint.load` returns."""

    state: Any
    policies: dict[str, Any]


class Skipped(NamedTuple):
    """A newer checkpoint that was passed over, and why."""

    name: str
    reason: str


class Lazy(Mapping[str, Any]):
    """Named values, each decoded on first use and then kept."""

    def __init__(
        self,
        keys: Callable[[], tuple[str, ...]],
        load: Callable[[str], Any],
        what: str,
        holds: Callable[[str], bool] | None = None,
    ) -> None:
        self._values: dict[str, Any] = {}
        self._find_keys = keys
        self._load = load
        self._what = what
        self._holds = holds

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return self._find_keys()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        if key not in self._values:
            self._values[key] = self._load(key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        # Whether there is one may be known without reading what lists them all.
        return isinstance(key, str) and (self._holds(key) if self._holds else key in self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<{self._what}: {', '.join(map(repr, self._keys[:8]))}{', ...' if len(self) > 8 else ''}>"


class Checkpoint:
    """One checkpoint, ours or RLlib's own. Made by a store or by `Checkpoint.open`; safe in threads."""

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        manifest: Manifest | None,
        *,
        skipped: Iterable[Skipped] = (),
        on_load: Callable[[Checkpoint], None] | None = None,
        table: Mapping[str, FileParts] | None = None,
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._on_load = on_load
        self._manifest = manifest
        self.skipped = tuple(skipped)
        """Newer checkpoints that `latest` passed over to find this one, and why."""
        self._files: Files
        self._contents: contents.Contents
        if manifest is None:
            listing = self.listing()
            self._files = UnverifiedFiles(backend, listing, prefix)
            if names.STORE in listing:
                raise UnreadableFormat(
                    self.url,
                    "it is a store, not a checkpoint",
                    "Open one of its checkpoints, for example CheckpointStore(url).latest()",
                )
            if not self._files.paths():
                raise CheckpointNotFound(self.url, "there is no checkpoint in this directory")
            self._contents = contents.RllibContents(self._files)
        else:
            self._files = VerifiedFiles(backend, prefix, manifest, self.url, table)
            self._contents = contents.contents_of(manifest, self._files)
        self._state: Any = plan.UNSET
        self.policies: Mapping[str, Any] = Lazy(
            lambda: self.policy_ids, self._load_policy, "policies", self._contents.holds
        )
        """Policy id to policy, each fetched and decoded when it is first asked for."""
        self.components: Mapping[str, Any] = Lazy(
            lambda: self._contents.components, self._load_component, "components"
        )
        """Component name to component, each fetched and decoded when it is first asked for."""

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        trusted_keys: Iterable[bytes | str] | None = None,
    ) -> Checkpoint:
        """The checkpoint in the directory `url`, wherever it lies and whoever wrote it.

        One without a manifest, which RLlib of any version wrote, opens too: nothing vouches for it then,
        and `committed` and `verified` are False. Where Ray up to 1.13 named the file ``checkpoint-<n>``
        rather than its directory, that is understood too. Raises CheckpointNotFound if there is nothing,
        InvalidRequest for another file, CheckpointCorrupt or UnreadableFormat for what can't be trusted
        or understood. With `trusted_keys`, Ed25519 public keys in PEM, CheckpointUntrusted unless one of
        them has signed its manifest: before any other file is read.
        """
        place = os.fspath(url)
        trust = Trust(trusted_keys) if trusted_keys is not None else None
        backend = open_backend(place, storage_options)
        try:
            return cls(backend, "", require_manifest(backend, "", backend.url, trust))
        except (CheckpointNotFound, StoreUnavailable) as error:
            through_a_file = isinstance(error.__cause__, NotADirectoryError)
            if isinstance(error, StoreUnavailable) and not through_a_file:
                raise
            parent, name = _inside(place)
            directory = open_backend(parent, storage_options) if parent else None
            if directory is None or not _is_file(directory, name):
                if through_a_file:
                    raise CheckpointNotFound(backend.url, "a part of its path is a file") from error
                raise
            if V0_FILE.match(name):
                return cls(directory, "", require_manifest(directory, "", directory.url, trust))
            raise InvalidRequest(
                backend.url, "it is a file", f"Name the checkpoint's directory, perhaps {directory.url}"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpoint, (self._backend, self._prefix, self._manifest)

    @property
    def committed(self) -> bool:
        """Whether a manifest vouches for it."""
        return self._manifest is not None

    @property
    def verified(self) -> bool:
        """Whether what it hands out is checked against digests."""
        return self._manifest is not None

    @property
    def manifest(self) -> Manifest:
        """What was committed. UnreadableFormat for a directory that has no manifest."""
        if self._manifest is None:
            raise UnreadableFormat(
                self.url, "RLlib wrote it, and it has no manifest", "Ask `committed` before `manifest`"
            )
        return self._manifest

    @property
    def notes(self) -> tuple[Note, ...]:
        """What reading it has inferred, migrated, missed or skipped so far."""
        return self._contents.notes()

    @property
    def id(self) -> str:
        """Identity of the save that made it; empty where RLlib made it."""
        return self._manifest.id if self._manifest else ""

    @property
    def name(self) -> str:
        """Its directory's name, for example ``checkpoint_000100``."""
        return (self._prefix or self._backend.url.rstrip("/")).rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where it lies; holds no credentials."""
        return f"{self._backend.url.rstrip('/')}/{self._prefix}" if self._prefix else self._backend.url

    @property
    def step(self) -> int:
        """The training step (RLlib's iteration) it was saved at; -1 where nothing tells."""
        if self._manifest is not None:
            return self._manifest.step
        name = names.CheckpointName.parse(self.name)
        if name is not None:
            return name.step
        iteration = self.state.get("iteration")
        return iteration if isinstance(iteration, int) else -1

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``, for example "1.1"."""
        return self._contents.version

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it; empty where nothing tells. May read one file of the oldest layout."""
        return self._contents.ray_version

    @property
    def kind(self) -> str:
        """ "Algorithm", "Policy" or what else the manifest says it is."""
        return self._contents.kind

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics given at save time."""
        return self._manifest.metrics if self._manifest else {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels given at save time."""
        return self._manifest.labels if self._manifest else ()

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies it holds; a policy alone goes by "default_policy"."""
        return self._contents.policy_ids

    @property
    def state(self) -> Any:
        """The algorithm state as plain data, decoded on first use and then kept."""
        if self._state is plan.UNSET:
            self._state = self._load_state()
        return self._state

    def weights(
        self, policy_id: str | None = None, names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The weights of one policy: parameter name to array. The id may be left out if there is one policy.

        Nested dicts and lists are flattened with ``/``. With `names`, those alone, in that order: of a
        checkpoint that ckptstore saved, the other large arrays are not fetched. Raises CheckpointNotFound
        for an unknown id or name and UnreadableFormat if the policy holds no weights, or some that aren't
        arrays.
        """
        if policy_id is None:
            if len(self.policy_ids) != 1:
                raise InvalidRequest(
                    self.name, f"it holds {len(self.policy_ids)} policies", self._list_policies()
                )
            policy_id = self.policy_ids[0]
        self._check_known([policy_id])
        self._note_load()
        what = f"{self.name} policy {policy_id!r}"
        if names is None:
            return _flat(self._contents.weights(policy_id), what)
        outline, fill = self._contents.outline(policy_id)
        wanted = _choose(_flat(outline, what), names, what)
        return wanted if fill(wanted.values()) else _choose(self.weights(policy_id), list(wanted), what)

    def load(
        self, policy_ids: Iterable[str] | None = None, *, trusted: bool = False, mmap: bool = False
    ) -> AlgorithmState:
        """State and policies, decoded afresh; only the policies in `policy_ids` if given.

        By default no code runs: data come back as they were, other objects as inert `Opaque` records.
        ``trusted=True`` unpickles real objects, which runs whatever code the pickle names. ``mmap=True``
        maps arrays copy-on-write from local files instead of reading them: fast, but they are checked
        by `verify` only, and a later write to the file shows through.
        """
        wanted = self._check_known(self.policy_ids if policy_ids is None else policy_ids)
        with logs.log_time("loaded", self.url) as done:
            loads: list[Callable[[], Any]] = [partial(self._load_state, trusted=trusted, mmap=mmap)]
            loads += [partial(self._load_policy, each, trusted=trusted, mmap=mmap) for each in wanted]
            mapped = mmap and isinstance(self._files, VerifiedFiles) and self._files.maps
            # Where nothing is read, more than two would wait for each other.
            state, *loaded = run_all(lambda load: load(), loads, 2 if mapped else 8)
            done(self._sizes(wanted))
        return AlgorithmState(state, dict(zip(wanted, loaded, strict=True)))

    def verify(self, *, progress: Progress | None = None) -> VerifyReport:
        """Read every byte and check it. Raises CheckpointCorrupt listing each file that is wrong."""
        report = self.check(progress=progress)
        if not report.ok:
            raise CheckpointCorrupt(self.url, report.summary())
        return report

    def check(self, *, progress: Progress | None = None) -> VerifyReport:
        """Like `verify`, but the problems are in the report.

        Where there is no manifest there are no digests: then this reads and decodes all there is.
        """
        if self._manifest is None:
            return self._check_decoding()
        now = fetch_manifest(self._backend, self._prefix, self.url)
        if now is None:
            raise CheckpointGone(self.url, "its manifest is not there any more")
        if now != self._manifest:
            return VerifyReport(self.url, 0, 0, (f"{names.MANIFEST}: it is another one than was opened",))
        assert isinstance(self._files, VerifiedFiles)
        return self._files.verify(self.listing(), progress)

    def _check_decoding(self) -> VerifyReport:
        problems: list[str] = []
        tries: list[Callable[[], object]] = [self._load_state]
        tries += [partial(self._load_policy, policy_id) for policy_id in self.policy_ids]
        tries += [partial(self._load_component, name) for name in self.components]
        for attempt in tries:
            try:
                attempt()
            except CheckpointError as error:
                problems.append(f"{error.what}: {error.why}")
        problems += [str(note) for note in self.notes if note.kind in ("mismatch", "missing")]
        sizes = self._files.paths()
        problems += [f"{path}: a link, pipe or device" for path, size in sizes.items() if size < 0]
        read = sum(size for size in sizes.values() if size > 0)
        return VerifyReport(self.url, len(sizes), read, tuple(dict.fromkeys(problems)))

    def migrate(
        self,
        dest: Destination | str | os.PathLike[str] | None,
        *,
        to: Literal["1.1", "2.1"] = "1.1",
        step: int | None = None,
        steps: Sequence[Step] = (),
        dry_run: bool = False,
    ) -> Migration:
        """Commit what it holds to the store `dest` or the one at that URL, in another version.

        ``"1.1"`` makes plain pickles that a bare ``pickle.load`` opens and RLlib since 2.1 knows. ``"2.1"``
        makes the tree of components of RLlib's new API stack, which Ray since 2.41 restores; what the old
        stack wrote gets there if its networks are RLlib's own. This one stays as it is and becomes the new
        one's parent, with its metrics and labels. `step` overrides its step, `steps` are functions of your
        own over the model, ``dry_run`` only reports and needs no `dest`. See ``docs/migrating.md``.

        Everything is read and laid out before a byte is written, so a refusal leaves nothing behind. Raises
        what reading raises; InvalidRequest for a model with anything but plain data in it; UnreadableFormat
        for networks that aren't recognised, or a checkpoint without policies; CheckpointExists if `dest`
        has the step already.
        """
        from ckptstore.rllib_formats.migrate import describe_skipped, lay_out
        from ckptstore.save.migrated import commit_to  # here, as reading alone needs neither

        source = self.rllib()
        notes: list[str] = []
        model = _read_model(source, self.url, notes)
        number = self._step_after_migration(step, notes)
        model, laid = lay_out(source.kind, model, to, steps, notes)
        result = None
        if not dry_run:
            if dest is None:
                raise InvalidRequest("dest", "it is None", "Name a store, or pass dry_run=True")
            fields: dict[str, Any] = {
                "kind": laid.kind,
                "policies": list(model["policies"]),
                "checkpoint_version": to,
                "parent": Parent(self.source_id(), "migrate"),
                "metrics": self.metrics,
                "labels": self.labels,
            }
            if isinstance(dest, (str, os.PathLike)):
                made = commit_to(dest, number, laid.items, **fields)
                result = Checkpoint(made.backend, str(made.name), made.manifest, table=made.table)
            else:
                result = dest.commit_files(number, laid.items, **fields)
        reports = {
            policy_id: report.with_dropped(describe_skipped(source.notes(), f"policies/{policy_id}"))
            for policy_id, report in laid.policies.items()
        }
        return Migration(self.url, to, result, reports, laid.algorithm, tuple(notes))

    def source_id(self) -> str:
        """What the manifest of a migrated checkpoint calls this one.

        Its id, or where no manifest gives one a fingerprint of its files' names and sizes.
        """
        from ckptstore.rllib_formats.migrate import fingerprint

        return self.id if self.committed else fingerprint(self.listing())

    def _step_after_migration(self, step: int | None, notes: list[str]) -> int:
        if step is not None:
            return step
        if self.committed or self.step >= 0:
            return self.step
        notes.append(str(Note("inferred", "step", "nothing tells the step, so it is 0")))
        return 0

    def export(
        self,
        dest: str | os.PathLike[str],
        policy_id: str | None = None,
        *,
        format: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Exported:
        """Write one policy to the new file `dest`, a path or URL, for other tools to read or run.

        `format` is "npz", "safetensors" (``ckptstore[export]``) or "json" for its weights, "onnx"
        (``ckptstore[onnx]``) or "torchscript" (``ckptstore[torch]``) for the network, if it is one of RLlib's
        own; by default the extension of `dest` tells. A network is run from its file and compared with the
        weights first. The id may be left out if there is one policy. The file appears whole or not at all.
        Raises InvalidRequest for a file that is there already, or weights that the format can't hold, and
        UnreadableFormat for a network that isn't known.
        """
        from ckptstore.export.formats import export

        return export(self, dest, policy_id, format=format, storage_options=storage_options)

    def rllib(self) -> contents.Contents:
        """Its files read as RLlib's, in the model of ``docs/model.md``, whoever wrote them.

        UnreadableFormat if they aren't what RLlib would have written.
        """
        saved = isinstance(self._contents, contents.SavedContents)
        return contents.RllibContents(self._files) if saved else self._contents

    def resume(self) -> None:
        """Tell its store that this process goes on from it: the next save names it as parent, and `prune`
        leaves it alone. Loading it says so by itself.
        """
        self._note_load()

    def scan(self) -> tuple[scan.Use, ...]:
        """Every name that unpickling its files would import or call, the worst first; nothing is run.

        Reads all pickles, torch files and MessagePack there are. Each use has a `rank`: "data" makes plain
        values, "library" is a class of a known framework, "code" is anything else.
        """
        return scan.scan(self._files.paths(), self._files.read)

    def read(self, path: str) -> bytes:
        """The bytes of one of its files, checked where a manifest vouches for them.

        Raises CheckpointNotFound if it has no such file.
        """
        if path not in self._files.paths():
            raise CheckpointNotFound(f"{self.url}/{path}", "the checkpoint has no such file")
        return self._files.read(path)

    def listing(self) -> dict[str, int]:
        """Every file in its directory now, and its size in bytes."""
        with translate_errors(self.url):
            return {
                item.key[len(self._prefix) :].lstrip("/"): item.size
                for item in self._backend.list(self._prefix)
            }

    def download(
        self,
        directory: str | os.PathLike[str],
        *,
        policy_ids: Iterable[str] | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Copy it, verified, into the new or empty local `directory`; returns that directory's path.

        Whole, the copy is a committed checkpoint like the original. With `policy_ids` it holds those
        policies only: RLlib opens it, and it has no manifest any more.
        """
        wanted = None if policy_ids is None else self._check_known(policy_ids)
        target = os.fspath(directory)
        with translate_errors(target):
            os.makedirs(target, mode=0o700, exist_ok=True)
            if os.listdir(target):
                raise InvalidRequest(target, "it isn't empty", "Name a new directory")
        try:
            with logs.log_time("downloaded", self.url) as done:
                done(self._download(target, wanted, progress))
        except BaseException:
            # What is there is ours and no checkpoint: the next try must find the directory empty.
            for name in os.listdir(target):
                path = os.path.join(target, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            raise
        return target

    def _download(self, target: str, wanted: list[str] | None, progress: Progress | None) -> int:
        sizes = self._files.paths()
        paths = list(sizes) if wanted is None else self._subset_paths(wanted)
        run_all(lambda path: self._download_file(path, target, progress), paths, 8)
        if wanted is None and self._manifest is not None:
            # Last, as everywhere: a copy cut short is no checkpoint.
            _write_file(os.path.join(target, names.PARTS), [self._table()])
            _write_file(os.path.join(target, names.MANIFEST), [self._manifest.dump()])
        elif wanted is not None:
            _write_file(os.path.join(target, names.RLLIB_JSON), [plan.rllib_json("Algorithm", wanted)])
        return sum(sizes[path] for path in paths)

    @contextmanager
    def as_directory(self, *, policy_ids: Iterable[str] | None = None) -> Iterator[str]:
        """A real local directory with a copy of it, for RLlib or any other reader; removed at the end.

        Reading it with RLlib unpickles, which runs code: do that with checkpoints you trust.
        """
        with tempfile.TemporaryDirectory(prefix="ckptstore-", ignore_cleanup_errors=True) as parent:
            yield self.download(os.path.join(parent, self.name), policy_ids=policy_ids)

    def stored(self, policy_id: str) -> plan.Stored:
        """The policy as it lies here, not read: pass it to a `save` to have its files taken over.

        In the same store they are linked, or copied by the server; elsewhere they are sent, verified.
        Raises InvalidRequest if ckptstore didn't write this checkpoint from objects.
        """
        if self._manifest is None or self._manifest.origin != "save":
            raise InvalidRequest(
                self.url, "its files are as another program wrote them", "Pass `policies[id]`"
            )
        [policy_id] = self._check_known([policy_id])
        return _StoredPolicy({name: self._item(path) for name, path in self._by_policy[policy_id].items()})

    @cached_property
    def _by_policy(self) -> Mapping[str, Mapping[str, str]]:
        """Each policy's files: what they are called in its directory, and their paths."""
        if self.kind == "Policy":
            return {names.DEFAULT_POLICY: {path: path for path in self._files.paths()}}
        found: dict[str, dict[str, str]] = {policy_id: {} for policy_id in self.policy_ids}
        for path in self._files.paths():
            if path.startswith(f"{names.POLICIES}/"):
                _, policy_id, name = path.split("/", 2)
                found[policy_id][name] = path
        return found

    def base(self) -> plan.Base | None:
        """Itself as what a save may take files over from; None if it has no manifest."""
        if not isinstance(self._files, VerifiedFiles):
            return None
        reader = self._files
        return plan.Base(place_of(reader.backend), reader.prefix, reader.manifest.id, reader.parts)

    def _item(self, path: str) -> plan.Item:
        base = self.base()
        assert base is not None

        def emit(write: plan.Write) -> Sequence[tuple[int, int]]:
            for data in self._files.stream(path):
                write(memoryview(data))  # each part stays a part
            return base.files[path].arrays

        return plan.Item(path, emit, (base, path))

    def copy_items(self) -> tuple[list[plan.Item], bytes]:
        """Its files, verified as they are read, and its ``parts.json``: what a copy of it is made of."""

        def item(path: str) -> plan.Item:
            def emit(write: plan.Write) -> tuple[()]:
                for data in self._files.stream(path):
                    write(data)
                return ()

            return plan.Item(path, emit)

        return [item(path) for path in self._files.paths()], self._table()

    def _download_file(self, path: str, target: str, progress: Progress | None) -> None:
        def chunks() -> Iterator[bytes]:
            for data in self._files.stream(path):
                yield data
                if progress is not None:
                    progress(len(data))

        _write_file(os.path.join(target, names.relative_path(path, self.name)), chunks())

    def _table(self) -> bytes:
        assert isinstance(self._files, VerifiedFiles)
        return self._files.parts_bytes()

    def _subset_paths(self, wanted: list[str]) -> list[str]:
        """Everything but the other policies, for the layouts that keep each in a directory of its own."""
        paths = self._files.paths()
        if self.kind != "Algorithm" or not any(path.startswith(f"{names.POLICIES}/") for path in paths):
            raise InvalidRequest(
                self.name, f"this {self.kind} can't be split by policy", "Leave out `policy_ids`"
            )
        keep = tuple(names.policy_path(policy_id, "") for policy_id in wanted)
        return [
            path
            for path in paths
            if path != names.RLLIB_JSON
            and (not path.startswith(f"{names.POLICIES}/") or path.startswith(keep))
        ]

    def _load_state(self, *, trusted: bool = False, mmap: bool = False) -> Any:
        self._note_load()
        return self._contents.state(trusted, mmap)

    def _load_policy(self, policy_id: str, *, trusted: bool = False, mmap: bool = False) -> Any:
        self._note_load()
        return self._contents.policy(policy_id, trusted, mmap)

    def _load_component(self, name: str) -> Any:
        self._note_load()
        return self._contents.component(name)

    def _note_load(self) -> None:
        if self._on_load is not None:
            self._on_load(self)

    def _check_known(self, policy_ids: Iterable[str]) -> list[str]:
        if isinstance(policy_ids, str):
            raise InvalidRequest("policy_ids", f"{policy_ids!r} is a str", "Pass a list or set of ids")
        wanted = list(dict.fromkeys(policy_ids))
        unknown = [policy_id for policy_id in wanted if policy_id not in self.policies]
        if unknown:
            raise CheckpointNotFound(self.name, f"it holds no policy {unknown[0]!r}", self._list_policies())
        return wanted

    def _list_policies(self) -> str:
        shown = ", ".join(map(repr, self.policy_ids[:20])) + (", ..." if len(self.policy_ids) > 20 else "")
        return f"It holds {len(self.policy_ids)}: {shown}" if self.policy_ids else "It holds none"

    def _sizes(self, policy_ids: Iterable[str]) -> int:
        sizes = self._files.paths()
        paths = {names.STATE, *(path for name in policy_ids for path in self._contents.paths_of(name))}
        return sum(sizes.get(path, 0) for path in paths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and (self.url, self.id) == (other.url, other.id)

    def __hash__(self) -> int:
        return hash((self.url, self.id))

    def __repr__(self) -> str:
        return f"<Checkpoint {self.url} {self.kind} step={self.step} policies={len(self.policy_ids)}>"


@dataclass(frozen=True)
class Migration:
    """What `Checkpoint.migrate` did, or with ``dry_run`` would do."""

    source: str
    """URL of the checkpoint that was read."""
    to: str
    """The ``checkpoint_version`` written."""
    checkpoint: Checkpoint | None
    """The new one; None for a dry run."""
    policies: Mapping[str, PolicyReport]
    algorithm: PolicyReport
    """The same report for the algorithm's own state."""
    notes: tuple[str, ...] = field(default=())
    """What reading inferred or missed, and what the steps did."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.source,
            "to": self.to,
            "checkpoint": self.checkpoint.url if self.checkpoint else None,
            "id": self.checkpoint.id if self.checkpoint else None,
            "step": self.checkpoint.step if self.checkpoint else None,
            "algorithm": self.algorithm.as_dict(),
            "policies": {policy_id: report.as_dict() for policy_id, report in self.policies.items()},
            "notes": list(self.notes),
        }


def _read_model(source: contents.Contents, url: str, notes: list[str]) -> dict[str, Any]:
    """The whole model of ``docs/model.md``; what reading it had to infer or miss is added to `notes`."""
    model: dict[str, Any] = {
        "state": dict(source.state(False, False)),
        "policies": {policy_id: source.policy(policy_id, False, False) for policy_id in source.policy_ids},
        "components": {name: source.component(name) for name in source.components},
    }
    if not model["policies"]:
        raise UnreadableFormat(url, f"this {source.kind} holds no policy", "Migrate an algorithm or policy")
    notes += [str(note) for note in source.notes() if note.kind != "migrated"]
    return model


class _StoredPolicy(plan.Stored):
    def __init__(self, files: Mapping[str, plan.Item]) -> None:
        self._files = files

    def items(self, path: Callable[[str], str]) -> list[plan.Item]:
        return [item._replace(path=path(name)) for name, item in self._files.items()]


def _inside(url: str) -> tuple[str, str]:
    """The directory that `url` lies in, and its name there; an empty one where there is none above."""
    if "://" not in url:
        return os.path.split(os.path.abspath(url))
    parent, _, name = url.rstrip("/").rpartition("/")
    return ("", name) if parent.endswith("/") else (parent, name)


def _is_file(directory: Backend, name: str) -> bool:
    try:
        directory.read(name, 0, 1)
    except EOFError:
        return True  # an empty one
    except OSError:
        return False
    return True


def _write_file(path: str, chunks: Iterable[bytes]) -> None:
    with translate_errors(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)


def _flat(weights: object, what: str) -> dict[str, np.ndarray[Any, Any]]:
    flat: dict[str, np.ndarray[Any, Any]] = {}
    _flatten(weights, "", flat, what)
    return flat


def _choose(
    flat: Mapping[str, np.ndarray[Any, Any]], names: Iterable[str], what: str
) -> dict[str, np.ndarray[Any, Any]]:
    if isinstance(names, str):
        raise InvalidRequest("names", f"{names!r} is a str", "Pass a list of names")
    try:
        return {name: flat[name] for name in names}
    except KeyError as error:
        known = ", ".join(map(repr, list(flat)[:20])) + (", ..." if len(flat) > 20 else "")
        raise CheckpointNotFound(what, f"it holds no weight {error.args[0]!r}", f"It holds {known}") from None


def _flatten(value: object, path: str, flat: dict[str, np.ndarray[Any, Any]], what: str) -> None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        flat[path] = value
    elif isinstance(value, np.generic):
        flat[path] = np.asarray(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{path}/{key}" if path else str(key), flat, what)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _flatten(item, f"{path}/{index}" if path else str(index), flat, what)
    else:
        raise UnreadableFormat(
            what,
            f"its weight {path or '(all)'!r} is a {type(value).__name__}, not an array",
            "Read ckpt.policies[id] for everything the policy holds",
        )
