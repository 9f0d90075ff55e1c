"""Restore an algorithm of RLlib's old API stack to the state in a checkpoint."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.integrations.rllib.report import RestoreReport


def policy_ids(algo: Any) -> list[str]:
    """The ids of the policies that `algo` has."""
    return [str(policy_id) for policy_id in algo.env_runner.policy_map]


def load(
    algo: Any,
    state: Mapping[str, Any],
    policies: Mapping[str, Any],
    given: Collection[str],
    report: RestoreReport,
) -> None:
    """Set policies, filters, counters, iteration and replay buffers, in remote env runners too.

    What the caller has `given`, by the names of attributes, isn't overwritten by what was saved.
    """
    states = {policy_id: build_policy_state(policy, report) for policy_id, policy in policies.items()}
    _keep_given(algo, states, policies, given, report)
    for policy_id, item in states.items():
        fit(
            algo.get_policy(policy_id),
            item,
            policies[policy_id],
            f"{report.source} policy {policy_id!r}",
            report,
        )
    document: dict[str, Any] = {
        "worker": {"policy_states": states, "filters": _build_filters(algo, state, policies, report)},
        "counters": collections.defaultdict(int, state["counters"]),
    }
    if state["iteration"] is not None:
        document["training_iteration"] = state["iteration"]
    else:
        report.dropped["iteration"] = (
            f"Ray {report.written_by} kept it in a file beside the state, which is missing"
        )
    buffers = state["replay_buffers"]
    if buffers and algo.local_replay_buffer is not None:
        document["local_replay_buffer"] = _build_buffers(buffers, policies)
        report.carried.append("replay_buffers")
    elif buffers:
        report.dropped["replay_buffers"] = "this algorithm has no local replay buffer"
    algo.__setstate__(document)
    if state["iteration"] is not None:
        report.carried.append("iteration")
    report.carried += ["weights", "counters", "filters"]
    grads = {policy_id: policy["num_grad_updates"] for policy_id, policy in policies.items()}
    for policy_id, number in grads.items():
        if number is not None:
            algo.get_policy(policy_id).num_grad_updates = number
    for policy_id in policies:
        _follow_config(algo.get_policy(policy_id), policy_id, given, report)
    if any(hasattr(algo.get_policy(policy_id), "target_models") for policy_id in policies):
        report.notes.append("target networks: RLlib saved none, so they are the weights")


def _keep_given(
    algo: Any,
    states: Mapping[str, dict[str, Any]],
    policies: Mapping[str, Any],
    given: Collection[str],
    report: RestoreReport,
) -> None:
    """Take out of the states what would overwrite the settings that the caller has given."""
    if "kl_coeff" in given and any(
        item.pop("current_kl_coeff", None) is not None for item in states.values()
    ):
        report.carried = [name for name in report.carried if name != "kl_coeff"]
        report.dropped["kl_coeff"] = "config= has another"
    for policy_id, item in states.items():
        ours = algo.get_policy(policy_id).config.get("exploration_config") or {}
        theirs = (policies[policy_id]["config"].get("exploration_config") or {}).get("type")
        if "exploration_config" in given and theirs and str(ours.get("type")) != str(theirs):
            item.pop("_exploration_state", None)
            report.dropped[f"exploration/{policy_id}"] = f"it is of a {theirs!s:.40}, and config= has another"


def _follow_config(policy: Any, policy_id: str, given: Collection[str], report: RestoreReport) -> None:
    """Let optimizers and schedules be as the config says at this step: saved rates would override it."""
    policy.on_global_var_update({"timestep": policy.global_timestep})
    optimizers = [item for item in getattr(policy, "_optimizers", ()) if hasattr(item, "param_groups")]
    rates: list[Any] = [getattr(policy, "cur_lr", None)] * len(optimizers)
    if len(optimizers) == 2 and getattr(policy, "cur_lr2", None) is not None:
        rates[1] = policy.cur_lr2
    elif rates and rates[0] is None:
        roles = policy.config.get("optimization") or {}  # SAC and its kin: actor, critics, alpha
        names = ["actor", *["critic"] * (len(rates) - 2), "entropy"]
        rates = [roles.get(f"{name}_learning_rate") for name in names] if len(rates) > 2 else rates
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups if rate is not None else ():
            group["lr"] = float(rate)
            if "adam_epsilon" in given and "eps" in group:
                group["eps"] = float(policy.config["adam_epsilon"])
    if {"lr", "lr_schedule", "optimization"} & set(given) and None in rates:
        report.dropped[f"config/lr of {policy_id}"] = "this policy's optimizers have rates of their own"
    if "lr" in given and getattr(policy, "_lr_schedule", None):
        report.dropped[f"config/lr of {policy_id}"] = "lr_schedule says the rate: pass config= with both"
    if "lr" in given and not hasattr(policy, "cur_lr"):
        report.dropped[f"config/lr of {policy_id}"] = "its rates are in config['optimization']"


def build_policy_state(policy: Mapping[str, Any], report: RestoreReport) -> dict[str, Any]:
    """The state for ``Policy.set_state`` of the installed Ray."""
    found: dict[str, Any] = {
        "weights": dict(policy["weights"]),
        "global_timestep": policy["global_timestep"] or 0,
        "_exploration_state": policy["exploration"],
    }
    optimizers = policy["optimizer"]
    if optimizers and "variables" not in optimizers:  # TensorFlow's have variables: see `fit`
        found["_optimizer_variables"] = [_convert_optimizer(item) for item in optimizers.values()]
        report.carried.append("optimizer")
    if policy["kl_coeff"] is not None:
        found["current_kl_coeff"] = policy["kl_coeff"]
        report.carried.append("kl_coeff")
    if not policy["exploration"]:
        del found["_exploration_state"]
    return found


def fit(
    policy: Any, document: dict[str, Any], stored: Mapping[str, Any], what: str, report: RestoreReport
) -> None:
    """Bring the `document` for ``policy.set_state`` into the form that `policy` takes.

    Eager policies of TensorFlow have their weights in a list, which the model names by position. Variables of
    an optimizer fit the static ones, by name. Raises UnreadableFormat for weights that don't fit.
    """
    ours = policy.get_weights()
    listed = isinstance(ours, list)
    named = {str(index): value for index, value in enumerate(ours)} if listed else ours
    check_weights(named, document["weights"], what)
    if listed:
        document["weights"] = [document["weights"][name] for name in named]
    variables = stored["optimizer"].get("variables")
    if variables:
        own = getattr(getattr(policy, "_optimizer_variables", None), "variables", {})
        if own and own.keys() == variables.keys():
            document["_optimizer_variables"] = variables
            report.carried.append("optimizer")
        else:
            report.dropped["optimizer"] = "RLlib sets TensorFlow's variables only in static graphs, by name"


def _convert_optimizer(item: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one optimizer, with each parameter's step as float32, which torch requires."""
    state = {
        parameter: {
            name: np.asarray(value, "f4") if name == "step" else value for name, value in values.items()
        }
        for parameter, values in item["state"].items()
    }
    return {"state": state, "param_groups": [dict(group) for group in item["param_groups"]]}


