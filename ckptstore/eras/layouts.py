"""Where each layout keeps what: from a sniffed directory to raw documents, one policy at a time.

A layout reads files through a `Source` and composes the documents that `ckptstore.migrations` upgrades.
It interprets nothing beyond that.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.eras.notes import Note
from ckptstore.eras.sniff import Sniffed, children, module_files, state_file
from ckptstore.eras.source import Source
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat

Raw = dict[str, Any]
DEFAULT_ID = "default_policy"
"""RLlib's name for the only policy; a policy or module saved by itself does not know its own."""

_TUNE = (".tune_metadata",)
_CTOR = "class_and_ctor_args.pkl"


class Layout(Protocol):
    """What `ForeignCheckpoint` needs of a layout."""

    notes: list[Note]

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids whose weights the checkpoint claims to hold, sorted."""

    def algorithm(self) -> Raw:
        """The documents ``algorithm`` and ``tune_metadata``."""

    def policy(self, policy_id: str, optimizer: bool) -> Raw:
        """The document of one policy, without its optimizer where that costs reading more files."""

    def path_of(self, policy_id: str) -> str:
        """The file with that policy's weights."""

    def absence(self, policy_id: str) -> str | None:
        """Why that policy, which the checkpoint mentions, is rightly not in it."""


class SingleFile:
    """0.1: everything in one pickle, whose ``worker`` is a pickle again."""

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self.source, self.sniffed = source, sniffed
        self.notes: list[Note] = []

    @cached_property
    def _documents(self) -> Raw:
        path = self.sniffed.state_file
        document = self.source.mapping(path)
        worker = document.get("worker")
        if isinstance(worker, bytes):
            document["worker"] = self.source.nested(path, worker)
        if not isinstance(document.get("worker"), dict):
            raise UnreadableFormat(path, "it holds no worker: not a checkpoint of an RLlib algorithm")
        return {"algorithm": document, "tune_metadata": _tune_metadata(self.source, path)}

    @property
    def policy_ids(self) -> tuple[str, ...]:
        states = self._documents["algorithm"]["worker"].get("state")
        return tuple(sorted(states)) if isinstance(states, dict) else ()

    def algorithm(self) -> Raw:
        return self._documents

    def policy(self, policy_id: str, optimizer: bool) -> Raw:
        # One document holds all: the step from 0.1 cuts it up.
        worker = self._documents["algorithm"]["worker"]
        one = {policy_id: worker["state"][policy_id]}
        return {"algorithm": {"worker": {**worker, "state": one}}}

    def path_of(self, policy_id: str) -> str:
        return self.sniffed.state_file

    def absence(self, policy_id: str) -> str | None:
        return None


