"""Write the model as version 1.1: plain pickles that name no class of any library.

A bare ``pickle.load`` opens every file without Ray, and RLlib since Ray 2.1 reads the tree. Values that
RLlib would take for the object itself (a class in a config, a function) are set aside under `ASIDE`, a key
that RLlib ignores, in the form that `inert` describes.
"""

from __future__ import annotations

import collections
import functools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.format import names
from ckptstore.format.layout import (
    CHECKPOINT_VERSION,
    Item,
    literal,
    pickle_item,
    rllib_json,
    tune_metadata,
)
from ckptstore.rllib_formats.write import spaces
from ckptstore.rllib_formats.write.inert import clean, describe, holds_record
from ckptstore.rllib_formats.write.report import LaidOut, PolicyReport, Reporter

VERSION = CHECKPOINT_VERSION
ASIDE = "ckptstore"
_UNTRACED = "_traced"

# Model field to RLlib's key, for values that mean the same there.
_POLICY_KEYS = {
    "global_timestep": "global_timestep",
    "num_grad_updates": "num_grad_updates",
    "exploration": "_exploration_state",
    "kl_coeff": "current_kl_coeff",
    "connectors": "connector_configs",
}
_STATE_KEYS = {"iteration": "training_iteration", "metrics": "metrics_logger"}


def lay_out(kind: str, model: Mapping[str, Any]) -> LaidOut:
    """The files of `model` and a report about each policy.

    With `kind` "Policy" or "RLModule" the files of one policy by itself, else those of an algorithm. Raises
    InvalidRequest if the model holds anything but plain data and records.
    """
    reports: dict[str, PolicyReport] = {}
    documents: dict[str, dict[str, Any]] = {}
    notes = []
    for policy_id, policy in model["policies"].items():
        documents[policy_id], reports[policy_id] = policy_document(policy, f"{names.POLICIES}/{policy_id}")
        if str(policy.get("policy_class")).endswith("RLModule"):
            notes.append(
                f"{names.POLICIES}/{policy_id}: an RLModule's weights; no class of the old API stack has them"
            )
    if kind in ("Policy", "RLModule"):
        [document] = documents.values()
        return LaidOut("Policy", _policy_files(document, str), reports, PolicyReport(), tuple(notes))
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
    return LaidOut("Algorithm", files, reports, report, tuple(notes))


def _policy_files(document: dict[str, Any], path: Callable[[str], str]) -> list[Item]:
    return [
        literal(path(names.RLLIB_JSON), rllib_json("Policy")),
        pickle_item(path(names.POLICY_STATE), document),
    ]


def policy_document(policy: Mapping[str, Any], where: str) -> tuple[dict[str, Any], PolicyReport]:
    """The content of ``policy_state.pkl``, and the report. Paths in errors begin with `where`."""
    reporter, aside = Reporter(), _Aside(where)
    rest = dict(policy)
    document: dict[str, Any] = {"weights": _to_list(rest.pop("weights"))}
    document["policy_spec"] = _spec(rest, aside, reporter)
    reporter.carried.append("weights")
    document.update(_optimizer(rest.pop("optimizer", None) or {}, aside, reporter))
    for field, key in _POLICY_KEYS.items():
        value = rest.pop(field, None)
        if value is None or (value == {} and field == "connectors"):
            continue
        if field == "connectors":
            value = _without_episodes(value, aside)
        document[key] = aside.clean(value, field)
        reporter.carried.append(field)
    for key, value in {**rest, **(rest.pop("extra", None) or {})}.items():
        if key == "extra" or (key in document and document[key] == value == []):
            continue  # a policy beside a Learner has an empty list of optimizers
        if key in document or key == ASIDE:
            aside.put(f"extra/{key}", value)
        else:
            document[key] = aside.clean(value, f"extra/{key}")
            reporter.carried.append(f"extra/{key}")
    return aside.into(document, reporter)


