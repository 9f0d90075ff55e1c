"""The model as RLlib's checkpoint version 1.1: plain pickles with nobody's classes in them. Pure.

A bare ``pickle.load`` opens every file without Ray; RLlib since 2.1 knows the tree. What RLlib would
take for the object itself (a class in a config, a function) is set aside under `ASIDE`, a key that
RLlib does not look at, as the dict that `ckptstore.rllib_formats.write.inert` describes.
"""

from __future__ import annotations

import collections
import functools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.format import names
from ckptstore.format.layout import Item, literal, pickle_item, rllib_json, tune_metadata
from ckptstore.rllib_formats.write import spaces
from ckptstore.rllib_formats.write.inert import clean, describe, holds_record
from ckptstore.rllib_formats.write.report import Laid, PolicyReport, Reporter

ASIDE = "ckptstore"
_UNTRACED = "_traced"

# Model field to key, for what keeps its meaning under RLlib's own key.
_POLICY_KEYS = {
    "global_timestep": "global_timestep",
    "num_grad_updates": "num_grad_updates",
    "exploration": "_exploration_state",
    "kl_coeff": "current_kl_coeff",
    "connectors": "connector_configs",
}
_STATE_KEYS = {"iteration": "training_iteration", "metrics": "metrics_logger"}


def lay_out(kind: str, model: Mapping[str, Any]) -> Laid:
    """The files of `model` and a report about each policy.

    `kind` "Policy" or "RLModule" makes one policy alone, anything else an algorithm. InvalidRequest if
    there is something in the model that is no plain data.
    """
    reports: dict[str, PolicyReport] = {}
    documents: dict[str, dict[str, Any]] = {}
    notes = []
    for policy_id, policy in model["policies"].items():
        documents[policy_id], reports[policy_id] = policy_document(policy, f"policies/{policy_id}")
        if str(policy.get("policy_class")).endswith("RLModule"):
            notes.append(
                f"policies/{policy_id}: an RLModule's weights; no class of the old API stack has them"
            )
    if kind in ("Policy", "RLModule"):
        [document] = documents.values()
        return Laid("Policy", _policy_files(document, str), reports, PolicyReport(), tuple(notes))
    state = model["state"]
    document, parts, report = algorithm_document(state, list(documents), model["components"])
    files = [
        literal(".is_checkpoint", b"1\n"),
        literal(names.RLLIB_JSON, rllib_json("Algorithm", list(documents))),
        pickle_item(names.STATE, document),
    ]
    for policy_id, policy in documents.items():
        files += _policy_files(policy, functools.partial(names.policy_path, policy_id))
    files += [pickle_item(names.component_path(name), value) for name, value in parts.items()]
    if isinstance(state["iteration"], int):
        files.append(pickle_item(".tune_metadata", _tune_metadata(state["iteration"], state)))
    return Laid("Algorithm", files, reports, report, tuple(notes))


def _policy_files(document: dict[str, Any], path: Callable[[str], str]) -> list[Item]:
    return [
        literal(path(names.RLLIB_JSON), rllib_json("Policy")),
        pickle_item(path(names.POLICY_STATE), document),
    ]


def policy_document(policy: Mapping[str, Any], place: str) -> tuple[dict[str, Any], PolicyReport]:
    """The content of ``policy_state.pkl``. `place` begins the paths in errors."""
    told, aside = Reporter(), _Aside(place)
    rest = dict(policy)
    document: dict[str, Any] = {"weights": _to_list(rest.pop("weights"))}
    document["policy_spec"] = _spec(rest, aside, told)
    told.carried.append("weights")
    document.update(_optimizer(rest.pop("optimizer", None) or {}, aside, told))
    for field, key in _POLICY_KEYS.items():
        value = rest.pop(field, None)
        if value is None or (value == {} and field == "connectors"):
            continue
        if field == "connectors":
            value = _without_episodes(value, aside, told)
        document[key] = aside.clean(value, field)
        told.carried.append(field)
    for key, value in {**rest, **(rest.pop("extra", None) or {})}.items():
        if key == "extra" or (key in document and document[key] == value == []):
            continue  # a policy beside a Learner has an empty list of optimizers
        if key in document or key == ASIDE:
            aside.put(f"extra/{key}", value)
        else:
            document[key] = aside.clean(value, f"extra/{key}")
            told.carried.append(f"extra/{key}")
    return aside.into(document, told)


