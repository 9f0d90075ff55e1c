"""Restore an algorithm of RLlib's new API stack to the state in a checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.format import names
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import connectors
from ckptstore.integrations.rllib.code import Code
from ckptstore.integrations.rllib.oldstack import check_weights
from ckptstore.integrations.rllib.report import RestoreReport
from ckptstore.read.contents import Contents
from ckptstore.rllib_formats.layouts.base import LEARNER_ONLY
from ckptstore.rllib_formats.networks import new_stack, new_stack_module
from ckptstore.rllib_formats.networks.normal import normal_of

_DEFAULT_MODULE = re.compile(r"ray\.rllib\.algorithms\..*RLModule\Z")
"""RLlib's defaults, whose classes moved and were renamed: the installed Ray knows its own."""
_STEPS = "num_env_steps_sampled_lifetime"
# Buffers that hold a constant, and that only some releases have.
CONSTANTS = ("log_std_clip_param_const",)

# The learner API of Ray up to 2.37 kept the old stack's counters.
_COUNTERS = {
    "num_env_steps_sampled": "env_runners/num_env_steps_sampled_lifetime",
    "num_env_steps_trained": "learners/__all_modules__/num_env_steps_trained_lifetime",
}

MODEL_RENAMED = {
    **new_stack.RENAMED,
    "fcnet_weights_initializer": "fcnet_kernel_initializer",  # 2.38
    "fcnet_weights_initializer_config": "fcnet_kernel_initializer_kwargs",  # 2.38
    "fcnet_bias_initializer_config": "fcnet_bias_initializer_kwargs",  # 2.38
}
"""Keys of a module's model config that have another name today, by their old name."""


def module_ids(algo: Any) -> list[str]:
    """The ids of the modules that `algo` trains or runs."""
    return sorted(algo.learner_group.get_weights())


def convert(state: Mapping[str, Any], policies: Mapping[str, Any], report: RestoreReport) -> dict[str, Any]:
    """The policies of an old-stack checkpoint as modules, each in the model of ``docs/model.md``.

    Raises UnreadableFormat for networks that aren't RLlib's own, and for observations that went through a
    filter: without it a policy would get inputs that it was never trained on.
    """
    for policy_id, stored in state["filters"].items():
        if policy_id in policies and normal_of(stored, report.source) is not None:
            raise UnreadableFormat(
                report.source,
                f"the observations of {policy_id!r} went through a {stored['filter']}",
                "Restore it on the old stack, or with a MeanStdFilter connector of your own",
            )
    if state["replay_buffers"]:
        report.dropped["replay_buffers"] = "replay buffers of the new stack hold episodes"
    result = {}
    for policy_id, policy in policies.items():
        module = new_stack_module(policy, f"{report.source} policy {policy_id!r}")
        report.notes += [f"{policy_id}: not carried: {line}" for line in module.dropped]
        result[policy_id] = {
            **policy,
            "policy_class": module.class_name,
            "weights": module.weights,
            "optimizer": module.optimizer,
            "config": module.model_config,
            "extra": {"inference_only": module.inference_only},
        }
    return result


def adapt(target: Any, state: Mapping[str, Any]) -> None:
    """Set the settings that have other names on the new stack."""
    stored = state["config"]
    rates = stored.get("optimization") or {}
    for name, role in (("actor_lr", "actor"), ("critic_lr", "critic"), ("alpha_lr", "entropy")):
        if hasattr(target, name) and f"{role}_learning_rate" in rates:
            setattr(target, name, rates[f"{role}_learning_rate"])
    exploration = stored.get("exploration_config") or {}
    if hasattr(target, "epsilon") and exploration.get("type") == "EpsilonGreedy":
        steps = int(exploration.get("epsilon_timesteps", 10000))
        first, last = exploration.get("initial_epsilon", 1.0), exploration.get("final_epsilon", 0.05)
        target.epsilon = [(0, first), (steps, last)]


def specify_modules(
    target: Any, code: Code, policies: Mapping[str, Any], given: Collection[str], report: RestoreReport
) -> None:
    """Set in the config `target` the class and model config of each module, except what is `given`.

    Raises InvalidRequest, naming the class, for one that is neither Ray's own nor in a checkpoint to be
    trusted: the default would take weights of the same names and compute something else.
    """
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    specs = {
        policy_id: RLModuleSpec(
            module_class=find_module_class(policy, policy_id, code),
            model_config=build_model_config(target, policy, given),
            learner_only=is_learner_only(policy),
        )
        for policy_id, policy in policies.items()
    }
    single = specs.get(names.DEFAULT_POLICY) if len(specs) == 1 else None
    target.rl_module(rl_module_spec=single or MultiRLModuleSpec(rl_module_specs=specs))
    report.carried.append("model_config")