def check_weights(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    what: str,
    optional: tuple[str, ...] = (),
    remedy: str = "Pass config= with the settings of the model that was trained",
) -> None:
    """Raise UnreadableFormat unless both have the same names and shapes."""
    missing = [name for name in ours if name not in theirs and not name.endswith(optional or ("\0",))]
    more = [name for name in theirs if name not in ours]
    other = [name for name in theirs if name in ours and np.shape(ours[name]) != np.shape(theirs[name])]
    if missing or more or other:
        wrong = ", ".join((missing + more + other)[:4])
        raise UnreadableFormat(
            what,
            f"the installed Ray builds another network for this config: {wrong}",
            remedy,
        )


def _build_filters(
    algo: Any, state: Mapping[str, Any], policies: Mapping[str, Any], report: RestoreReport
) -> dict[str, Any]:
    """The env runner's own filters, set to the stored ones; RLlib requires one for each policy."""
    result = algo.env_runner.get_filters()
    for policy_id, ours in result.items():
        stored = state["filters"].get(policy_id)
        if hasattr(ours, "running_stats") and stored and "running_stats" in stored:
            for name in ("running_stats", "buffer"):
                set_stat(getattr(ours, name), stored[name])
        elif hasattr(ours, "running_stats"):
            report.dropped[f"filters/{policy_id}"] = "the checkpoint holds none"
    for policy_id in policies:
        stored = state["filters"].get(policy_id) or {}
        if "running_stats" in stored and not hasattr(result.get(policy_id), "running_stats"):
            report.dropped[f"filters/{policy_id}"] = "the config has no filter: observations come as they are"
    return dict(result)


def set_stat(ours: Any, stored: Mapping[str, Any]) -> None:
    """Set a ``RunningStat``, whose sum of squared differences was called ``std_array`` before Ray 2.41."""
    squares = stored.get("sum_sq_diff_array", stored.get("std_array"))
    ours.num_pushes = int(stored["num_pushes"])
    ours.mean_array = np.array(stored["mean_array"])
    ours.sum_sq_diff_array = np.array(squares)
    zeros = np.zeros_like(ours.mean_array)
    ours.num_pushes_delta = int(stored.get("num_pushes_delta", 0))
    ours.mean_delta_array = np.array(stored.get("mean_delta_array", zeros))
    ours.sum_sq_diff_delta_array = np.array(stored.get("sum_sq_diff_delta_array", zeros))


def _build_buffers(buffers: Mapping[str, Any], policies: Mapping[str, Any]) -> dict[str, Any]:
    """The replay buffers with batches of the installed Ray's own class."""
    return {
        **buffers,
        "replay_buffers": {
            policy_id: {**buffer, "_storage": [build_batch(item) for item in buffer["_storage"]]}
            for policy_id, buffer in buffers["replay_buffers"].items()
            if policy_id in policies
        },
    }


def build_batch(item: Mapping[str, Any]) -> Any:
    """A ``SampleBatch`` or ``MultiAgentBatch`` of the installed Ray."""
    from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

    if "sample_batches" in item:
        inner = {name: build_batch(value) for name, value in item["sample_batches"].items()}
        return MultiAgentBatch(inner, item["count"])
    columns = dict(item["sample_batch"])
    if "terminateds" in columns and "truncateds" not in columns:
        columns["truncateds"] = np.zeros_like(columns["terminateds"])
    made = SampleBatch(columns)
    attributes = item.get("attributes") or {}
    made.zero_padded = bool(attributes.get("zero_padded", False))
    made.max_seq_len = attributes.get("max_seq_len")
    return made
