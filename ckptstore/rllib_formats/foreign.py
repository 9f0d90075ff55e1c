"""One checkpoint of RLlib's own, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound
from ckptstore.format import names
from ckptstore.printable import clean
from ckptstore.rllib_formats import model, versions
from ckptstore.rllib_formats.detect import Detected, detect
from ckptstore.rllib_formats.layouts import Want, layout
from ckptstore.rllib_formats.layouts.base import LEARNER_ONLY
from ckptstore.rllib_formats.migrations import chain
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.source import Source


def open(files: Mapping[str, int], read: Callable[[str], bytes]) -> ForeignCheckpoint:
    """The checkpoint in the directory that holds `files`, to be read lazily.

    `files` maps each path below the directory, ``/``-separated, to its size in bytes; `read` returns the
    whole content of one of them, and what it raises passes through. Reads the JSON at the top and nothing
    else.

    Raises UnreadableFormat for a directory that is not an RLlib checkpoint, or is newer than any known
    version; CheckpointCorrupt if a part is missing without which the rest means nothing.
    """
    source = Source(files, read)
    return ForeignCheckpoint(source, detect(source.files, source.json))


class ForeignCheckpoint:
    """What RLlib wrote, in the one model of ``docs/model.md``. Not thread-safe; nothing is ever written.

    Decoded state is kept, policies are not: ask once and keep the answer.
    """

    def __init__(self, source: Source, detected: Detected) -> None:
        self._detected = detected
        self._layout = layout(source, detected)
        self._state: dict[str, Any] | None = None
        self._notes = list(detected.notes)
        if detected.version != versions.NEWEST:
            text = f"from {detected.version} to {versions.NEWEST} in memory; the files are as they were"
            self._notes.append(Note("migrated", "checkpoint_version", text))

    def __repr__(self) -> str:
        return clean(f"<ForeignCheckpoint {self.kind} {self.version} of Ray {self.ray_version or 'unknown'}>")

    @property
    def kind(self) -> str:
        """Algorithm, Policy, LearnerGroup, Learner, MultiRLModule, RLModule, or Checkpointable (the rest)."""
        return self._detected.kind

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``, one of `versions.KNOWN`."""
        return self._detected.version

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it; empty where no file says."""
        return self._layout.ray_version

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of its policies or RLModules, sorted.

        May read one file the first time, where the JSON doesn't list them. Includes a policy whose files
        should be there but are missing: reading it raises CheckpointCorrupt, so that a loop over all never
        returns only some. A policy or module that was saved by itself is called "default_policy".
        """
        return self._layout.policy_ids

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was inferred, migrated, missing, skipped or contradictory so far; grows as parts are read."""
        return tuple(dict.fromkeys([*self._notes, *self._layout.notes]))

    def state(self) -> dict[str, Any]:
        """The algorithm's state: iteration, counters, config, filters and more. Kept after the first call.

        For a policy or module that was saved by itself every field is empty.
        """
        if self._state is None:
            raw = chain.upgrade(self._layout.algorithm(), self.version)
            self._state = model.state(raw)
            self._state["policy_ids"] = list(self.policy_ids)
        return self._state

    @property
    def components(self) -> tuple[str, ...]:
        """Names of its other parts with files of their own, neither algorithm nor policy, sorted.

        A module that only the Learner has, such as a curiosity model, is one: ``rl_module.<id>``, with what a
        policy has.
        """
        return self._layout.components

    def component(self, name: str) -> Any:
        """What the files of the component `name` hold. CheckpointNotFound, listing all, if there is none."""
        if name not in self.components:
            known = ", ".join(map(repr, self.components)) or "none"
            raise CheckpointNotFound(
                "checkpoint directory", f"it holds no component {name!r}", f"It holds {known}"
            )
        module_id = name.removeprefix(LEARNER_ONLY)
        if name != module_id and module_id in self._layout.learner_only:
            return self._model_of(module_id, Want(optimizer=True, details=True))
        return self._layout.component(name)

    def policy(self, policy_id: str, *, optimizer: bool = True) -> dict[str, Any]:
        """Everything about one policy. Without its `optimizer` fewer bytes are read from 1.2 on.

        Raises CheckpointNotFound, listing all ids, for an unknown one; CheckpointCorrupt if its files are
        missing.
        """
        self._check_held(policy_id)
        return self._model_of(policy_id, Want(optimizer, details=True))

    def weights(self, policy_id: str) -> dict[str, Any]:
        """The weights of one policy, by their names in the live algorithm. Reads that policy only."""
        self._check_held(policy_id)
        raw = self._raw_policy(policy_id, Want(optimizer=False, details=False))
        return model.weights(raw.get("module_state"), self._layout.path_of(policy_id))

    def holds(self, policy_id: str) -> bool:
        """Whether `policy_id` is one of `policy_ids`. Reads nothing for a policy with a file of its own."""
        return policy_id in self._layout.written or policy_id in self.policy_ids

    def path_of(self, policy_id: str) -> str:
        """The file with the weights of the policy `policy_id`; in 0.1 all share one."""
        return self._layout.path_of(policy_id)

    def files_of(self, policy_id: str) -> list[str]:
        """Every file that belongs to the policy `policy_id` alone, sorted.

        Its state, the JSON beside it, exports of its model, and with a Learner its module and the optimizers
        that have files of their own. Empty in 0.1, where all policies share one file. Goes by names alone:
        nothing is read, and a policy that it doesn't hold (see `holds`) has no files.
        """
        return self._layout.files_of(policy_id)

    def _check_held(self, policy_id: str) -> None:
        if not self.holds(policy_id):
            reason = self._layout.absence(policy_id) or ""
            raise names.refuse_unknown_policies("checkpoint directory", [policy_id], self.policy_ids, reason)

    def _model_of(self, policy_id: str, want: Want) -> dict[str, Any]:
        return model.policy(self._raw_policy(policy_id, want), policy_id, self._layout.path_of(policy_id))

    def _raw_policy(self, policy_id: str, want: Want) -> dict[str, Any]:
        try:
            raw = self._layout.policy(policy_id, want)
        except CheckpointCorrupt as error:
            if error.what != self._layout.path_of(policy_id) or error.why != "the file is missing":
                raise
            raise CheckpointCorrupt(
                error.what,
                f"the checkpoint lists the policy {policy_id!r}, but its file is missing:"
                " a save or a copy was cut short",
                "Copy the directory again, or ask for the other policies by their ids",
            ) from error
        upgraded: dict[str, Any] = chain.upgrade(raw, self.version)["policies"][policy_id]
        return upgraded