class Policies:
    """1.0, 1.1 and 1.2: a file for the algorithm, one per policy, from 1.2 on a Learner beside them."""

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self.source, self.sniffed = source, sniffed
        self.notes: list[Note] = []
        self._modules = {} if sniffed.modules is None else module_files(source.files, sniffed.modules, "2.0")

    @cached_property
    def _documents(self) -> Raw:
        if not self.sniffed.state_file:
            return {"algorithm": {}}
        path = self.sniffed.state_file
        return {"algorithm": self.source.mapping(path), "tune_metadata": _tune_metadata(self.source, path)}

    @cached_property
    def _written(self) -> set[str]:
        if self.sniffed.kind in {"Policy", "RLModule"}:
            return {DEFAULT_ID}
        return set(self.sniffed.policy_files) or set(self._modules)

    @cached_property
    def _absent(self) -> tuple[str, ...]:
        """Ids that are mentioned and have no file."""
        mentioned: set[str] = set(self.sniffed.listed)
        if self.sniffed.kind == "Algorithm" and not mentioned and self.sniffed.policy_files:
            # Before 1.1 only the state itself tells which policies there should be.
            worker = self._documents["algorithm"].get("worker")
            ids = worker.get("policy_ids") if isinstance(worker, dict) else None
            mentioned = {str(policy_id) for policy_id in ids or ()}
        return tuple(sorted(mentioned - self._written))

    @cached_property
    def _trainable_only(self) -> bool:
        config = self._documents["algorithm"].get("config")
        fields = config.state if isinstance(config, Opaque) else config
        return isinstance(fields, dict) and fields.get("checkpoint_trainable_policies_only") is True

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        if self._absent and self._trainable_only:
            for policy_id in self._absent:
                self.notes.append(
                    Note("missing", f"policies/{policy_id}", "never written: it is not trained")
                )
            return tuple(sorted(self._written))
        return tuple(sorted(self._written | set(self._absent)))

    def absence(self, policy_id: str) -> str | None:
        if policy_id in self._absent and self._trainable_only:
            return "the algorithm was told to save only the policies it trains"
        return None

    def algorithm(self) -> Raw:
        return self._documents

    def path_of(self, policy_id: str) -> str:
        if self.sniffed.kind in {"Policy", "RLModule"}:
            return self.sniffed.state_file
        files = self.sniffed.policy_files or self._modules
        return files.get(policy_id, f"policies/{policy_id}/policy_state.pkl")

    def policy(self, policy_id: str, optimizer: bool) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {}
        if self.sniffed.kind == "RLModule":
            module: Any = self.source.mapping(path)
        else:
            if self.sniffed.kind == "Policy" or self.sniffed.policy_files:
                document = self.source.mapping(path)
                if "weights" not in document:
                    raise UnreadableFormat(path, "it holds no weights: not the state of an RLlib policy")
            module = self._module(policy_id) if self.sniffed.modules is not None else None
        if module is not None:
            document["learner_state"] = {
                "module_state": module,
                "optimizer": self._optimizer(policy_id) if optimizer else {},
            }
            if "weights" in document:
                self._compare(policy_id, document["weights"], module)
            else:
                document["policy_spec"] = self._spec(path)
        return {"policies": {policy_id: document}}

    def _module(self, policy_id: str) -> Any:
        path = self._modules.get(policy_id)
        if path is None:
            where = f"{self.sniffed.modules}/{policy_id}"
            if any(name.startswith(f"{where}/") for name in self.source.files):
                self.notes.append(Note("skipped", where, "the Learner's module, in TensorFlow's own format"))
            elif policy_id in self.sniffed.policy_files:
                self.notes.append(Note("missing", where, "the Learner does not train this policy"))
            return None
        return self.source.mapping(path)

    def _optimizer(self, policy_id: str) -> Raw:
        """Named optimizers of the module: one file each, or one state for all of the Learner."""
        root = self.sniffed.learner
        base = f"{root}/" if root else ""
        folder = f"{base}optimizer_state/"
        names = [path for path in self.source.files if path.startswith(folder)]
        if names:
            stems = {
                path[len(folder) :].rpartition(".")[0]: path for path in sorted(names) if path.endswith(".pt")
            }
            return {
                name: self.source.value(path)
                for name, path in stems.items()
                if owner(name, self._modules) == policy_id
            }
        path = state_file(self.source.files, f"{base}state")
        found = self.source.mapping(path).get("optimizer") if path else None
        found = found if isinstance(found, dict) else {}
        return {name: item for name, item in found.items() if owner(name, self._modules) == policy_id}

    def _compare(self, policy_id: str, worker: Any, learner: Any) -> None:
        """Both sides keep the weights; RLlib itself has loaded one and trained on with the other."""
        if not isinstance(worker, dict) or not isinstance(learner, dict):
            return
        common = worker.keys() & learner.keys()
        different = [
            name for name in sorted(map(str, common)) if not _equal(worker.get(name), learner.get(name))
        ]
        if different or not common:
            what = ", ".join(different[:3]) or "no name in common"
            text = f"the Learner's weights differ from the policy's ({what})"
            self.notes.append(Note("mismatch", self._modules[policy_id], text))

    def _spec(self, path: str) -> Raw:
        """Class, spaces and model config out of the JSON beside a module (Ray 2.5 to 2.32)."""
        directory = path.rsplit("/", 1)[0]
        for place in (directory.rpartition("/")[0], directory):
            name = f"{place}/rl_module_metadata.json" if place else "rl_module_metadata.json"
            if name not in self.source.files:
                continue
            spec = self.source.json(name).get("module_spec_dict")
            config = spec.get("module_config") if isinstance(spec, dict) else None
            config = config if isinstance(config, dict) else {}
            return {
                "policy_class": spec.get("module_class") if isinstance(spec, dict) else None,
                "observation_space": config.get("observation_space"),
                "action_space": config.get("action_space"),
                "config": config.get("model_config_dict"),
            }
        return {}