def algorithm_document(
    state: Mapping[str, Any], policy_ids: list[str], components: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], PolicyReport]:
    """The content of ``algorithm_state.pkl``, the components beside it, and the report."""
    reporter, aside = Reporter(), _Aside("algorithm")
    rest = dict(state)
    trained = rest.pop("policies_to_train", None)
    mapping = rest.pop("policy_mapping_fn", None)
    filters = describe(rest.pop("filters", None) or {}, "filters")
    config = dict(rest.pop("config", None) or {})
    # RLlib's reader would freeze the config and then fail to set the rest, and it no longer has the
    # attributes for which an older release left a placeholder. Newer releases write neither.
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
    reporter.carried += [
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
            reporter.carried.append(field)
    parts = {name: describe(value, f"{names.COMPONENTS}/{name}") for name, value in components.items()}
    reporter.carried += [f"{names.COMPONENTS}/{name}" for name in parts]
    # RLlib would load them into its buffers, which need batches of its own class.
    if (buffers := rest.pop("replay_buffers", None)) is not None:
        parts["replay_buffers"] = describe(buffers, "replay_buffers")
        reporter.renamed.append(f"replay_buffers -> {names.COMPONENTS}/replay_buffers")
    if rest.pop("last_result", None):
        reporter.carried.append("last_result")
    for field in ("env_runner", "connectors"):
        if value := rest.pop(field, None):
            if "env_runner" not in parts:
                aside.put(field, value)
            reporter.renamed.append(f"{field} -> {names.COMPONENTS}/env_runner")
    for key, value in (rest.pop("extra", None) or {}).items():
        if key in document or key == ASIDE:
            aside.put(f"extra/{key}", value)
        else:
            document[key] = aside.clean(value, f"extra/{key}")
            reporter.carried.append(f"extra/{key}")
    for key, value in rest.items():
        document[key] = aside.clean(value, key)
        reporter.carried.append(key)
    document, report = aside.into(document, reporter)
    return document, parts, report


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == -1


_SPEC = ("policy_class", "observation_space", "action_space", "config")


def _with_specs(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with each policy's spec as the tuple that RLlib requires.

    Classes and spaces are objects, which were set aside: RLlib looks up what is None when it builds, and each
    policy's own file describes its spaces.
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
    """The values that are set aside, by the paths that they had."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._found: dict[str, Any] = {}

    def clean(self, value: Any, path: str) -> Any:
        return clean(value, path, self._found)

    def put(self, path: str, value: Any) -> None:
        self._found[path] = describe(value, f"{self._where}/{path}")

    def into(self, document: dict[str, Any], reporter: Reporter) -> tuple[dict[str, Any], PolicyReport]:
        if self._found:
            document[ASIDE] = {"aside": self._found}
        for path, value in self._found.items():
            if holds_record(value):
                reporter.opaque.append(path)
            else:
                reporter.renamed.append(f"{path} -> {ASIDE}/aside")
        return document, reporter.report()


def _spec(rest: dict[str, Any], aside: _Aside, reporter: Reporter) -> dict[str, Any]:
    reporter.carried += ["policy_class", "config", "observation_space", "action_space"]
    name = rest.pop("policy_class", None)
    if isinstance(name, str) and name.startswith("ray.rllib.") and name.endswith("Policy"):
        short = name.rpartition(".")[2].removesuffix(_UNTRACED)
        reporter.renamed.append(f"policy_class {name} -> {short}")
        name = short
    return {
        "policy_class": name,
        "observation_space": spaces.rllib_json(rest.pop("observation_space", None)),
        "action_space": spaces.rllib_json(rest.pop("action_space", None)),
        "config": aside.clean(rest.pop("config", None) or {}, "config"),
    }


def _optimizer(named: Mapping[str, Any], aside: _Aside, reporter: Reporter) -> dict[str, Any]:
    """The keys for the optimizers: RLlib has a list or a dict of variables, and names only with a Learner."""
    if named:
        reporter.carried.append("optimizer")
    if not named:
        return {"_optimizer_variables": []}
    if named.keys() == {"variables"}:
        return {"_optimizer_variables": aside.clean(_to_list(named["variables"]), "optimizer")}
    if list(named) == [str(index) for index in range(len(named))]:
        return {"_optimizer_variables": [aside.clean(item, "optimizer") for item in named.values()]}
    learner = {"module_state": None, "optimizer": aside.clean(dict(named), "optimizer")}
    return {"_optimizer_variables": [], "learner_state": learner}


def _to_list(values: Any) -> Any:
    """`values` as the list that they came from if they are called "0", "1" and so on."""
    if isinstance(values, Mapping) and values:
        if list(values) == [str(index) for index in range(len(values))]:
            return [describe(item, "weights") for item in values.values()]
        return describe(dict(values), "weights")
    return describe(values, "weights")


# RLlib's own reader takes this for "no episode has begun".
_NO_EPISODES = pickle.dumps({}, protocol=4)


def _without_episodes(connectors: Any, aside: _Aside) -> Any:
    """`connectors` without unfinished episodes, which are a pickle with functions by value.

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
    """`value` if it is a list of ids; a function is set aside, and RLlib goes by the config."""
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
