"""One checkpoint, lazily: nothing is fetched before it is asked for, nothing is handed out unchecked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from ckptstore import logs
from ckptstore.backends.base import Backend
from ckptstore.backends.local.scratch import temporary_directory
from ckptstore.backends.urls import local_path
from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.torch_calls import make_tensors
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    UnreadableFormat,
)
from ckptstore.format import layout, names
from ckptstore.format.manifest import DIRECTORY, Manifest
from ckptstore.format.parts import FileParts
from ckptstore.format.signing import open_trust
from ckptstore.printable import clean
from ckptstore.read.contents import Contents, RllibContents, SavedContents, contents_of
from ckptstore.read.decoding import check_decoding
from ckptstore.read.files import Files, UnverifiedFiles
from ckptstore.read.how import SAFELY, AlgorithmState, How
from ckptstore.read.lazy import Lazy
from ckptstore.read.locate import Located, list_files, locate
from ckptstore.read.manifests import fetch_manifest
from ckptstore.read.reader import VerifiedFiles
from ckptstore.read.report import VerifyReport
from ckptstore.read.weights import ask_which, read_entry, read_weights
from ckptstore.save import partial as partial_copy
from ckptstore.save.handover import StoredPolicy, base_of, copy_items
from ckptstore.work import Progress, off_main, run_all, run_off_main

if TYPE_CHECKING:
    from ckptstore.export.formats import Exported
    from ckptstore.restore.report import RestoreReport
    from ckptstore.rllib_formats.migrate import Step
    from ckptstore.rllib_formats.notes import Note
    from ckptstore.rllib_formats.scan import Use
    from ckptstore.save.migrate import Destination, Migration

_CONCURRENCY = 8  # files moved or decoded at once


class Skipped(NamedTuple):
    """A newer checkpoint that was passed over, and why."""

    name: str
    reason: str
    newer: bool = False
    """Whether a later release of ckptstore wrote it, and this one can't read it: nothing is wrong with it."""
    untrusted: bool = False
    """Whether only nobody who is trusted has signed it: it may well be whole."""