def algorithm_document(
    state: Mapping[str, Any], policy_ids: list[str], components: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], PolicyReport]:
    """The content of ``algorithm_state.pkl``, what stands beside it, and what became of the fields."""
    told, aside = Reporter(), _Aside("algorithm")
    rest = dict(state)
    trained = rest.pop("policies_to_train", None)
    mapping = rest.pop("policy_mapping_fn", None)
    filters = describe(rest.pop("filters", None) or {}, "filters")
    config = dict(rest.pop("config", None) or {})
    # RLlib's reader would set the first and fail on the rest, and has no attributes any more where an older
    # release left a placeholder. Newer releases write neither.
    for name in [name for name, value in config.items() if name == "_is_frozen" or _is_placeholder(value)]:
        aside.put(f"config/{name}", config.pop(name))
    document: dict[str, Any] = {
        "algorithm_class": rest.pop("algorithm_class", None),
        "config": _with_specs(aside.clean(config, "config") or {}),
        "worker": {
            "policy_ids": policy_ids,
            "policy_mapping_fn": _no_code(mapping, "policy_mapping_fn", aside),
            "is_policy_to_train": _no_code(trained, "policies_to_train", aside),
            "filters": filters,
        },
        "counters": collections.defaultdict(int, describe(rest.pop("counters", None) or {}, "counters")),
    }
    told.carried += [
        "algorithm_class",
        "config",
        "counters",
        "filters",
        "policies_to_train",
        "policy_mapping_fn",
    ]
    rest.pop("policy_ids", None)
    for field, key in _STATE_KEYS.items():
        value = rest.pop(field, None)
        if value is not None and value != {}:
            document[key] = aside.clean(value, field)
            told.carried.append(field)
    parts = {name: describe(value, f"components/{name}") for name, value in components.items()}
    told.carried += [f"components/{name}" for name in parts]
    # RLlib would hand them to its buffers, which want batches of its own class.
    if (buffers := rest.pop("replay_buffers", None)) is not None:
        parts["replay_buffers"] = describe(buffers, "replay_buffers")
        told.renamed.append("replay_buffers -> components/replay_buffers")
    if rest.pop("last_result", None):
        told.carried.append("last_result")
    for field in ("env_runner", "connectors"):
        if value := rest.pop(field, None):
            if "env_runner" not in parts:
                aside.put(field, value)
            told.renamed.append(f"{field} -> components/env_runner")
    for key, value in (rest.pop("extra", None) or {}).items():
        if key in document or key == ASIDE:
            aside.put(f"extra/{key}", value)
        else:
            document[key] = aside.clean(value, f"extra/{key}")
            told.carried.append(f"extra/{key}")
    for key, value in rest.items():
        document[key] = aside.clean(value, key)
        told.carried.append(key)
    document, report = aside.into(document, told)
    return document, parts, report


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == -1


_SPEC = ("policy_class", "observation_space", "action_space", "config")


