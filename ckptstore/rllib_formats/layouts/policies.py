"""1.0, 1.1 and 1.2: a file for the algorithm, one per policy, from 1.2 on a Learner beside them.

Ray 2.5 to 2.32 let the Learner write JSON and torch files of its own, 2.33 to 2.37 a tree of components;
some of the former wrote no policies at all, and then the Learner's modules are the policies.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.rllib_formats.detect import Sniffed
from ckptstore.rllib_formats.layouts.base import DEFAULT_ID, Raw, Want, owner, tune_metadata
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import below, children, module_files, state_file
from ckptstore.rllib_formats.source import Source

_ALONE = {"Policy", "RLModule"}
_BESIDE = "components/"  # where ckptstore keeps what RLlib's tree has no place for


class Policies:
    """Reads an algorithm, a policy, or what a Learner of that time saved by itself."""

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self.source, self.sniffed = source, sniffed
        self.notes: list[Note] = []
        self.ray_version = sniffed.ray_version
        self._modules = {} if sniffed.modules is None else module_files(source.files, sniffed.modules, "2.0")
        beside = {path[len(_BESIDE) : -len(".pkl")]: path for path in source.files if _is_beside(path)}
        self._beside = beside if sniffed.kind == "Algorithm" else {}
        learner = {"learner"} if self._learner_state is not None else set()
        self.components: tuple[str, ...] = tuple(sorted(learner | self._beside.keys()))

    @cached_property
    def _algorithm(self) -> Raw:
        return self.source.read_mapping(self.sniffed.state_file) if self.sniffed.kind == "Algorithm" else {}

    @cached_property
    def written(self) -> frozenset[str]:
        if self.sniffed.kind in _ALONE:
            return frozenset({DEFAULT_ID})
        return frozenset(self.sniffed.policy_files or self._modules)

    @cached_property
    def _mentioned(self) -> frozenset[str]:
        """Ids the algorithm's state tells; some releases list in the JSON only what they wrote."""
        worker = self._algorithm.get("worker")
        ids = worker.get("policy_ids") if isinstance(worker, dict) else None
        return frozenset(map(str, ids)) if isinstance(ids, (list, tuple, set, frozenset)) else frozenset()

    @cached_property
    def _elsewise(self) -> frozenset[str]:
        """Modules the Learner kept in another form than torch's."""
        base = self.sniffed.modules
        names = [] if base is None else children(self.source.files, base)
        prefix = f"{base}/" if base else ""
        kept = [name for name in names if below(self.source.files, f"{prefix}{name}/module_state")]
        return frozenset(kept) - self._modules.keys()

    @cached_property
    def _trainable_only(self) -> bool:
        config = self._algorithm.get("config")
        fields = config.state if isinstance(config, Opaque) else config
        return isinstance(fields, dict) and fields.get("checkpoint_trainable_policies_only") is True

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        # The JSON's list is at hand; only where it is missing the state is read for its own.
        listed = frozenset(self.sniffed.listed)
        if not listed and self.sniffed.policy_files:
            listed = self._mentioned
        if not self.sniffed.policy_files:
            listed |= self._elsewise
        absent = listed - self.written
        if absent and self._trainable_only:
            self._note_untrained(absent)
            return tuple(sorted(self.written))
        return tuple(sorted(self.written | absent))

    def _note_untrained(self, absent: frozenset[str]) -> None:
        for policy_id in sorted(absent):
            self.notes.append(Note("absent", f"policies/{policy_id}", "never written: it is not trained"))

    def absence(self, policy_id: str) -> str | None:
        if policy_id in self._mentioned | set(self.sniffed.listed) and self._trainable_only:
            return "it was never written: this algorithm saves only the policies it trains"
        return None

    def algorithm(self) -> Raw:
        if self.sniffed.kind != "Algorithm":
            return {"algorithm": {}}
        unlisted = self._mentioned - set(self.policy_ids) if self.sniffed.policy_files else frozenset()
        if unlisted and not self._trainable_only:
            missing = sorted(unlisted)[0]
            raise CheckpointCorrupt(
                self.path_of(missing),
                f"the algorithm has a policy {missing!r}, but its file is missing",
                "Copy the directory again; the other policies can still be read one by one",
            )
        self._note_untrained(unlisted)
        tune = tune_metadata(self.source, self.sniffed.state_file)
        return {"algorithm": self._algorithm, "tune_metadata": tune}

    def path_of(self, policy_id: str) -> str:
        if self.sniffed.kind in _ALONE:
            return self.sniffed.state_file
        files = self.sniffed.policy_files or self._modules
        return files.get(policy_id, f"policies/{policy_id}/policy_state.pkl")

    def policy(self, policy_id: str, want: Want) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {}
        module: Any = None
        if self.sniffed.kind == "RLModule":
            module = self.source.read_mapping(path)
        else:
            if self.sniffed.kind == "Policy" or self.sniffed.policy_files:
                document = self.source.read_mapping(path)
                if "weights" not in document:
                    raise UnreadableFormat(path, "it holds no weights: not the state of an RLlib policy")
            if self.sniffed.modules is not None:
                module = self._module(policy_id)
        if module is None and "weights" not in document:
            raise UnreadableFormat(
                f"{self.sniffed.modules}/{policy_id}",
                "its weights are in a form of TensorFlow's, and there is no other copy of them",
                "Open it with the Ray that wrote it, and save the policy by itself",
            )
        if module is not None:
            named = self._optimizer(policy_id) if want.optimizer else {}
            document["learner_state"] = {"module_state": module, "optimizer": named}
            if "weights" in document:
                self._compare(policy_id, document["weights"], module)
            elif want.details:
                document["policy_spec"] = self._spec(path)
        return {"policies": {policy_id: document}}

    def _module(self, policy_id: str) -> Any:
        path = self._modules.get(policy_id)
        if path is not None:
            return self.source.read_mapping(path)
        where = f"{self.sniffed.modules}/{policy_id}"
        if any(name.startswith(f"{where}/module_state") for name in self.source.files):
            self.notes.append(Note("skipped", where, "the Learner's module is not in torch's format"))
        else:
            self.notes.append(Note("missing", where, "the Learner has no such module"))
        return None

    @cached_property
    def _learner_state(self) -> str | None:
        """The file with the state of the Learner, in the layout that has one."""
        root = self.sniffed.learner
        if root is None:
            return None
        return state_file(self.source.files, f"{root}/state" if root else "state", ("msgpack", "pkl"))

    @cached_property
    def _learner(self) -> Raw:
        return self.source.read_mapping(self._learner_state) if self._learner_state is not None else {}

    def component(self, name: str) -> Any:
        if name not in self.components:
            raise KeyError(name)
        if name in self._beside:
            return self.source.value(self._beside[name])
        return {key: value for key, value in self._learner.items() if key != "optimizer"}

    def _optimizer(self, policy_id: str) -> Raw:
        """Named optimizers of the module: one file each, or one state for all of the Learner."""
        folder = f"{self.sniffed.learner}/optimizer_state/" if self.sniffed.learner else "optimizer_state/"
        paths = {
            path[len(folder) :].removesuffix(".pt"): path
            for path in sorted(self.source.files)
            if path.startswith(folder) and path.endswith(".pt")
        }
        found = paths or self._learner.get("optimizer")
        mine = {
            name: self.source.read_mapping(item) if paths else item
            for name, item in (found.items() if isinstance(found, dict) else ())
            if owner(name, self._modules) == policy_id
        }
        if not mine:
            text = f"no optimizer of {policy_id!r}, or not in torch's format"
            self.notes.append(Note("missing", folder.rstrip("/"), text))
        return mine

    def _compare(self, policy_id: str, worker: Any, learner: Any) -> None:
        """Both sides keep the weights, and RLlib has restored one and gone on training with the other."""
        if not isinstance(worker, dict) or not isinstance(learner, dict):
            return
        common = sorted(str(name) for name in worker.keys() & learner.keys())
        different = [name for name in common if not _equal(worker.get(name), learner.get(name))]
        if different or not common:
            what = ", ".join(different[:3]) or "no name in common"
            text = f"the Learner's weights differ from the policy's ({what}): the policy's are returned"
            self.notes.append(Note("mismatch", self._modules[policy_id], text))

    def _spec(self, path: str) -> Raw:
        """Class, spaces and model config out of the JSON beside a module."""
        directory = path.rpartition("/")[0]
        for place in (directory.rpartition("/")[0], directory):
            name = f"{place}/rl_module_metadata.json" if place else "rl_module_metadata.json"
            if name not in self.source.files:
                continue
            spec = self.source.json(name).get("module_spec_dict")
            spec = spec if isinstance(spec, dict) else {}
            config = spec.get("module_config")
            config = config if isinstance(config, dict) else {}
            return {
                "policy_class": spec.get("module_class"),
                "observation_space": config.get("observation_space"),
                "action_space": config.get("action_space"),
                "config": config.get("model_config_dict"),
            }
        return {}


def _is_beside(path: str) -> bool:
    return path.startswith(_BESIDE) and path.endswith(".pkl") and path.count("/") == 1


def _equal(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
