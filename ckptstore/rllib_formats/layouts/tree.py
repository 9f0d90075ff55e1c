"""2.0 and 2.1: a tree of components, each a directory with its state and its constructor's arguments."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ckptstore.errors import CheckpointCorrupt
from ckptstore.rllib_formats.detect import Sniffed
from ckptstore.rllib_formats.layouts.base import DEFAULT_ID, Raw, Want, owner
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import children, module_files, state_file
from ckptstore.rllib_formats.source import Source

_CTOR = "class_and_ctor_args.pkl"
_STATES = {"state.pkl", "state.msgpack"}


class Tree:
    """Reads an algorithm of the new API stack, or any component of one that was saved by itself."""

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self.source, self.sniffed = source, sniffed
        self.notes: list[Note] = []
        self.ray_version = sniffed.ray_version
        self._modules = (
            {} if sniffed.modules is None else module_files(source.files, sniffed.modules, sniffed.version)
        )
        parts = set(children(source.files, "")) - {"learner_group"} if sniffed.kind == "Algorithm" else set()
        parts = {name for name in parts if self._state_path(name)}
        self.components: tuple[str, ...] = tuple(
            sorted(parts | ({"learner"} if sniffed.learner is not None else set()))
        )

    @cached_property
    def _expected(self) -> frozenset[str]:
        """Ids of the modules that the MultiRLModule was made of."""
        if self.sniffed.modules is None:
            return frozenset()
        ctor = self._ctor(self.sniffed.modules)
        specs = ctor["kwargs"].get("rl_module_specs")
        if specs is None and ctor["args"]:  # up to Ray 2.37 one config object
            fields = getattr(ctor["args"][0], "state", None)
            specs = fields.get("modules") if isinstance(fields, dict) else None
        return frozenset(map(str, specs)) if isinstance(specs, dict) else frozenset()

    @property
    def written(self) -> frozenset[str]:
        return frozenset({DEFAULT_ID} if self.sniffed.kind == "RLModule" else self._modules)

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        # A module that is expected and not there stays listed: nobody may take the rest for the whole.
        return tuple(sorted(self.written | self._expected))

    def absence(self, policy_id: str) -> str | None:
        return None

    def path_of(self, policy_id: str) -> str:
        if self.sniffed.kind == "RLModule":
            return self.sniffed.state_file
        base = f"{self.sniffed.modules}/" if self.sniffed.modules else ""
        return self._modules.get(policy_id, f"{base}{policy_id}/module_state.pkl")

    def algorithm(self) -> Raw:
        if self.sniffed.kind in {"RLModule", "MultiRLModule"}:
            return {"algorithm": {}}
        document: Raw = {"ctor": self._ctor("")}
        if self.sniffed.kind == "Algorithm":
            document["algorithm_state"] = self.source.read_mapping(self.sniffed.state_file)
            document["env_runner"] = self._env_runner()
        return {"algorithm": document}

    def policy(self, policy_id: str, want: Want) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {"module_state": self.source.read_mapping(path)}
        if want.details:
            document["ctor"] = self._ctor(path.rpartition("/")[0])
        if want.optimizer and self.sniffed.learner is not None:
            found = self._learner.get("optimizer")
            found = found if isinstance(found, dict) else {}
            document["optimizer"] = {
                name: item for name, item in found.items() if self._module_of(name, item) == policy_id
            }
            if not document["optimizer"]:
                self.notes.append(Note("missing", "optimizer", f"the Learner has none for {policy_id!r}"))
        return {"policies": {policy_id: document}}

    def _module_of(self, name: str, item: Any) -> str | None:
        if isinstance(item, dict) and isinstance(item.get("module_id"), str):
            return str(item["module_id"])
        return owner(name, self.policy_ids)

    @cached_property
    def _learner(self) -> Raw:
        base = f"{self.sniffed.learner}/" if self.sniffed.learner else ""
        path = self._state_path(base.rstrip("/"))
        if path is None:
            raise CheckpointCorrupt(f"{base}state.pkl", "the Learner's state (its optimizers) is missing")
        return self.source.read_mapping(path)

    def component(self, name: str) -> Any:
        if name not in self.components:
            raise KeyError(name)
        if name == "learner":
            return {key: value for key, value in self._learner.items() if key != "optimizer"}
        return self._states(name)

    def _env_runner(self) -> Raw:
        if self._state_path("env_runner") is None:
            text = "no state of connectors and environment steps"
            self.notes.append(Note("missing", "env_runner", text))
            return {}
        states = self._states("env_runner")
        return {"state": states.pop(""), "connectors": states}

    def _states(self, directory: str) -> Raw:
        """States of a component and of all below it, by their path relative to it."""
        found = {}
        for path in sorted(self.source.files):
            inner, _, file = path.rpartition("/")
            if file in _STATES and f"{inner}/".startswith(f"{directory}/"):
                found[inner[len(directory) + 1 :]] = self.source.read_mapping(path)
        return found

    def _state_path(self, directory: str) -> str | None:
        stem = f"{directory}/state" if directory else "state"
        return state_file(self.source.files, stem, ("msgpack", "pkl"))

    def _ctor(self, directory: str) -> Raw:
        """What the component was constructed from. Its file is part of every component ever written."""
        path = f"{directory}/{_CTOR}" if directory else _CTOR
        document = self.source.read_mapping(path)
        pair = document.get("ctor_args_and_kwargs")
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], dict):
            self.notes.append(
                Note("skipped", path, "the constructor's arguments are not as RLlib writes them")
            )
            pair = ((), {})
        return {"class": document.get("class"), "args": tuple(pair[0] or ()), "kwargs": pair[1]}
