"""One checkpoint of RLlib's own, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound
from ckptstore.rllib_formats import migrations, model
from ckptstore.rllib_formats.detect import Sniffed, sniff
from ckptstore.rllib_formats.layouts import Want, layout
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.source import Source


def open(files: Mapping[str, int], read: Callable[[str], bytes]) -> ForeignCheckpoint:
    """Say what the directory holding `files` is, and make it readable.

    `files` maps each path below the directory, ``/``-separated, to its size in bytes; `read` returns the
    whole content of one of them and may raise what it likes, which passes through. Reads the JSON at the
    top, nothing else.

    Raises UnreadableFormat for what is no RLlib checkpoint or newer than any known, CheckpointCorrupt if
    a part is missing without which the rest means nothing.
    """
    source = Source(files, read)
    return ForeignCheckpoint(source, sniff(source.files, source.json))


class ForeignCheckpoint:
    """What RLlib wrote, in the one model of `docs/model.md`. Not thread-safe; nothing is ever written.

    Decoded state is kept, policies are not: ask once and hold on to the answer.
    """

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self._sniffed = sniffed
        self._layout = layout(source, sniffed)
        self._state: dict[str, Any] | None = None
        self._notes = list(sniffed.notes)
        if sniffed.version != migrations.NEWEST:
            text = f"from {sniffed.version} to {migrations.NEWEST} in memory; the files are as they were"
            self._notes.append(Note("migrated", "checkpoint_version", text))

    def __repr__(self) -> str:
        return f"<ForeignCheckpoint {self.kind} {self.version} of Ray {self.ray_version or 'unknown'}>"

    @property
    def kind(self) -> str:
        """Algorithm, Policy, LearnerGroup, Learner, MultiRLModule, RLModule, or Checkpointable (the rest)."""
        return self._sniffed.kind

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``, from "0.1" to "2.1"."""
        return self._sniffed.version

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it; empty where the files don't tell."""
        return self._layout.ray_version

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of the policies (or RLModules) that belong to it, sorted.

        May read one file the first time, where the JSON doesn't list them. Includes a policy whose files
        are missing although they should be there: reading that one raises CheckpointCorrupt, so that a
        loop over all never ends with a part. A policy or module that was saved by itself is called
        "default_policy".
        """
        return self._layout.policy_ids

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was inferred, migrated, missing, skipped or contradictory so far; grows as parts are read."""
        return tuple(dict.fromkeys([*self._notes, *self._layout.notes]))

    def state(self) -> dict[str, Any]:
        """The algorithm's state: iteration, counters, config, filters and more. Kept after the first call.

        Of what is no algorithm (a policy or module saved by itself) every field is empty.
        """
        if self._state is None:
            raw = migrations.upgrade(self._layout.algorithm(), self.version)
            self._state = model.state(raw)
            self._state["policy_ids"] = list(self.policy_ids)
        return self._state

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts with files of their own that are neither the algorithm nor a policy, sorted."""
        return self._layout.components

    def component(self, name: str) -> Any:
        """What the files of the component `name` hold; CheckpointNotFound lists the known ones."""
        if name not in self.components:
            known = ", ".join(map(repr, self.components)) or "none"
            raise CheckpointNotFound(
                f"component {name!r}", "the checkpoint has none of that name", f"It has: {known}"
            )
        return self._layout.component(name)

    def policy(self, policy_id: str, *, optimizer: bool = True) -> dict[str, Any]:
        """Everything about one policy. Without its `optimizer` fewer bytes are read from 1.2 on.

        Raises CheckpointNotFound listing the known ids, or CheckpointCorrupt if its files are missing.
        """
        raw = self._raw_policy(policy_id, Want(optimizer, details=True))
        return model.policy(raw, policy_id, self._layout.path_of(policy_id))

    def weights(self, policy_id: str) -> dict[str, Any]:
        """Name to array of one policy, as the live algorithm has them. Reads that policy only."""
        raw = self._raw_policy(policy_id, Want(optimizer=False, details=False))
        return model.weights(raw.get("module_state"), self._layout.path_of(policy_id))

    def holds(self, policy_id: str) -> bool:
        """Whether `policy_id` is one of `policy_ids`; for one that has a file, without reading any."""
        return policy_id in self._layout.written or policy_id in self.policy_ids

    def path_of(self, policy_id: str) -> str:
        """The file with the weights of the policy `policy_id`. Where all share one file, that."""
        return self._layout.path_of(policy_id)

    def _raw_policy(self, policy_id: str, want: Want) -> dict[str, Any]:
        if not self.holds(policy_id):
            why = self._layout.absence(policy_id) or "the checkpoint has no such policy"
            known = ", ".join(map(repr, self.policy_ids[:20])) or "none"
            raise CheckpointNotFound(f"policy {policy_id!r}", why, f"It has: {known}")
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
        upgraded: dict[str, Any] = migrations.upgrade(raw, self.version)["policies"][policy_id]
        return upgraded
