"""A tree of components, each with its state and its constructor's arguments: versions 2.0 and 2.1."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ckptstore.errors import CheckpointCorrupt
from ckptstore.format import names
from ckptstore.rllib_formats import pipelines
from ckptstore.rllib_formats.detect import Detected
from ckptstore.rllib_formats.layouts.base import LEARNER_ONLY, Raw, Want, owner, read_constructor
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import (
    COMPONENT_EXTENSIONS,
    CTOR,
    children,
    files_below,
    join,
    state_file,
)
from ckptstore.rllib_formats.source import Source
from ckptstore.rllib_formats.weight_files import module_files

_STATES = {f"state.{extension}" for extension in COMPONENT_EXTENSIONS}


class Tree:
    """Reads an algorithm of the new API stack, or any component of one that was saved by itself."""

    def __init__(self, source: Source, detected: Detected) -> None:
        self.source, self.detected = source, detected
        self.notes: list[Note] = []
        self.ray_version = detected.ray_version
        self._modules = module_files(source.files, detected.modules, detected.version)

    @cached_property
    def components(self) -> tuple[str, ...]:
        parts = {"learner"} if self.detected.learner is not None else set()
        if self.detected.kind == "Algorithm":
            top = set(children(self.source.files, "")) - {"learner_group"}
            parts |= {name for name in top if self._state_path(name)}
        return tuple(sorted([*parts, *(LEARNER_ONLY + module_id for module_id in self.learner_only)]))

    @cached_property
    def _specs(self) -> dict[str, Any]:
        """What the MultiRLModule was constructed with, by the modules' ids."""
        if self.detected.modules is None:
            return {}
        ctor = self._ctor(self.detected.modules)
        specs = ctor["kwargs"].get("rl_module_specs")
        if specs is None and ctor["args"]:  # up to Ray 2.37 one config object
            fields = getattr(ctor["args"][0], "state", None)
            specs = fields.get("modules") if isinstance(fields, dict) else None
        return {str(name): spec for name, spec in specs.items()} if isinstance(specs, dict) else {}

    @property
    def _expected(self) -> frozenset[str]:
        return frozenset(self._specs)

    @cached_property
    def learner_only(self) -> frozenset[str]:
        # Only the specs say so. One module alone acts: nothing is read to find that out.
        fields = (
            {}
            if len(self._modules) < 2
            else {name: getattr(spec, "state", None) for name, spec in self._specs.items()}
        )
        return frozenset(
            name
            for name, item in fields.items()
            if isinstance(item, dict) and item.get("learner_only") is True
        )

    @cached_property
    def written(self) -> frozenset[str]:
        if self.detected.kind == "RLModule":
            return frozenset({names.DEFAULT_POLICY})
        return frozenset(self._modules) - self.learner_only

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        # A module that is expected but missing stays listed, or the rest would pass for the whole.
        expected = self._expected.difference(self.detected.left_out, self.learner_only)
        return tuple(sorted(self.written | expected))

    def absence(self, policy_id: str) -> str | None:
        if policy_id in self.learner_only:
            return f"only the Learner has this module, which is the component {LEARNER_ONLY + policy_id!r}"
        return None

    def path_of(self, policy_id: str) -> str:
        if self.detected.kind == "RLModule":
            return self.detected.state_file
        directory = join(self.detected.modules or "", policy_id)
        return self._modules.get(policy_id, f"{directory}/module_state.pkl")

    def files_of(self, policy_id: str) -> list[str]:
        if self.detected.kind == "RLModule":
            return sorted(self.source.files)
        modules = self.detected.modules
        return [] if modules is None else files_below(self.source.files, join(modules, policy_id))

    def algorithm(self) -> Raw:
        if self.detected.kind in {"RLModule", "MultiRLModule"}:
            return {"algorithm": {}}
        document: Raw = {"ctor": self._ctor("")}
        if self.detected.kind == "Algorithm":
            document["algorithm_state"] = self.source.read_mapping(self.detected.state_file)
            document["env_runner"] = self._env_runner()
        return {"algorithm": document}

    def policy(self, policy_id: str, want: Want) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {"module_state": self.source.read_mapping(path)}
        if want.details:
            document["ctor"] = self._ctor(path.rpartition("/")[0])
            if policy_id in self.learner_only:
                kwargs = {**document["ctor"]["kwargs"], "learner_only": True}
                document["ctor"] = {**document["ctor"], "kwargs": kwargs}
        if want.optimizer and self.detected.learner is not None:
            found = self._learner.get("optimizer")
            found = found if isinstance(found, dict) else {}
            document["optimizer"] = {
                name: item for name, item in found.items() if self._module_of(name, item) == policy_id
            }
            if not document["optimizer"] and document["module_state"]:  # nothing to optimize, else
                self.notes.append(Note("missing", "optimizer", f"the Learner has none for {policy_id!r}"))
        return {"policies": {policy_id: document}}

    def _module_of(self, name: str, item: Any) -> str | None:
        if isinstance(item, dict) and isinstance(item.get("module_id"), str):
            return str(item["module_id"])
        return owner(name, {*self.policy_ids, *self.learner_only})

    @cached_property
    def _learner(self) -> Raw:
        directory = self.detected.learner or ""
        path = self._state_path(directory)
        if path is None:
            why = "it is missing, and it holds the Learner's state and its optimizers"
            raise CheckpointCorrupt(join(directory, "state.pkl"), why)
        return self.source.read_mapping(path)

    def component(self, name: str) -> Any:
        if name not in self.components:
            raise KeyError(name)
        if name == "learner":
            return {key: value for key, value in self._learner.items() if key != "optimizer"}
        return self._states(name)

    def _env_runner(self) -> Raw:
        if self._state_path("env_runner") is not None:
            states = self._states("env_runner")
            return {"state": states.pop(""), "connectors": states, **self._pipelines("env_runner")}
        # An algorithm without a local env runner keeps the pipelines itself.
        own = {
            join(slot, path) if path else slot: state
            for slot in pipelines.SLOTS
            for path, state in self._states(slot).items()
            if slot in self.components
        }
        if own:
            return {"connectors": own, **self._pipelines("")}
        text = "no state of connectors and no count of environment steps"
        self.notes.append(Note("missing", "env_runner", text))
        return {}

    def _pipelines(self, directory: str) -> Raw:
        """The connectors of both pipelines that aren't RLlib's defaults, by class and arguments.

        Arguments that no file has are None. A pipeline without any file isn't there.
        """
        found: Raw = {}
        for slot in pipelines.SLOTS:
            where = join(directory, slot)
            if join(where, CTOR) not in self.source.files:
                continue
            given = pipelines.list_connectors(self._ctor(where)["kwargs"])
            if given is not None:
                found[slot] = [
                    {"class": kind, "args": args, "kwargs": kwargs} for kind, args, kwargs in given
                ]
                continue
            # Up to Ray 2.43 the names of the directories tell, but not the order.
            inner = [join(where, name) for name in children(self.source.files, where)]
            found[slot] = [
                {"class": self._ctor(path)["class"], "args": None, "kwargs": None}
                for path in inner
                if not pipelines.is_default(path.rpartition("/")[2]) and join(path, CTOR) in self.source.files
            ]
        return {"pipelines": found}

    def _states(self, directory: str) -> Raw:
        """States of a component and of all below it, by their paths relative to it."""
        found = {}
        for path in sorted(self.source.files):
            inner, _, file = path.rpartition("/")
            if file in _STATES and f"{inner}/".startswith(f"{directory}/"):
                found[inner[len(directory) + 1 :]] = self.source.read_mapping(path)
        return found

    def _state_path(self, directory: str) -> str | None:
        return state_file(self.source.files, join(directory, "state"), COMPONENT_EXTENSIONS)

    def _ctor(self, directory: str) -> Raw:
        """What the component was constructed from; every component has a file for it."""
        return read_constructor(self.source, join(directory, CTOR), self.notes)
