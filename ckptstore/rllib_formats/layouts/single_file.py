"""Everything in one pickle, whose ``worker`` is a pickle again: version 0.1."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.detect import Detected
from ckptstore.rllib_formats.layouts.base import Raw, Want, tune_metadata
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.source import Source

_BY_ID = ("state", "policy_specs", "filters")  # parts of a worker that are dicts by policy id


class SingleFile:
    """Reads the one file once and cuts the policies out of it."""

    learner_only: frozenset[str] = frozenset()

    def __init__(self, source: Source, detected: Detected) -> None:
        self.source, self.detected = source, detected
        self.notes: list[Note] = []
        self.components: tuple[str, ...] = ()

    @cached_property
    def _algorithm(self) -> Raw:
        path = self.detected.state_file
        document = self.source.read_mapping(path)
        if isinstance(document.get("worker"), bytes):
            document["worker"] = self.source.decode_nested(path, "worker", document["worker"])
        if "worker" not in document and "episodes_so_far" in document and "weights" in document:
            document["worker"] = {"state": {}}  # ES and ARS: one vector, and no policies
        worker = document.get("worker")
        if isinstance(worker, dict):
            document["worker"] = worker = _with_text_ids(worker)
        states = worker.get("state") if isinstance(worker, dict) else None
        if not isinstance(states, dict) or not all(isinstance(policy_id, str) for policy_id in states):
            raise UnreadableFormat(
                path, "it holds no policies, as every checkpoint of an RLlib algorithm does"
            )
        return document

    @cached_property
    def _tune(self) -> Raw:
        return tune_metadata(self.source, self.detected.state_file)

    @property
    def ray_version(self) -> str:
        found = self._tune.get("ray_version")
        return found if isinstance(found, str) else ""

    @property
    def written(self) -> frozenset[str]:
        return frozenset(self._algorithm["worker"]["state"])

    @property
    def policy_ids(self) -> tuple[str, ...]:
        return tuple(sorted(self.written))

    def algorithm(self) -> Raw:
        return {"algorithm": self._algorithm, "tune_metadata": self._tune}

    def policy(self, policy_id: str, want: Want) -> Raw:
        # The migration from 0.1 splits the worker by policy, so it is given a worker with this one alone.
        worker = self._algorithm["worker"]
        one: Raw = {"algorithm": {"worker": {**worker, "state": {policy_id: worker["state"][policy_id]}}}}
        return {**one, "tune_metadata": self._tune} if want.details else one

    def component(self, name: str) -> Any:
        raise KeyError(name)

    def path_of(self, policy_id: str) -> str:
        return self.detected.state_file

    def files_of(self, policy_id: str) -> list[str]:
        return []  # even an only policy shares its file with the algorithm

    def absence(self, policy_id: str) -> str | None:
        return None


def _with_text_ids(worker: Raw) -> Raw:
    """`worker` with text for ids that are numbers, which Ray 1.x accepted."""
    ids = worker.get("state")
    if not isinstance(ids, dict) or all(type(policy_id) is not int for policy_id in ids):
        return worker
    if len({str(policy_id) for policy_id in ids}) < len(ids):
        return worker  # it has both 1 and "1", which no text tells apart
    return {key: _text_keys(item) if key in _BY_ID else item for key, item in worker.items()}


def _text_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(key) if type(key) is int else key: item for key, item in value.items()}
