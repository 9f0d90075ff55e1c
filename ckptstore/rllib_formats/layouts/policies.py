"""A file for the algorithm, one for each policy, and in 1.2 a Learner beside them: versions 1.0 to 1.2.

With Ray 2.5 to 2.32 the Learner wrote JSON and torch files of its own, with 2.33 to 2.37 a tree of
components. Some of the former wrote no policies at all: then the Learner's modules are the policies.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.format import names
from ckptstore.rllib_formats.detect import Detected
from ckptstore.rllib_formats.layouts.base import Raw, Want, owner, read_constructor, tune_metadata
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import (
    COMPONENT_EXTENSIONS,
    CTOR,
    below,
    children,
    files_below,
    join,
    state_file,
)
from ckptstore.rllib_formats.source import Source
from ckptstore.rllib_formats.weight_files import module_files

_ALONE = {"Policy", "RLModule"}
_BESIDE = f"{names.COMPONENTS}/"  # where ckptstore keeps what RLlib's tree can't hold


class Policies:
    """Reads an algorithm, a policy, or what a Learner of that time saved by itself."""

    learner_only: frozenset[str] = frozenset()

    def __init__(self, source: Source, detected: Detected) -> None:
        self.source, self.detected = source, detected
        self.notes: list[Note] = []
        self.ray_version = detected.ray_version
        self._modules = module_files(source.files, detected.modules, detected.version)
        beside = {path[len(_BESIDE) : -len(".pkl")]: path for path in source.files if _is_beside(path)}
        self._beside = beside if detected.kind == "Algorithm" else {}
        learner = {"learner"} if self._learner_state is not None else set()
        self.components: tuple[str, ...] = tuple(sorted(learner | self._beside.keys()))

    @cached_property
    def _algorithm(self) -> Raw:
        return self.source.read_mapping(self.detected.state_file) if self.detected.kind == "Algorithm" else {}

    @cached_property
    def written(self) -> frozenset[str]:
        if self.detected.kind in _ALONE:
            return frozenset({names.DEFAULT_POLICY})
        return frozenset(self.detected.policy_files or self._modules)

    @cached_property
    def _mentioned(self) -> frozenset[str]:
        """Ids in the algorithm's state; some releases list in the JSON only those that they wrote."""
        worker = self._algorithm.get("worker")
        ids = worker.get("policy_ids") if isinstance(worker, dict) else None
        found = map(str, ids) if isinstance(ids, (list, tuple, set, frozenset)) else ()
        return frozenset(found) - set(self.detected.left_out)

    @cached_property
    def _elsewise(self) -> frozenset[str]:
        """Modules that the Learner kept in another form than torch's."""
        base = self.detected.modules
        ids = [] if base is None else children(self.source.files, base)
        kept = [each for each in ids if below(self.source.files, f"{join(base or '', each)}/module_state")]
        return frozenset(kept) - self._modules.keys()

    @cached_property
    def _trainable_only(self) -> bool:
        config = self._algorithm.get("config")
        fields = config.state if isinstance(config, Opaque) else config
        return isinstance(fields, dict) and fields.get("checkpoint_trainable_policies_only") is True

    @cached_property
    def policy_ids(self) -> tuple[str, ...]:
        # The JSON has been read already. Only if it lists nothing, the state is read for its list.
        listed = frozenset(self.detected.listed)
        if not listed and self.detected.policy_files:
            listed = self._mentioned
        if not self.detected.policy_files:
            listed |= self._elsewise
        absent = listed - self.written
        if absent and self._trainable_only:
            self._note_untrained(absent)
            return tuple(sorted(self.written))
        return tuple(sorted(self.written | absent))

    def _note_untrained(self, absent: frozenset[str]) -> None:
        for policy_id in sorted(absent):
            where = f"{names.POLICIES}/{policy_id}"
            self.notes.append(Note("absent", where, "never written: it is not trained"))

    def absence(self, policy_id: str) -> str | None:
        if policy_id in self._mentioned | set(self.detected.listed) and self._trainable_only:
            return "it was never written, since this algorithm saves only the policies it trains"
        return None

    def algorithm(self) -> Raw:
        if self.detected.kind != "Algorithm":
            return {"algorithm": {}}
        unlisted = self._mentioned - set(self.policy_ids) if self.detected.policy_files else frozenset()
        if unlisted and not self._trainable_only:
            missing = sorted(unlisted)[0]
            raise CheckpointCorrupt(
                self.path_of(missing),
                f"the algorithm has a policy {missing!r}, but its file is missing",
                "Copy the directory again; the other policies can still be read one by one",
            )
        self._note_untrained(unlisted)
        tune = tune_metadata(self.source, self.detected.state_file)
        return {"algorithm": self._algorithm, "tune_metadata": tune}

    def path_of(self, policy_id: str) -> str:
        if self.detected.kind in _ALONE:
            return self.detected.state_file
        files = self.detected.policy_files or self._modules
        return files.get(policy_id, names.policy_path(policy_id))

    def files_of(self, policy_id: str) -> list[str]:
        files, modules = self.source.files, self.detected.modules
        if self.detected.kind in _ALONE:
            return sorted(files)
        found = (
            files_below(files, join(names.POLICIES, policy_id)) if self.detected.kind == "Algorithm" else []
        )
        if modules is not None:
            found += files_below(files, join(modules, policy_id))
            optimizers = self._optimizer_files.items()
            found += [path for name, path in optimizers if owner(name, self._modules) == policy_id]
        return sorted(found)

    def policy(self, policy_id: str, want: Want) -> Raw:
        path = self.path_of(policy_id)
        document: Raw = {}
        module: Any = None
        if self.detected.kind == "RLModule":
            module = self.source.read_mapping(path)
        else:
            if self.detected.kind == "Policy" or self.detected.policy_files:
                document = _with_weights(self.source.read_mapping(path))
                if "weights" not in document:
                    raise UnreadableFormat(
                        path, "it holds no weights, as every state of an RLlib policy does"
                    )
            if self.detected.modules is not None:
                module = self._module(policy_id)
        if module is None and "weights" not in document:
            raise UnreadableFormat(
                f"{self.detected.modules}/{policy_id}",
                "its weights are in a format of TensorFlow's, and there is no other copy of them",
                "Open it with the Ray that wrote it, and save the policy by itself",
            )
        if module is not None:
            named = self._optimizer(policy_id) if want.optimizer else {}
            document["learner_state"] = {"module_state": module, "optimizer": named}
            if "weights" in document:
                self._compare(policy_id, document["weights"], module)
                if want.details and policy_id in self._modules:
                    # The algorithm's config may describe the network that it would have had without one.
                    document["module_spec"] = self._spec(self._modules[policy_id])
            elif want.details:
                document["policy_spec"] = self._spec(path)
        return {"policies": {policy_id: document}}

    def _module(self, policy_id: str) -> Any:
        path = self._modules.get(policy_id)
        if path is not None:
            return self.source.read_mapping(path)
        where = f"{self.detected.modules}/{policy_id}"
        if any(name.startswith(f"{where}/module_state") for name in self.source.files):
            self.notes.append(Note("skipped", where, "the Learner's module is not in torch's format"))
        else:
            self.notes.append(Note("missing", where, "the Learner has no such module"))
        return None

    @cached_property
    def _learner_state(self) -> str | None:
        """The file with the state of the Learner; None where it wrote no such file."""
        root = self.detected.learner
        return (
            None if root is None else state_file(self.source.files, join(root, "state"), COMPONENT_EXTENSIONS)
        )

    @cached_property
    def _learner(self) -> Raw:
        return self.source.read_mapping(self._learner_state) if self._learner_state is not None else {}

    def component(self, name: str) -> Any:
        if name not in self.components:
            raise KeyError(name)
        if name in self._beside:
            return self.source.value(self._beside[name])
        return {key: value for key, value in self._learner.items() if key != "optimizer"}

    @property
    def _optimizer_folder(self) -> str:
        return join(self.detected.learner or "", "optimizer_state")

    @cached_property
    def _optimizer_files(self) -> dict[str, str]:
        """Files of the Learner's optimizers by name, where each has one of its own."""
        folder = self._optimizer_folder
        return {
            path[len(folder) + 1 :].removesuffix(".pt"): path
            for path in files_below(self.source.files, folder)
            if path.endswith(".pt")
        }

    def _optimizer(self, policy_id: str) -> Raw:
        """Named optimizers of the module: from a file each, or from the one state of the Learner."""
        paths = self._optimizer_files
        found = paths or self._learner.get("optimizer")
        mine = {
            name: self.source.read_mapping(item) if paths else item
            for name, item in (found.items() if isinstance(found, dict) else ())
            if owner(name, self._modules) == policy_id
        }
        if not mine:
            text = f"no optimizer of {policy_id!r}, or not in torch's format"
            self.notes.append(Note("missing", self._optimizer_folder, text))
        return mine

    def _compare(self, policy_id: str, worker: Any, learner: Any) -> None:
        """Note where the two copies differ: RLlib has restored one and trained on with the other."""
        if not isinstance(worker, dict) or not isinstance(learner, dict):
            return
        common = sorted(str(name) for name in worker.keys() & learner.keys())
        different = [name for name in common if not _equal(worker.get(name), learner.get(name))]
        if different or not common:
            what = ", ".join(different[:3]) or "no name in common"
            text = f"the Learner's weights differ from the policy's ({what}): the policy's are returned"
            self.notes.append(Note("mismatch", self._modules[policy_id], text))

    def _spec(self, path: str) -> Raw:
        """Class, spaces and model config of a module, from the file beside it that it was built from."""
        inner = path.rpartition("/")[0]
        ctor = join(inner, CTOR)
        if ctor in self.source.files:  # since Ray 2.33
            made = read_constructor(self.source, ctor, self.notes)
            fields = getattr(made["args"][0], "state", None) if made["args"] else made["kwargs"]
            return _spec(made["class"], fields)
        for directory in (inner.rpartition("/")[0], inner):
            name = join(directory, "rl_module_metadata.json")
            if name not in self.source.files:
                continue
            spec = self.source.json(name).get("module_spec_dict")
            spec = spec if isinstance(spec, dict) else {}
            return _spec(spec.get("module_class"), spec.get("module_config"))
        return {}


def _spec(kind: Any, fields: Any) -> Raw:
    fields = fields if isinstance(fields, dict) else {}
    return {
        "policy_class": kind,
        "observation_space": fields.get("observation_space"),
        "action_space": fields.get("action_space"),
        "config": fields.get("model_config_dict"),
    }


def _with_weights(document: Raw) -> Raw:
    """`document` with the weights in one place: QMIX has its networks beside each other."""
    networks = ("model", "target_model", "mixer", "target_mixer")
    if "weights" in document or not {"model", "target_model"} <= document.keys():
        return document
    rest = {key: value for key, value in document.items() if key not in networks}
    found = {key: document[key] for key in networks if document.get(key) is not None}
    return {**rest, "weights": found}


def _is_beside(path: str) -> bool:
    return path.startswith(_BESIDE) and path.endswith(".pkl") and path.count("/") == 1


def _equal(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
