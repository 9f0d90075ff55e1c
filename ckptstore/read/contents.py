"""What a checkpoint's files mean, by who laid them out: ckptstore itself, RLlib, or another program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ckptstore.errors import CheckpointError, InvalidRequest, UnreadableFormat
from ckptstore.format import names
from ckptstore.format.manifest import DIRECTORY, Manifest
from ckptstore.format.marks import is_only_called_so
from ckptstore.logs import logger
from ckptstore.read.files import Files
from ckptstore.read.how import SAFELY, How
from ckptstore.read.reader import Fill, VerifiedFiles
from ckptstore.rllib_formats.notes import Note
from ckptstore.work import Lock

Weights = dict[str, np.ndarray[Any, Any]]


class Contents(Protocol):
    """Turns files into objects. Knows nothing of where they lie."""

    @property
    def kind(self) -> str:
        """What a manifest calls it."""

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``."""

    @property
    def format(self) -> str:
        """What another trainer's files are in, or RLlib's name of the encoding; empty where nothing tells."""

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it, empty where nothing tells."""

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies; may have to decode something to know them."""

    def step(self) -> int:
        """The training step that the files state; -1 where they don't."""

    def holds(self, policy_id: str) -> bool:
        """Whether it is one of `policy_ids`, found out with as little reading as possible."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components."""

    def state(self, how: How = SAFELY) -> Any:
        """The algorithm state."""

    def policy(self, policy_id: str, how: How = SAFELY) -> Any:
        """One policy."""

    def component(self, name: str, how: How = SAFELY) -> Any:
        """One component."""

    def weights(self, policy_id: str) -> Any:
        """One policy's weights, however nested."""

    def outline(self, policy_id: str) -> tuple[Any, Fill]:
        """Like `weights`, without the data of large arrays, and what fetches them: see `VerifiedFiles`."""

    def paths_of(self, policy_id: str) -> list[str]:
        """The files that `policy` would read."""

    def files_of(self, policy_id: str) -> list[str]:
        """Every file of this policy, exported models included; where all share one file, that one."""

    def notes(self) -> tuple[Note, ...]:
        """What was inferred, migrated, missing or skipped so far."""


class SavedContents:
    """What `CheckpointStore.save` wrote: everything comes back as it was given."""

    def __init__(self, manifest: Manifest, reader: VerifiedFiles) -> None:
        self._reader = reader
        self.kind = manifest.kind
        self.version = manifest.checkpoint_version
        self.format = manifest.format
        self._step = manifest.step
        self.ray_version = manifest.writer.get("ray", "")
        self.policy_ids = manifest.policies
        prefix, suffix = f"{names.COMPONENTS}/", ".pkl"
        self.components = tuple(
            file.path[len(prefix) : -len(suffix)] for file in manifest.files if file.path.startswith(prefix)
        )

    def step(self) -> int:
        """See `Contents`."""
        return self._step

    def holds(self, policy_id: str) -> bool:
        """See `Contents`."""
        return policy_id in self.policy_ids

    def state(self, how: How = SAFELY) -> Any:
        """See `Contents`; a policy alone is its own state."""
        return self._reader.decode(names.POLICY_STATE if self._alone else names.STATE, how)

    def policy(self, policy_id: str, how: How = SAFELY) -> Any:
        """See `Contents`."""
        return self._reader.decode(self.paths_of(policy_id)[0], how)

    def component(self, name: str, how: How = SAFELY) -> Any:
        """See `Contents`."""
        return self._reader.decode(names.component_path(name), how)

    def weights(self, policy_id: str) -> Any:
        """The policy's "weights" where it is a dict that has them, else all of it."""
        return _weights(self.policy(policy_id))

    def outline(self, policy_id: str) -> tuple[Any, Fill]:
        """See `Contents`."""
        state, fill = self._reader.outline(self.paths_of(policy_id)[0])
        return _weights(state), fill

    def entry(self, name: str) -> tuple[Mapping[Any, Any], Fill] | None:
        """The dict at `name` in the state, as `outline` has it; None if there is none."""
        if self._alone:
            return None
        state, fill = self._reader.outline(names.STATE)
        held = state.get(name) if isinstance(state, Mapping) else None
        return (held, fill) if isinstance(held, Mapping) else None

    def paths_of(self, policy_id: str) -> list[str]:
        """See `Contents`."""
        return [names.POLICY_STATE if self._alone else names.policy_path(policy_id)]

    def files_of(self, policy_id: str) -> list[str]:
        """See `Contents`."""
        below = "" if self._alone else names.policy_path(policy_id, "")
        return [path for path in self._reader.paths() if path.startswith(below)]

    def notes(self) -> tuple[Note, ...]:
        """Nothing: what was saved is what is read."""
        return ()

    @property
    def _alone(self) -> bool:
        return self.kind == "Policy"