def read_learner_modules(source: Contents) -> dict[str, Any]:
    """The modules that only the Learner has, by their ids, each as a policy is."""
    found = [name for name in source.components if name.startswith(LEARNER_ONLY)]
    return {name.removeprefix(LEARNER_ONLY): source.component(name) for name in found}


def is_learner_only(policy: Mapping[str, Any]) -> bool:
    """Whether a module is no agent's policy, but a part of the learner, such as a curiosity model."""
    return bool(policy["extra"].get("learner_only"))


def find_module_class(policy: Mapping[str, Any], policy_id: str, code: Code | None) -> Any:
    """The class of a module that isn't RLlib's default; None for one that is.

    Ray's own classes are imported; others are asked for, or built by the `code` of a trusted checkpoint.
    """
    name, _, _ = new_stack.read_description(policy)
    if _DEFAULT_MODULE.match(name) or name.endswith("Policy"):
        return None  # a policy that wraps a module without a record of it has the default
    found = configs.resolve(Opaque(name))
    if isinstance(found, type):
        return found
    remedy = 'Pass config={"rl_module_spec": RLModuleSpec(module_class=...)}'
    what = f"module {policy_id!r}"
    if code is None or not code.trusted:
        raise InvalidRequest(
            what, f"it is of the class {name:.120}, which isn't RLlib's own", f"{remedy}, or trusted=True"
        )
    return code.build(what, policy["extra"].get("class") or Opaque(name), remedy)