def _with_specs(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with each policy's spec as the tuple that RLlib asks for; None is looked up when it builds.

    Classes and spaces are objects, which went aside. Each policy's own file describes its spaces.
    """
    for holder in (config, config.get("multiagent")):
        policies = holder.get("policies") if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(policies, dict):
            holder["policies"] = {
                policy_id: (None, None, None, spec.get("config") or {})
                if isinstance(spec, dict) and spec.keys() <= set(_SPEC)
                else spec
                for policy_id, spec in policies.items()
            }
    return config


class _Aside:
    """What stands where RLlib does not look, by the path it had."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._found: dict[str, Any] = {}

    def clean(self, value: Any, path: str) -> Any:
        return clean(value, path, self._found)

    def put(self, path: str, value: Any) -> None:
        self._found[path] = describe(value, f"{self._place}/{path}")

    def into(self, document: dict[str, Any], told: Reporter) -> tuple[dict[str, Any], PolicyReport]:
        if self._found:
            document[ASIDE] = {"aside": self._found}
        for path, value in self._found.items():
            if holds_record(value):
                told.opaque.append(path)
            else:
                told.renamed.append(f"{path} -> {ASIDE}/aside")
        return document, told.report()


def _spec(rest: dict[str, Any], aside: _Aside, told: Reporter) -> dict[str, Any]:
    told.carried += ["policy_class", "config", "observation_space", "action_space"]
    name = rest.pop("policy_class", None)
    if isinstance(name, str) and name.startswith("ray.rllib.") and name.endswith("Policy"):
        short = name.rpartition(".")[2].removesuffix(_UNTRACED)
        told.renamed.append(f"policy_class {name} -> {short}")
        name = short
    return {
        "policy_class": name,
        "observation_space": spaces.rllib_json(rest.pop("observation_space", None)),
        "action_space": spaces.rllib_json(rest.pop("action_space", None)),
        "config": aside.clean(rest.pop("config", None) or {}, "config"),
    }


def _optimizer(named: Mapping[str, Any], aside: _Aside, told: Reporter) -> dict[str, Any]:
    """RLlib keeps a list (torch, eager TensorFlow) or a dict of variables; names only with a Learner."""
    if named:
        told.carried.append("optimizer")
    if not named:
        return {"_optimizer_variables": []}
    if named.keys() == {"variables"}:
        return {"_optimizer_variables": aside.clean(_to_list(named["variables"]), "optimizer")}
    if list(named) == [str(index) for index in range(len(named))]:
        return {"_optimizer_variables": [aside.clean(item, "optimizer") for item in named.values()]}
    learner = {"module_state": None, "optimizer": aside.clean(dict(named), "optimizer")}
    return {"_optimizer_variables": [], "learner_state": learner}


def _to_list(values: Any) -> Any:
    """Weights or variables called "0", "1" ... are the list they came from."""
    if isinstance(values, Mapping) and values:
        if list(values) == [str(index) for index in range(len(values))]:
            return [describe(item, "weights") for item in values.values()]
        return describe(dict(values), "weights")
    return describe(values, "weights")


# What RLlib's own reader takes for "no episode is under way".
_NO_EPISODES = pickle.dumps({}, protocol=4)


def _without_episodes(connectors: Any, aside: _Aside, told: Reporter) -> Any:
    """`connectors` with no pickle inside: unfinished episodes are one, made of functions by value.

    RLlib unpickles it while it restores a policy, which fails on any other Python.
    """
    if not isinstance(connectors, dict):
        return connectors
    result = dict(connectors)
    for side, pipeline in connectors.items():
        if not isinstance(pipeline, (list, tuple)) or len(pipeline) != 2 or not isinstance(pipeline[1], list):
            continue
        chain = []
        for index, entry in enumerate(pipeline[1]):
            if isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], bytes):
                aside.put(f"connectors/{side}/{index}/{entry[0]}", entry[1])
                entry = (entry[0], _NO_EPISODES)
            chain.append(entry)
        result[side] = (pipeline[0], chain)
    return result


def _no_code(value: Any, path: str, aside: _Aside) -> Any:
    """`value` if it is a list of ids; a function goes aside, and RLlib takes what the config says."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if value is not None:
        aside.put(path, value)
    return None


def _tune_metadata(iteration: int, state: Mapping[str, Any]) -> dict[str, Any]:
    aside: dict[str, Any] = {}
    result = clean(state.get("last_result") or {}, "last_result", aside)
    extra = {ASIDE: {"aside": aside}} if aside else {}
    return tune_metadata(iteration, {**result, **extra})