class Tree:
    """2.0 and 2.1: a tree of components, each a directory with its state and its constructor's arguments."""

    def __init__(self, source: Source, sniffed: Sniffed) -> None:
        self.source, self.sniffed = source, sniffed
        self.notes: list[Note] = []
        self._modules = (
            {} if sniffed.modules is None else module_files(source.files, sniffed.modules, sniffed.version)
        )

    @cached_property
    def _expected(self) -> set[str]:
        """Ids of the modules that the MultiRLModule was made of."""
        if self.sniffed.modules is None:
            return set()
        ctor = self._ctor(self.sniffed.modules)
        specs = ctor["kwargs"].get("rl_module_specs")
        if specs is None and ctor["args"]:
            fields = getattr(ctor["args"][0], "state", None)
            specs = fields.get("modules") if isinstance(fields, dict) else None
        return {str(name) for name in specs} if isinstance(specs, dict) else set()

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        if self.sniffed.kind == "RLModule":
            return (DEFAULT_ID,)
        # A module that is expected and not there stays listed, so that nobody takes the rest for the whole.
        return tuple(sorted(self._modules.keys() | self._expected))

    def absence(self, policy_id: str) -> str | None:
        return None

    def path_of(self, policy_id: str) -> str:
        if self.sniffed.kind == "RLModule":
            return self.sniffed.state_file
        return self._modules.get(policy_id, f"{self.sniffed.modules}/{policy_id}/module_state.pkl")

    def algorithm(self) -> Raw:
        document: Raw = {"ctor": self._ctor(""), "policy_ids": list(self.policy_ids)}
        state = self.source.mapping(self.sniffed.state_file)
        if self.sniffed.kind in {"Algorithm", "Checkpointable"}:
            document["algorithm_state"] = state
        elif self.sniffed.kind == "Learner":
            document["learner"] = {key: value for key, value in state.items() if key != "optimizer"}
        if self.sniffed.kind == "Algorithm":
            document["env_runner"] = self._env_runner("env_runner")
            document["learner"] = {key: item for key, item in self._learner.items() if key != "optimizer"}
        return {"algorithm": document}

    def policy(self, policy_id: str, optimizer: bool) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {"module_state": self.source.mapping(path)}
        directory = path.rpartition("/")[0]
        if f"{directory}/{_CTOR}".lstrip("/") in self.source.files:
            document["ctor"] = self._ctor(directory)
        else:
            self.notes.append(Note("missing", f"{directory}/{_CTOR}", "spaces and model config are unknown"))
        if optimizer and self.sniffed.learner is not None:
            found = self._learner.get("optimizer")
            document["optimizer"] = {
                name: item
                for name, item in (found.items() if isinstance(found, dict) else ())
                if _module_of(name, item, self.policy_ids) == policy_id
            }
        return {"policies": {policy_id: document}}

    @cached_property
    def _learner(self) -> Raw:
        if self.sniffed.learner is None:
            return {}
        base = f"{self.sniffed.learner}/" if self.sniffed.learner else ""
        path = state_file(self.source.files, f"{base}state", ("msgpack", "pkl"))
        if path is None:
            raise CheckpointCorrupt(f"{base}state.pkl", "the Learner's state (its optimizers) is missing")
        return self.source.mapping(path)

    def _ctor(self, directory: str) -> Raw:
        document = self.source.mapping(f"{directory}/{_CTOR}" if directory else _CTOR)
        pair = document.get("ctor_args_and_kwargs")
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], dict):
            pair = ((), {})
        return {"class": document.get("class"), "args": tuple(pair[0] or ()), "kwargs": pair[1]}

    def _env_runner(self, directory: str) -> Raw:
        """State of the env runner, and of its connectors by their path below it."""
        path = state_file(self.source.files, f"{directory}/state", ("msgpack", "pkl"))
        if path is None:
            self.notes.append(Note("missing", directory, "no state of connectors and environment steps"))
            return {}
        connectors = {}
        for name in sorted(self.source.files):
            inner, _, file = name.rpartition("/")
            if inner.startswith(f"{directory}/") and file in {"state.pkl", "state.msgpack"}:
                connectors[inner[len(directory) + 1 :]] = self.source.value(name)
        return {"state": self.source.value(path), "connectors": connectors}


def owner(name: str, ids: Any) -> str | None:
    """The module of an optimizer called ``<module id>_<optimizer>``: the longest id that fits, or None."""
    fitting = [policy_id for policy_id in ids if name == policy_id or name.startswith(f"{policy_id}_")]
    return max(fitting, key=len, default=None)


def _module_of(name: str, item: Any, ids: Any) -> str | None:
    if isinstance(item, dict) and isinstance(item.get("module_id"), str):
        return str(item["module_id"])
    return owner(name, ids)


def _equal(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    )


def _tune_metadata(source: Source, state_path: str) -> Raw:
    """What Ray's Tune noted beside the checkpoint, up to Ray 2.6; {} if there is nothing of the kind."""
    for name in (*_TUNE, f"{state_path}.tune_metadata"):
        if source.files.get(name):
            return source.mapping(name)
    return {}


def layout(source: Source, sniffed: Sniffed) -> Layout:
    """The layout that reads what was sniffed."""
    if sniffed.version == "0.1":
        return SingleFile(source, sniffed)
    return Tree(source, sniffed) if sniffed.version >= "2.0" else Policies(source, sniffed)


__all__ = ["DEFAULT_ID", "Layout", "children", "layout", "owner"]