def build_model_config(target: Any, policy: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """The model config of `policy`, a module in the model of ``docs/model.md``, with today's keys.

    What the caller has `given` in the config `target`, such as DQN's epsilon, comes before what was saved.
    """
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    result = {**dataclasses.asdict(DefaultModelConfig()), **target._model_config_auto_includes}
    kind, stored, _ = new_stack.read_description(policy)
    default = _DEFAULT_MODULE.match(kind) or kind.endswith("Policy")
    for key, value in stored.items():
        name = MODEL_RENAMED.get(key, key)
        if name in result or not default:  # a class of one's own may have keys of its own
            result[name] = configs.resolve(value)
    result |= new_stack.find_unbuilt(policy["weights"], result) if default else {}
    result |= {name: value for name, value in target._model_config_auto_includes.items() if name in given}
    own = target._model_config if "_model_config" in given else None
    return {**result, **(dataclasses.asdict(own) if dataclasses.is_dataclass(own) else own or {})}  # type: ignore[arg-type]


def load(
    algo: Any,
    state: Mapping[str, Any],
    policies: Mapping[str, Any],
    learner: Mapping[str, Any],
    given: Collection[str],
    partial: bool,
    report: RestoreReport,
) -> None:
    """Set modules, optimizers, counters, iteration, connectors and KL coefficients, remote ones included.

    What the caller has `given`, by the names of attributes, isn't overwritten by what was saved.
    """
    ours = algo.learner_group.get_weights()
    for module_id in sorted(policies.keys() - ours.keys()):
        if is_learner_only(policies[module_id]):
            report.dropped[f"{names.COMPONENTS}/{LEARNER_ONLY}{module_id}"] = (
                "this algorithm has no such module"
            )
            policies = {name: policy for name, policy in policies.items() if name != module_id}
    weights: dict[str, Any] = {}
    new_parts: dict[str, set[str]] = {}
    for policy_id, policy in policies.items():
        what = f"{report.source} policy {policy_id!r}"
        stored = {_rename_target(name, ours[policy_id]): value for name, value in policy["weights"].items()}
        odd = _find_odd_parts(ours[policy_id], stored) if partial else set()
        if odd:
            fitting, stored = _leave_out(ours[policy_id], odd), _leave_out(stored, odd)
            check_weights(fitting, stored, what, optional=CONSTANTS)
            why = "this Ray builds it otherwise, so it starts anew"
            report.dropped |= {f"weights/{policy_id}/{part}": why for part in sorted(odd)}
            new_parts[policy_id] = odd
        else:
            check_weights(ours[policy_id], stored, what, optional=CONSTANTS, remedy=_REMEDY)
        weights[policy_id] = {**ours[policy_id], **stored}
    optimizers = _choose_optimizers(algo, policies, new_parts, report)
    runner = _build_runner_state(algo, state, report)
    # An env runner that has seen this number or a higher one would keep its weights.
    sequence = max(_read_sequence(algo) + 1, int(learner.get("weights_seq_no") or 0))
    document: dict[str, Any] = {"weights_seq_no": sequence, "rl_module": weights, "optimizer": optimizers}
    same = report.written_by == _ray_version()
    if same and learner.get("metrics_logger"):
        document["metrics_logger"] = learner["metrics_logger"]
    algo.learner_group.set_state({"learner": document})
    report.carried.append("weights")
    connectors.set_everywhere(algo, runner)
    if same and state["metrics"]:
        algo.metrics.set_state(state["metrics"])
        report.carried.append("metrics")
    else:
        _set_lifetime_sums(algo, state["counters"], report)
        if state["metrics"]:
            report.dropped["metrics"] = (
                "windows of recent values start anew across releases; lifetime sums are kept"
            )
    report.carried.append("counters")
    if state["iteration"] is not None:
        algo._iteration = state["iteration"]
        report.carried.append("iteration")
    if "kl_coeff" in given:
        report.dropped["kl_coeff"] = "config= has another"
    else:
        _set_kl_coefficients(algo, state, policies, report)
    steps = _read_steps(state)
    if steps is not None:
        connectors.set_schedules(algo, list(policies), steps)
    for group in (algo.env_runner_group, algo.eval_env_runner_group):
        if group is not None:
            # With the critic: an env runner may have one, although it doesn't need it.
            group.sync_weights(from_worker_or_learner_group=algo.learner_group, inference_only=False)


def _rename_target(name: str, ours: Mapping[str, Any]) -> str:
    """The name of a weight today: APPO's target networks have had an underscore in front since Ray 2.34."""
    return f"_{name}" if name not in ours and f"_{name}" in ours else name


_CRITIC = re.compile(r"(_?target_)?qf")
_ACTING = re.compile(r"(pi|pi_encoder|encoder|af)\Z")
_REMEDY = (
    "Pass config= with the settings of the model that was trained, or partial=True if only critics differ"
)


def _find_odd_parts(ours: Mapping[str, Any], stored: Mapping[str, Any]) -> set[str]:
    """The parts of a module, by the beginnings of the weights' names, that are others here and don't act.

    Where anything of the critics is, all of them are: a head means nothing without its encoder.
    """
    names = [name for name in {*ours, *stored} if not name.endswith(CONSTANTS)]
    odd = {
        name.partition(".")[0]
        for name in names
        if name not in ours or name not in stored or np.shape(ours[name]) != np.shape(stored[name])
    }
    if any(_CRITIC.match(part) for part in odd):
        odd |= {part for name in names if _CRITIC.match(part := name.partition(".")[0])}
    return {part for part in odd if not _ACTING.match(part)}


def _leave_out(weights: Mapping[str, Any], parts: set[str]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if name.partition(".")[0] not in parts}


def _choose_optimizers(
    algo: Any, policies: Mapping[str, Any], new_parts: Mapping[str, set[str]], report: RestoreReport
) -> dict[str, Any]:
    """The learner's optimizers that have a stored state. RLlib ignores names that it doesn't know.

    One of a part that starts anew does so, too; so does the only one, if any part does.
    """
    result = {}
    live = algo.learner_group.get_state(components="learner/optimizer")["learner"]["optimizer"]
    for policy_id, policy in policies.items():
        prefix = f"{policy_id}_"
        ours = {name[len(prefix) :] for name, item in live.items() if item["module_id"] == policy_id}
        stored = {
            name: new_stack.without_targets(item, list(policy["weights"]))
            for name, item in policy["optimizer"].items()
        }
        parts = new_parts.get(policy_id, set())
        for name in [name for name in stored if parts and (len(stored) == 1 or name.startswith("qf"))]:
            del stored[name]
        if len(ours) == len(stored) == 1:
            stored = dict(zip(ours, stored.values(), strict=True))  # Ray 2.5 named it after its module
        for name in sorted(ours ^ stored.keys()):
            why = "none was saved, so it starts anew"
            if name in stored:
                why = "it was saved, but this Ray has none"
            elif parts:
                why = "what it trains starts anew, and so does it"
            report.dropped[f"optimizer/{policy_id}/{name}"] = why
        result.update(
            {
                f"{prefix}{name}": {"module_id": policy_id, "state": _convert_optimizer(item)}
                for name, item in stored.items()
                if name in ours
            }
        )
    if result:
        report.carried.append("optimizer")
    return result


def _convert_optimizer(item: Mapping[str, Any]) -> dict[str, Any]:
    inner = item.get("state", item) if "param_groups" not in item else item
    return {
        "state": {
            parameter: {
                name: np.asarray(value, "f4") if name == "step" else value for name, value in values.items()
            }
            for parameter, values in inner["state"].items()
        },
        "param_groups": [
            {
                key: tuple(value) if key == "betas" else configs.to_scalar(value)
                for key, value in group.items()
            }
            for group in inner["param_groups"]
        ],
    }


def _ray_version() -> str:
    import ray

    return str(ray.__version__)


def _read_sequence(algo: Any) -> int:
    found = algo.learner_group.get_state(components="learner/x")
    return int((found.get("learner") or {}).get("weights_seq_no") or 0)


def _build_runner_state(algo: Any, state: Mapping[str, Any], report: RestoreReport) -> dict[str, Any]:
    """What every env runner gets: the steps sampled so far, and the states of connectors."""
    document = connectors.build_states(algo, state, report)
    if document:
        report.carried.append("connectors")
    steps = _read_steps(state)
    return document if steps is None else {**document, _STEPS: steps}


def _read_steps(state: Mapping[str, Any]) -> int | None:
    """How many steps of the environment all env runners have sampled."""
    counters = state["counters"]
    for found in (
        state["env_runner"].get(_STEPS),
        counters.get(_STEPS),
        counters.get(f"env_runners/{_STEPS}"),
        counters.get("num_env_steps_sampled"),
    ):
        if found is not None:
            return int(found)
    return None


def _set_lifetime_sums(algo: Any, counters: Mapping[str, Any], report: RestoreReport) -> None:
    """Set the lifetime sums of the metrics by their paths, in the form that the installed Ray restores."""
    counters = {_COUNTERS.get(name, name): value for name, value in counters.items()}
    for name, value in counters.items():
        if name.startswith("num_agent_steps") and "/" not in name:
            report.dropped[f"counters/{name}"] = "the new stack counts each agent by itself"
        elif "/" not in name and name != _STEPS and value:
            report.dropped[f"counters/{name}"] = "the new stack has no such counter"
    classes = hasattr(algo.metrics, "stats_cls_lookup")  # since 2.53
    stats = {}
    for path, value in counters.items():
        if "/" not in path or not isinstance(value, (int, float, np.number)):
            continue
        stats[path.replace("/", "--")] = {
            **(
                {"stats_cls_identifier": "lifetime_sum", "is_root": True, "is_leaf": False} if classes else {}
            ),
            **(
                {"latest_merged": 0.0, "lifetime_sum": float(value), "track_throughputs": False}
                if classes
                else {}
            ),
            **({} if classes else {"values": [value], "reduce": "sum", "window": None, "ema_coeff": None}),
            **({} if classes else {"clear_on_reduce": False}),
        }
    algo.metrics.set_state({"stats": stats})


def _set_kl_coefficients(
    algo: Any, state: Mapping[str, Any], policies: Mapping[str, Any], report: RestoreReport
) -> None:
    """Set the adaptive KL coefficients, which RLlib keeps in the learner but saves only as a metric."""
    found = {}
    stats = (state["metrics"] or {}).get("stats") or {}
    for policy_id, policy in policies.items():
        metric = stats.get(f"learners--{policy_id}--curr_kl_coeff") or {}
        values = metric.get("values") or metric.get("latest_merged")
        if policy["kl_coeff"] is not None and report.converted:
            found[policy_id] = float(policy["kl_coeff"])
        elif values is not None and np.size(values):
            found[policy_id] = float(np.ravel(list(np.ravel(values)))[-1])
    if not found:
        if getattr(algo.config, "use_kl_loss", False):
            report.dropped["kl_coeff"] = "RLlib saved none, so it starts as the config says"
        return
    report.carried.append("kl_coeff")

    def put(learner: Any) -> None:
        for policy_id, value in found.items():
            learner.curr_kl_coeffs_per_module[policy_id].data.fill_(value)

    algo.learner_group.foreach_learner(put)