def _weights(state: Any) -> Any:
    return state.get("weights", state) if isinstance(state, Mapping) else state


class RllibContents:
    """What RLlib wrote, of whatever release, in the one model of ``docs/model.md``."""

    format = ""

    def __init__(self, files: Files) -> None:
        from ckptstore.rllib_formats import foreign  # here, as our own checkpoints don't need it

        self._label = files.label
        self._lock = Lock()
        with self._translate_errors():
            self._foreign = foreign.open(files.paths(), files.read)

    @property
    def kind(self) -> str:
        """See `Contents`."""
        return self._foreign.kind

    @property
    def version(self) -> str:
        """See `Contents`."""
        return self._foreign.version

    @property
    def ray_version(self) -> str:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.ray_version

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.policy_ids

    def step(self) -> int:
        """See `Contents`: the iteration."""
        iteration = self.state().get("iteration")
        return iteration if isinstance(iteration, int) else -1

    def holds(self, policy_id: str) -> bool:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.holds(policy_id)

    @property
    def components(self) -> tuple[str, ...]:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.components

    def state(self, how: How = SAFELY) -> Any:
        """See `Contents`."""
        self._check(how)
        with self._translate_errors():
            return self._foreign.state()

    def policy(self, policy_id: str, how: How = SAFELY) -> Any:
        """See `Contents`."""
        self._check(how)
        with self._translate_errors():
            return self._foreign.policy(policy_id)

    def component(self, name: str, how: How = SAFELY) -> Any:
        """See `Contents`."""
        self._check(how)
        with self._translate_errors():
            return self._foreign.component(name)

    def weights(self, policy_id: str) -> Any:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.weights(policy_id)

    def outline(self, policy_id: str) -> tuple[Any, Fill]:
        """See `Contents`: with nothing missing."""
        return self.weights(policy_id), lambda arrays: True

    def paths_of(self, policy_id: str) -> list[str]:
        """The file with its weights; what else belongs to it is known once that is read."""
        with self._translate_errors():
            return [self._foreign.path_of(policy_id)]

    def files_of(self, policy_id: str) -> list[str]:
        """See `Contents`."""
        with self._translate_errors():
            return self._foreign.files_of(policy_id) or [self._foreign.path_of(policy_id)]

    def notes(self) -> tuple[Note, ...]:
        """See `Contents`."""
        return self._foreign.notes

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """One thread at a time; and errors name the file in full, not only its path in the checkpoint."""
        with self._lock:
            try:
                yield
            except CheckpointError as error:
                if error.what.startswith(self._label):
                    raise
                whole = error.what == "checkpoint directory"
                what = self._label if whole else f"{self._label}/{error.what}"
                raise type(error)(what, error.why, error.remedy) from error

    def _check(self, how: How) -> None:
        if how.tensors is not None:
            raise InvalidRequest(
                "tensors='torch'",
                "what RLlib wrote is read as arrays",
                "Use torch.from_numpy on them",
            )
        if how.classes is not None:
            raise InvalidRequest("classes", "what RLlib wrote is read as data only", "Leave them out")
        if how.trusted:
            raise InvalidRequest(
                "trusted=True",
                "what RLlib wrote is read as data only",
                "Open as_directory() with RLlib itself",
            )


def contents_of(manifest: Manifest | None, files: Files) -> Contents:
    """What the files of a checkpoint mean; `manifest` is None for a directory that ckptstore didn't commit.

    Raises UnreadableFormat, or what reading the files raises.
    """
    if manifest is None:
        try:
            return RllibContents(files)
        except UnreadableFormat as error:
            from ckptstore.read.trainers import open_trainers  # here, as few checkpoints need it

            return open_trainers(files, error)
    if manifest.origin == "save":
        assert isinstance(files, VerifiedFiles)
        return SavedContents(manifest, files)
    if manifest.kind != DIRECTORY:
        return RllibContents(files)
    from ckptstore.read.trainers import TrainerContents  # as above

    return TrainerContents(files)


class Description(NamedTuple):
    """What a manifest says of files that another program wrote."""

    kind: str
    policy_ids: tuple[str, ...]
    version: str


def describe(files: Files) -> Description:
    """What files about to be committed are: RLlib's, or unknown. May read some of them."""
    if is_only_called_so(files.paths()):
        return Description(DIRECTORY, (), "")
    found: Contents
    try:
        found = RllibContents(files)
        return Description(found.kind, found.policy_ids, found.version)
    except UnreadableFormat:
        pass
    except CheckpointError as error:
        logger.warning("committed as plain files, for what looks like RLlib's is damaged: %s", error)
    return Description(DIRECTORY, (), "")