@off_main(
    *("open", "from_listing", "notes", "step", "version", "format", "ray_version", "kind", "policy_ids"),
    at_once=lambda checkpoint: checkpoint._manifest is not None and checkpoint._manifest.origin == "save",
)
class Checkpoint:
    """One checkpoint, ours or RLlib's own. Made by a store or by `Checkpoint.open`; safe in threads."""

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        files: Files,
        manifest: Manifest | None,
        *,
        skipped: Iterable[Skipped] = (),
        on_load: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        """Use `open`, or a store; inside, `from_manifest` and `from_listing`. Nothing is read here."""
        self._backend = backend
        self._prefix = prefix
        self._files = files
        self._manifest = manifest
        self._found: Contents | None = None
        self._on_load = on_load
        self.skipped = tuple(skipped)
        """Newer checkpoints that `latest` passed over to find this one, and why."""
        self._state: Any = layout.UNSET
        self._report: RestoreReport | None = None
        self.policies: Mapping[str, Any] = Lazy(
            lambda: self.policy_ids, self._load_policy, "policies", lambda key: self._contents.holds(key)
        )
        """Policy id to policy, each fetched and decoded when it is first asked for."""
        self.components: Mapping[str, Any] = self._lazy_components(SAFELY)
        """Component name to component, each fetched and decoded when it is first asked for."""

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        trusted_keys: Iterable[bytes | str] | None = None,
        trusted_stores: Iterable[str] | None = None,
    ) -> Checkpoint:
        """The checkpoint in the directory or file `url`, on any backend and by any writer.

        One without a manifest, which RLlib of any version or another trainer wrote (``docs/foreign.md``),
        opens too: nothing vouches for it then, and `committed` and `verified` are False. Where Ray up to 1.13
        named the file ``checkpoint-<n>`` rather than its directory, that is understood too. Raises
        CheckpointNotFound if there is nothing, InvalidRequest for a file that none of them writes alone,
        CheckpointCorrupt, UnsafeContent or UnreadableFormat for what can't be trusted or understood. With
        `trusted_keys`, Ed25519 public keys in PEM, CheckpointUntrusted unless one of them has signed its
        manifest: before any other file is read. With `trusted_stores`, ids of stores, it must have been
        signed for one of these.
        """
        return cls.from_located(locate(url, storage_options, open_trust(trusted_keys, trusted_stores)))

    @classmethod
    def from_located(cls, found: Located) -> Checkpoint:
        """The checkpoint that `locate` found. UnreadableFormat for a store, or what isn't understood."""
        if found.is_store:
            raise UnreadableFormat(
                found.backend.url,
                "it is a store, not a checkpoint",
                "Open one of its checkpoints, for example CheckpointStore(url).latest()",
            )
        if found.manifest is not None:
            return cls.from_manifest(found.backend, "", found.manifest)
        return cls.from_listing(found.backend, "", found.listing)

    @classmethod
    def from_manifest(
        cls,
        backend: Backend,
        prefix: str,
        manifest: Manifest,
        *,
        skipped: Iterable[Skipped] = (),
        on_load: Callable[[Checkpoint], None] | None = None,
        table: Mapping[str, FileParts] | None = None,
    ) -> Checkpoint:
        """A committed checkpoint in the directory `prefix`; reads nothing. `table` is its ``parts.json``."""
        where = f"{backend.url.rstrip('/')}/{prefix}" if prefix else backend.url
        files = VerifiedFiles(backend, prefix, manifest, where, table)
        return cls(backend, prefix, files, manifest, skipped=skipped, on_load=on_load)

    @classmethod
    def from_listing(cls, backend: Backend, prefix: str, listing: Mapping[str, int]) -> Checkpoint:
        """RLlib's in the directory `prefix`, which holds `listing` (path to size); else UnreadableFormat."""
        checkpoint = cls(backend, prefix, UnverifiedFiles(backend, listing, prefix), None)
        checkpoint._contents  # noqa: B018  # refuse now what isn't understood
        return checkpoint

    @classmethod
    def _from_directory(cls, backend: Backend, prefix: str) -> Checkpoint:
        where = f"{backend.url.rstrip('/')}/{prefix}" if prefix else backend.url
        return cls.from_listing(backend, prefix, list_files(backend, prefix, where))

    @property
    def _contents(self) -> Contents:
        """What the files mean; of what RLlib wrote this reads a small file."""
        self._found = self._found or contents_of(self._manifest, self._files)
        return self._found

    def __reduce__(self) -> tuple[Any, ...]:
        if self._manifest is None:
            return Checkpoint._from_directory, (self._backend, self._prefix)
        return Checkpoint.from_manifest, (self._backend, self._prefix, self._manifest)

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
                self.url,
                "another program wrote it, and it has no manifest",
                "Ask `committed` before `manifest`",
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
        if (name := names.CheckpointName.parse(self.name)) is not None:
            return name.step
        return self._contents.step()

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``, for example "1.1"."""
        return self._contents.version

    @property
    def format(self) -> str:
        """What its files are in, such as "Lightning 2.6.6" or "safetensors"; empty where nothing tells."""
        return self._contents.format

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
        if self._state is layout.UNSET:
            self._state = run_off_main(self._load_state)
        return self._state

    def weights(
        self, policy_id: str | None = None, names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The weights of one policy: parameter name to array. The id may be left out if there is one policy.

        Of what another trainer wrote, without an id, those of all networks: see ``docs/foreign.md``. Where no
        policy has that id, those of the module, or dict of arrays, that was saved as it in the state. Nested
        dicts and lists are flattened with ``/``. With `names`, those alone, in that order: of what ckptstore
        saved, safetensors and torch's zips the other large arrays are not fetched. Raises CheckpointNotFound
        for an unknown id or name and UnreadableFormat if there are no weights, or some that aren't arrays.
        """
        if policy_id is None and self.kind != DIRECTORY:
            if len(self.policy_ids) != 1:
                raise ask_which(self.url, self.policy_ids)
            policy_id = self.policy_ids[0]
        if (found := read_entry(self._contents, policy_id, names, self.url)) is not None:
            self._note_load()
            return found
        self._check_known([] if policy_id is None else [policy_id])
        self._note_load()
        return read_weights(self._contents, policy_id, names, self.url)

    def load(
        self,
        policy_ids: Iterable[str] | None = None,
        *,
        trusted: bool = False,
        mmap: bool = False,
        tensors: Literal["numpy", "torch"] = "numpy",
        map_location: Any = None,
        classes: Iterable[type] = (),
    ) -> AlgorithmState:
        """State and policies, decoded afresh; only the policies in `policy_ids` if given.

        `components` of the result are fetched when they are asked for, and decoded in the same way.

        By default no code runs: data come back as they were, other objects as inert `Opaque` records.
        ``trusted=True`` unpickles real objects, which runs whatever code the pickle names. ``mmap=True``
        maps arrays copy-on-write from local files instead of reading them: fast, but they are checked
        by `verify` only, and a later write to the file shows through. What were torch tensors are arrays,
        with ``tensors="torch"`` tensors again, made without running code, on the device `map_location` if
        given; `trusted` makes tensors anyway, where they were. Instances of `classes` (dataclasses, enums,
        named tuples, others) are made of their fields, and no constructor or other method of theirs is run.
        """
        listed = tuple(classes) if not isinstance(classes, type) else (classes,)
        how = How(trusted, mmap, make_tensors(tensors, map_location), Classes(listed) if listed else None)
        wanted = self._check_known(self.policy_ids if policy_ids is None else policy_ids)
        with logs.log_time("loaded", self.url) as done:
            loads: list[Callable[[], Any]] = [partial(self._load_state, how)]
            loads += [partial(self._load_policy, each, how) for each in wanted]
            mapped = mmap and isinstance(self._files, VerifiedFiles) and self._files.maps
            # Where nothing is read, more than two would wait for each other.
            state, *loaded = run_all(lambda load: load(), loads, 2 if mapped else _CONCURRENCY)
            done(self._sizes(wanted))
        made = AlgorithmState(state, dict(zip(wanted, loaded, strict=True)))
        made.components = self._lazy_components(how)
        return made

    def restore(self, target: Any, *, strict: bool = True) -> Any:
        """Put what was saved into `target`, a dict of live objects and trees, or one of them.

        Names are looked up in `state`, then in `components`. What has `load_state_dict` and random
        generators are restored in place; all else is rebuilt like the target, arrays on its device or
        sharding, and is in what comes back. No code that a file names is run. Everything is compared first,
        and put back where an object's own loader raises. `report` says what was done.

        Args:
            target: what was saved, or a part of it, as a fresh run makes it.
            strict: whether all of it must be there, of its shape and type; else what fits is taken.

        Returns:
            `target` with what was saved in its place.
        Raises:
            InvalidRequest: the target doesn't fit, by path; nothing is changed.
        Example:
            >>> store.latest().restore({"model": model, "optimizer": optimizer})
        """
        from ckptstore.restore.restore import restore  # here, as reading alone doesn't need it

        how = SAFELY
        if "torch" in sys.modules and not isinstance(self._contents, RllibContents):
            how = How(tensors=make_tensors("torch"))
        parts = self._lazy_components(how)
        made, self._report = restore(target, self._load_state(how), parts, self.url, strict)
        return made

    @property
    def report(self) -> RestoreReport | None:
        """What the last `restore` did; None if there was none."""
        return self._report

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
            return check_decoding(self._contents, self._files)
        now = fetch_manifest(self._backend, self._prefix, self.url)
        if now is None:
            raise CheckpointGone(self.url, "its manifest is not there any more")
        if now != self._manifest:
            return VerifyReport(self.url, 0, 0, (f"{names.MANIFEST}: it is another one than was opened",))
        assert isinstance(self._files, VerifiedFiles)
        return self._files.verify(self.listing(), progress)

    def migrate(
        self,
        dest: Destination | str | os.PathLike[str] | None,
        *,
        to: Literal["1.1", "2.1"] = "1.1",
        step: int | None = None,
        steps: Sequence[Step] = (),
        dry_run: bool = False,
    ) -> Migration[Checkpoint]:
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
        from ckptstore.save.migrate import commit_to, migrate  # here, as reading alone needs neither

        def commit(*args: Any, **fields: Any) -> Checkpoint:
            if dest is None:
                raise InvalidRequest("dest", "it is None", "Name a store, or pass dry_run=True")
            if not isinstance(dest, (str, os.PathLike)):
                return cast("Checkpoint", dest.commit_files(*args, **fields))
            made = commit_to(dest, *args, **fields)
            return Checkpoint.from_manifest(made.backend, str(made.name), made.manifest, table=made.table)

        return migrate(self, None if dry_run else commit, to=to, step=step, steps=steps)

    def source_id(self) -> str:
        """What the manifest of a migrated checkpoint calls this one.

        Its id, or where no manifest gives one a fingerprint of its files, all of which are read for it.
        """
        from ckptstore.rllib_formats.migrate import fingerprint
        from ckptstore.save.digests import digest_files

        return self.id or fingerprint(self._files.paths(), digest_files(self._files))

    def differs_from(self, other: Checkpoint) -> bool:
        """Whether any byte differs from `other`'s, a committed one with files of the same names and sizes.

        By the digests in both manifests; without a manifest of its own this one's files are read.
        """
        from ckptstore.save.digests import differs

        theirs = {file.path: file.digest for file in other.manifest.files}
        if self._manifest is None:
            return differs(self._files, theirs)
        return {file.path: file.digest for file in self._manifest.files} != theirs

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

    def rllib(self) -> Contents:
        """Its files read as RLlib's, in the model of ``docs/model.md``, whoever wrote them.

        UnreadableFormat if they aren't what RLlib would have written.
        """
        others = isinstance(self._contents, SavedContents) or self.kind == DIRECTORY
        return RllibContents(self._files) if others else self._contents

    def files_of(self, policy_id: str) -> list[str]:
        """The paths of every file of one policy, exported models included; where all share one file, that.

        Raises CheckpointNotFound for an unknown id.
        """
        [policy_id] = self._check_known([policy_id])
        return self._contents.files_of(policy_id)

    def resume(self) -> None:
        """Tell its store that this process goes on from it: the next save names it as parent, and `prune`
        leaves it alone. Loading it says so by itself.
        """
        self._note_load()

    def scan(self) -> tuple[Use, ...]:
        """Every name that unpickling its files would import or call, the worst first; nothing is run.

        Reads every file and judges it by its content. Each use has a `rank`: "data" makes plain values,
        "library" is a class of a known framework, "unknown" wasn't looked into, "code" is anything else.
        """
        from ckptstore.rllib_formats import scan

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
        return list_files(self._backend, self._prefix, self.url)

    def download(
        self,
        directory: str | os.PathLike[str],
        policy_ids: Iterable[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> str:
        """Copy it, verified, into the new or empty local `directory`; returns that directory's path.

        Of several processes one fills it, at once, and the others find it done. The copy is a committed
        checkpoint as well. With `policy_ids` it holds those only, the original is its parent, with the same
        digests, and a signature doesn't come along.
        """
        wanted = None if policy_ids is None else self._check_known(policy_ids)
        target = local_path(directory)
        with logs.log_time("downloaded", self.url) as done:
            done(partial_copy.download(self._contents, self._files, target, wanted, _CONCURRENCY, progress))
        return target

    @contextmanager
    def as_directory(self, policy_ids: Iterable[str] | None = None) -> Iterator[str]:
        """A real local directory with a copy of it, for RLlib or any other reader; removed at the end.

        Reading it with RLlib unpickles, which runs code: do that with checkpoints you trust.
        """
        with temporary_directory() as parent:
            name = self.name if names.is_plain_name(self.name) else "checkpoint"
            yield self.download(os.path.join(parent, name), policy_ids=policy_ids)

    def stored(self, policy_id: str) -> layout.Stored:
        """The policy as it lies here, not read: pass it to a `save` to have its files taken over.

        In the same store they are linked, or copied by the server; elsewhere they are sent, verified.
        Raises InvalidRequest if ckptstore didn't write this checkpoint from objects.
        """
        if self._manifest is None or self._manifest.origin != "save":
            raise InvalidRequest(self.url, "another program wrote its files", "Pass `policies[id]`")
        paths = self.files_of(policy_id)
        top = "" if self.kind == "Policy" else names.policy_path(policy_id, "")
        assert isinstance(self._files, VerifiedFiles)
        return StoredPolicy(self._files, {path.removeprefix(top): path for path in paths})

    def base(self) -> layout.Base | None:
        """Itself as what a save may take files over from; None if it has no manifest."""
        return base_of(self._files) if isinstance(self._files, VerifiedFiles) else None

    def manifest_files(self) -> VerifiedFiles | None:
        """Its files as its manifest has them; None if it has none."""
        return self._files if isinstance(self._files, VerifiedFiles) else None

    def copy_items(self) -> tuple[list[layout.Item], bytes]:
        """Its files, verified as they are read, and its ``parts.json``: what a copy of it is made of."""
        assert isinstance(self._files, VerifiedFiles)
        return copy_items(self._files), self._files.parts_bytes()

    def _load_state(self, how: How = SAFELY) -> Any:
        self._note_load()
        return self._contents.state(how)

    def _load_policy(self, policy_id: str, how: How = SAFELY) -> Any:
        self._note_load()
        return self._contents.policy(policy_id, how)

    def _load_component(self, name: str, how: How = SAFELY) -> Any:
        self._note_load()
        return self._contents.component(name, how)

    def _lazy_components(self, how: How) -> Lazy:
        load = partial(self._load_component, how=how)
        return Lazy(lambda: self._contents.components, load, "components")

    def _note_load(self) -> None:
        if self._on_load:
            self._on_load(self)

    def _check_known(self, policy_ids: Iterable[str]) -> list[str]:
        if isinstance(policy_ids, str):
            raise InvalidRequest("policy_ids", f"{policy_ids!r} is of type str", "Pass a list or set of ids")
        wanted = list(dict.fromkeys(policy_ids))
        if unknown := [policy_id for policy_id in wanted if policy_id not in self.policies]:
            raise names.refuse_unknown_policies(self.url, unknown, self.policy_ids)
        return wanted

    def _sizes(self, policy_ids: Iterable[str]) -> int:
        paths = {names.STATE, *(path for name in policy_ids for path in self._contents.paths_of(name))}
        return sum(size for path, size in self._files.paths().items() if path in paths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and (self.url, self.id) == (other.url, other.id)

    def __hash__(self) -> int:
        return hash((self.url, self.id))

    def __repr__(self) -> str:
        about = f"{self.url} {self.kind} step={self.step} policies={len(self.policy_ids)}"
        return f"<Checkpoint {clean(about)}>"
