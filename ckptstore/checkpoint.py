"""One checkpoint, lazily: nothing is fetched before it is asked for, nothing is handed out unchecked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ckptstore import logs, names, plan
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    UnreadableFormat,
)
from ckptstore.failures import translated
from ckptstore.manifest import Manifest
from ckptstore.reading import Reader, VerifyReport, fetch_manifest
from ckptstore.writing import Progress, run_all


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

    def __init__(self, keys: Iterable[str], load: Callable[[str], Any], what: str) -> None:
        self._values: dict[str, Any] = {}
        self._keys = tuple(keys)
        self._load = load
        self._what = what

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        if key not in self._values:
            self._values[key] = self._load(key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<{self._what}: {', '.join(map(repr, self._keys[:8]))}{', ...' if len(self) > 8 else ''}>"


class Checkpoint:
    """One committed checkpoint. Made by a store or by `Checkpoint.open`; safe to use from threads."""

    committed = True
    """Whether a manifest vouches for it."""
    verified = True
    """Whether what it hands out is checked against digests."""

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        manifest: Manifest,
        *,
        skipped: Iterable[Skipped] = (),
        on_load: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._on_load = on_load
        self.manifest = manifest
        self.skipped = tuple(skipped)
        self._reader = Reader(backend, prefix, manifest, prefix or backend.url)
        self._state: Any = _UNSET
        self.policies: Mapping[str, Any] = Lazy(self.policy_ids, self._load_policy, "policies")
        self.components: Mapping[str, Any] = Lazy(self._component_names(), self._load_component, "components")

    @classmethod
    def open(
        cls, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """The checkpoint in the directory `url`, wherever it lies and whoever wrote it.

        Raises CheckpointNotFound if there is none, CheckpointCorrupt or UnreadableFormat if it can't
        be trusted or understood.
        """
        backend = open_backend(os.fspath(url), storage_options)
        manifest = fetch_manifest(backend, "", backend.url)
        if manifest is None:
            raise CheckpointNotFound(backend.url, "there is no committed checkpoint in this directory")
        return cls(backend, "", manifest)

    @property
    def id(self) -> str:
        """Identity of the save that made it."""
        return self.manifest.id

    @property
    def name(self) -> str:
        """Its directory's name, for example ``checkpoint_000100``."""
        return self._prefix or self._backend.url.rstrip("/").rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where it lies; holds no credentials."""
        return f"{self._backend.url.rstrip('/')}/{self._prefix}" if self._prefix else self._backend.url

    @property
    def step(self) -> int:
        """The training step (RLlib's iteration) it was saved at."""
        return self.manifest.step

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``, for example "1.1"."""
        return self.manifest.checkpoint_version

    @property
    def kind(self) -> str:
        """ "Algorithm", "Policy" or what else the manifest says it is."""
        return self.manifest.kind

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics given at save time."""
        return self.manifest.metrics

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels given at save time."""
        return self.manifest.labels

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies it holds; a policy alone goes by "default_policy"."""
        return self.manifest.policies

    @property
    def state(self) -> Any:
        """The algorithm state as plain data, decoded on first use and then kept."""
        if self._state is _UNSET:
            self._state = self._load_state()
        return self._state

    def weights(self, policy_id: str | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """The weights of one policy: parameter name to array. The id may be left out if there is one policy.

        Nested dicts and lists are flattened with ``/``. Raises CheckpointNotFound for an unknown id and
        UnreadableFormat if the policy holds no weights, or some that aren't arrays.
        """
        if policy_id is None:
            if len(self.policy_ids) != 1:
                raise InvalidRequest(self.name, f"it holds {len(self.policy_ids)} policies", self._known())
            policy_id = self.policy_ids[0]
        self._check_known([policy_id])
        state = self.policies[policy_id]
        found = state.get("weights", state) if isinstance(state, Mapping) else state
        flat: dict[str, np.ndarray[Any, Any]] = {}
        _flatten(found, "", flat, f"{self.name} policy {policy_id!r}")
        return flat

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
        with logs.timed("loaded", self.url) as done:
            state = self._load_state(trusted=trusted, mmap=mmap)
            loaded = run_all(
                lambda policy_id: self._load_policy(policy_id, trusted=trusted, mmap=mmap), wanted, 4
            )
            done(self._sizes(wanted))
        return AlgorithmState(state, dict(zip(wanted, loaded, strict=True)))

    def verify(self, *, progress: Progress | None = None) -> VerifyReport:
        """Read every byte and check it. Raises CheckpointCorrupt listing each file that is wrong."""
        report = self.check(progress=progress)
        if not report.ok:
            raise CheckpointCorrupt(self.url, "; ".join(report.problems))
        return report

    def check(self, *, progress: Progress | None = None) -> VerifyReport:
        """Like `verify`, but the problems are in the report."""
        now = fetch_manifest(self._backend, self._prefix, self.url)
        if now is None:
            raise CheckpointGone(self.url, "its manifest is not there any more")
        if now != self.manifest:
            return VerifyReport(self.url, 0, 0, (f"{names.MANIFEST}: it is another one than was opened",))
        return self._reader.verify(self.listing(), progress)

    def listing(self) -> dict[str, int]:
        """Every file in its directory now, and its size in bytes."""
        with translated(self.url):
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
        with translated(target):
            os.makedirs(target, mode=0o700, exist_ok=True)
            if os.listdir(target):
                raise InvalidRequest(target, "it isn't empty", "Name a new directory")
        with logs.timed("downloaded", self.url) as done:
            paths = list(self._reader.paths()) if wanted is None else self._subset_paths(wanted)
            run_all(lambda path: self._download_file(path, target, progress), paths, 8)
            if wanted is None:
                # Last, as everywhere: a copy cut short is no checkpoint.
                _write_file(os.path.join(target, names.PARTS), [self._reader.parts_bytes()])
                _write_file(os.path.join(target, names.MANIFEST), [self.manifest.dump()])
            elif self.kind == "Algorithm":
                _write_file(os.path.join(target, names.RLLIB_JSON), [plan.rllib_json("Algorithm", wanted)])
            done(sum(self._reader.paths()[path] for path in paths))
        return target

    @contextmanager
    def as_directory(self, *, policy_ids: Iterable[str] | None = None) -> Iterator[str]:
        """A real local directory with a copy of it, for RLlib or any other reader; removed at the end.

        Reading it with RLlib unpickles, which runs code: do that with checkpoints you trust.
        """
        with tempfile.TemporaryDirectory(prefix="ckptstore-", ignore_cleanup_errors=True) as parent:
            yield self.download(os.path.join(parent, self.name), policy_ids=policy_ids)

    def copy_items(self) -> tuple[list[plan.Item], bytes]:
        """Its files, verified as they are read, and its ``parts.json``: what a copy of it is made of."""

        def item(path: str) -> plan.Item:
            def emit(write: plan.Write) -> tuple[()]:
                for data in self._reader.stream(path):
                    write(data)
                return ()

            return plan.Item(path, emit)

        return [item(path) for path in self._reader.paths()], self._reader.parts_bytes()

    def _download_file(self, path: str, target: str, progress: Progress | None) -> None:
        def chunks() -> Iterator[bytes]:
            for data in self._reader.stream(path):
                yield data
                if progress is not None:
                    progress(len(data))

        _write_file(os.path.join(target, names.relative_path(path, self.name)), chunks())

    def _subset_paths(self, wanted: list[str]) -> list[str]:
        if self.manifest.origin != "save" and self.kind != "Algorithm":
            raise InvalidRequest(
                self.name, f"a {self.kind} can't be split by policy", "Leave out `policy_ids`"
            )
        keep = {names.policy_path(policy_id, "") for policy_id in wanted}
        return [
            path
            for path in self._reader.paths()
            if path != names.RLLIB_JSON
            and (not path.startswith(f"{names.POLICIES}/") or any(path.startswith(prefix) for prefix in keep))
        ]

    def _component_names(self) -> list[str]:
        prefix, suffix = f"{names.COMPONENTS}/", ".pkl"
        if self.manifest.origin != "save":
            return []
        return [
            file.path[len(prefix) : -len(suffix)]
            for file in self.manifest.files
            if file.path.startswith(prefix) and file.path.endswith(suffix)
        ]

    def _load_state(self, *, trusted: bool = False, mmap: bool = False) -> Any:
        return self._decode(names.POLICY_STATE if self.kind == "Policy" else names.STATE, trusted, mmap)

    def _load_policy(self, policy_id: str, *, trusted: bool = False, mmap: bool = False) -> Any:
        path = names.POLICY_STATE if self.kind == "Policy" else names.policy_path(policy_id)
        return self._decode(path, trusted, mmap)

    def _load_component(self, name: str) -> Any:
        return self._decode(names.component_path(name), False, False)

    def _decode(self, path: str, trusted: bool, mmap: bool) -> Any:
        if self.kind not in {"Algorithm", "Policy"}:
            raise UnreadableFormat(
                self.url, f"a {self.kind} holds files of another program", "Use as_directory() or download()"
            )
        if self._on_load is not None:
            self._on_load(self)
        return self._reader.decode(path, trusted, mmap)

    def _check_known(self, policy_ids: Iterable[str]) -> list[str]:
        if isinstance(policy_ids, str):
            raise InvalidRequest("policy_ids", f"{policy_ids!r} is a str", "Pass a list or set of ids")
        wanted = list(dict.fromkeys(policy_ids))
        unknown = [policy_id for policy_id in wanted if policy_id not in self.policy_ids]
        if unknown:
            raise CheckpointNotFound(self.name, f"it holds no policy {unknown[0]!r}", self._known())
        return wanted

    def _known(self) -> str:
        shown = ", ".join(map(repr, self.policy_ids[:20])) + (", ..." if len(self.policy_ids) > 20 else "")
        return f"It holds {len(self.policy_ids)}: {shown}" if self.policy_ids else "It holds none"

    def _sizes(self, policy_ids: Iterable[str]) -> int:
        sizes = self._reader.paths()
        if self.kind == "Policy":
            return sizes.get(names.POLICY_STATE, 0)
        return sizes.get(names.STATE, 0) + sum(sizes.get(names.policy_path(name), 0) for name in policy_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and (self.url, self.id) == (other.url, other.id)

    def __hash__(self) -> int:
        return hash((self.url, self.id))

    def __repr__(self) -> str:
        return f"<Checkpoint {self.url} {self.kind} step={self.step} policies={len(self.policy_ids)}>"


_UNSET: Any = object()


def _write_file(path: str, chunks: Iterable[bytes]) -> None:
    with translated(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)


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
