"""Translate configs of older RLlib releases into the attributes of the installed one.

An old config is plain data: nothing of it is unpickled, and only names of Ray's own classes are imported. The
tables say what became of each attribute, and in which release.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, EnumMeta
from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest
from ckptstore.format import names

DEPRECATED = -1
"""RLlib's value for an attribute that is kept only to report that it was removed."""


class Renamed(NamedTuple):
    """An attribute with another name since `release`, the first Ray with the new name."""

    old: str
    new: str
    release: str


class Removed(NamedTuple):
    """An attribute that Ray no longer has since `release`: why, and whether the user should be told.

    Without a release it was never a setting, but something that a run computed.
    """

    name: str
    release: str
    why: str
    matters: bool = False


RENAMED = (
    # Keys of the config dict of Ray 2.1 and older; policies still have them.
    Renamed("callbacks", "callbacks_class", "2.2"),
    Renamed("create_env_on_driver", "create_env_on_local_worker", "2.2"),
    Renamed("custom_eval_function", "custom_evaluation_function", "2.2"),
    Renamed("framework", "framework_str", "2.2"),
    Renamed("input", "input_", "2.2"),
    Renamed("lambda", "lambda_", "2.2"),
    Renamed("num_cpus_for_driver", "num_cpus_for_main_process", "2.2"),
    Renamed("num_workers", "num_env_runners", "2.2"),
    Renamed("learning_starts", "num_steps_sampled_before_learning_starts", "2.2"),
    # The first names of the learners.
    Renamed("num_trainer_workers", "num_learners", "2.4"),
    Renamed("num_cpus_per_trainer_worker", "num_cpus_per_learner", "2.4"),
    Renamed("num_gpus_per_trainer_worker", "num_gpus_per_learner", "2.4"),
    Renamed("is_atari", "_is_atari", "2.6"),
    # Rollout workers became env runners, learner workers learners.
    Renamed("num_rollout_workers", "num_env_runners", "2.20"),
    Renamed("num_envs_per_worker", "num_envs_per_env_runner", "2.20"),
    Renamed("evaluation_num_workers", "evaluation_num_env_runners", "2.20"),
    Renamed("validate_workers_after_construction", "validate_env_runners_after_construction", "2.20"),
    Renamed("ignore_worker_failures", "ignore_env_runner_failures", "2.20"),
    Renamed("recreate_failed_workers", "restart_failed_env_runners", "2.20"),
    Renamed("max_num_worker_restarts", "max_num_env_runner_restarts", "2.20"),
    Renamed("delay_between_worker_restarts_s", "delay_between_env_runner_restarts_s", "2.20"),
    Renamed(
        "num_consecutive_worker_failures_tolerance", "num_consecutive_env_runner_failures_tolerance", "2.20"
    ),
    Renamed("worker_health_probe_timeout_s", "env_runner_health_probe_timeout_s", "2.20"),
    Renamed("worker_restore_timeout_s", "env_runner_restore_timeout_s", "2.20"),
    Renamed("num_cpus_for_local_worker", "num_cpus_for_main_process", "2.23"),
    Renamed("num_cpus_per_worker", "num_cpus_per_env_runner", "2.23"),
    Renamed("num_gpus_per_worker", "num_gpus_per_env_runner", "2.23"),
    Renamed("custom_resources_per_worker", "custom_resources_per_env_runner", "2.23"),
    Renamed("num_learner_workers", "num_learners", "2.23"),
    Renamed("num_cpus_per_learner_worker", "num_cpus_per_learner", "2.23"),
    Renamed("num_gpus_per_learner_worker", "num_gpus_per_learner", "2.23"),
    Renamed("max_requests_in_flight_per_sampler_worker", "max_requests_in_flight_per_env_runner", "2.38"),
    Renamed("num_sgd_iter", "num_epochs", "2.38"),
    Renamed("sgd_minibatch_size", "minibatch_size", "2.38"),
    Renamed("mini_batch_size_per_learner", "minibatch_size", "2.38"),
    Renamed("shuffle_sequences", "shuffle_batch_per_epoch", "2.38"),
    Renamed("_model_config_dict", "_model_config", "2.38"),
    Renamed("recreate_failed_env_runners", "restart_failed_env_runners", "2.39"),
    Renamed("train_batch_size_per_learner", "_train_batch_size_per_learner", "2.41"),
    Renamed("_AlgorithmConfig__prior_exploration_config", "_prior_exploration_config", "2.41"),
)

REMOVED = (
    Removed("no_done_at_end", "2.3", "episodes end as the environment says", True),
    Removed("horizon", "2.3", "wrap the environment in gymnasium's TimeLimit", True),
    Removed("soft_horizon", "2.3", "wrap the environment in gymnasium's TimeLimit", True),
    Removed("_rl_trainer_hps", "2.4", "derived from the other attributes"),
    Removed("_learner_hps", "2.8", "derived from the other attributes"),
    Removed("rl_trainer_class", "2.4", "the default learner is used", True),
    Removed("rl_module_class", "2.4", "the class is the module's own", True),
    Removed("learner_class", "2.5", "the default learner is used", True),
    Removed("_enable_rl_trainer_api", "2.4", "the API stack follows from the checkpoint"),
    Removed("_enable_rl_module_api", "2.9", "the API stack follows from the checkpoint"),
    Removed("_enable_learner_api", "2.9", "the API stack follows from the checkpoint"),
    Removed("_validate_exploration_conf_and_rl_modules", "2.5", "a switch of that release's validation"),
    Removed("_disable_execution_plan_api", "2.9", "execution plans are gone"),
    Removed("sample_async", "2.9", "sampling in a thread is gone"),
    Removed("rl_module_spec", "2.9", "built from each module's own description"),
    Removed("_rl_module_spec", "", "built from each module's own description"),
    Removed("auto_wrap_old_gym_envs", "2.12", "gym environments need a wrapper of your own"),
    Removed("enable_async_evaluation", "2.9", "use evaluation_parallel_to_training", True),
    Removed("_enable_new_api_stack", "2.21", "the API stack follows from the checkpoint"),
    Removed("enable_rl_module_and_learner", "", "the API stack follows from the checkpoint"),
    Removed("enable_env_runner_and_connector_v2", "", "the API stack follows from the checkpoint"),
    Removed("input_evaluation", "2.2", "use off_policy_estimation_methods", True),
    Removed("replay_batch_size", "2.2", "follows from train_batch_size"),
    Removed("always_attach_evaluation_results", "2.32", "results are always attached"),
    Removed("enable_connectors", "2.39", "the old stack always has them"),
    Removed("_evaluation_parallel_to_training_wo_thread", "2.40", "an experiment of those releases"),
    Removed("_run_training_always_in_thread", "2.40", "an experiment of those releases"),
    Removed("env_task_fn", "2.40", "set the task from a callback", True),
    Removed("logger_config", "2.54", "give Tune a logger callback", True),
    Removed("logger_creator", "2.54", "give Tune a logger callback", True),
    # Computed by the run: not settings.
    Removed("class", "", "the installed Ray's own"),
    Removed("algo_class", "", "the installed Ray's own"),
    Removed("_is_frozen", "", "set when the algorithm is built"),
    Removed("_per_module_overrides", "", "a cache"),
    Removed("env_runner_cls", "", "follows from the API stack and the environment"),
    Removed("worker_index", "", "set for each env runner"),
    Removed("stats_cls_lookup", "", "the installed Ray's own"),
    Removed("sample_collector", "", "the installed Ray's own"),
    Removed("in_evaluation", "", "set for each env runner"),
)

CLASSES = {
    "ray.rllib.algorithms.callbacks.DefaultCallbacks": "ray.rllib.callbacks.callbacks.RLlibCallback",  # 2.41
    "ray.rllib.core.learner.learner.TorchCompileWhatToCompile": (
        "ray.rllib.algorithms.algorithm_config.TorchCompileWhatToCompile"  # 2.10
    ),
}
"""Ray's own classes that attributes hold: old name to new name."""

VALUES: Mapping[tuple[str, Any], Any] = {
    ("gym_env_vectorize_mode", "SYNC"): "sync",  # 2.53
    ("gym_env_vectorize_mode", "ASYNC"): "async",  # 2.53
    ("gym_env_vectorize_mode", "VECTOR_ENTRY_POINT"): "vector_entry_point",  # 2.53
}

_STARTS, _BEFORE_LEARNING = "learning_starts", "num_steps_sampled_before_learning_starts"

PLACES: Mapping[str, tuple[Any, ...]] = {"input_": (None, "sampler"), "output": (None, "logdir")}
"""Attributes that say where a run reads or writes data, and the values that name no place."""

_OLD_STACK_ONLY = {
    "exploration_config",
    "_prior_exploration_config",
    "observation_filter",
    "simple_optimizer",
}
_BY_THE_CALLER = {
    "policies",
    "policy_mapping_fn",
    "policies_to_train",
    "multiagent",
    "env",
    "evaluation_config",
}
# RLlib makes an object of the class under "type" in them.
_MAKES = {"replay_buffer_config", "exploration_config", "_prior_exploration_config"}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
_REMOVED = {item.name: item for item in REMOVED}
_NOT_SERIALIZABLE = "__not_serializable__"


@dataclass
class Translation:
    """An old config with the attributes of the installed Ray."""

    values: dict[str, Any] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Attribute to reason, for the attributes that were lost."""


def translate(config: Mapping[str, Any], target: Any, new_stack: bool, places: bool = False) -> Translation:
    """The attributes of `config`, written by any release, that the config object `target` has.

    The environment, the policies and their mapping are left to the caller, since they may be code. So are the
    files and directories that the writer's machine read from and wrote to, unless `places` is True. `target`
    is not changed.
    """
    known = vars(target)
    result = Translation()
    for name, value in _rename(config, known, result):
        if name == "evaluation_config" and value and config.get("evaluation_interval"):
            result.dropped[name] = "it may hold anything: pass it in config="
        if name in _BY_THE_CALLER or (new_stack and name in _OLD_STACK_ONLY):
            continue
        if name in _REMOVED or name not in known:
            _drop(name, value, result)
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value == DEPRECATED:
            continue
        if not places and name in PLACES and value not in PLACES[name] and not _names_code(value):
            result.dropped[name] = "a place of the machine that wrote it: pass it in config="
            continue
        if name == "model":
            value, unknown = _model(value, known.get("model") or {})
            result.dropped.update({f"model.{key}": "this Ray has no such setting" for key in unknown})
        found = resolve(_value(name, value, known[name]))
        if name == "replay_buffer_config" and isinstance(value, Mapping) and value.get(_STARTS):
            result.renamed.append(f"{name}/{_STARTS} -> {_BEFORE_LEARNING} (2.2)")
            result.values[_BEFORE_LEARNING] = value[_STARTS]
        if found is UNKNOWN:
            result.dropped[name] = f"{IS_CODE} ({_name_code(value)})"
        else:
            result.values[name] = found
    return result


def find_attribute(target: Any, name: str) -> str:
    """The attribute of the config object `target` that a caller means by `name`, RLlib's word for it.

    Methods of a config take ``env_to_module_connector=``, for example, and keep it with an underscore in
    front; names of earlier releases lead to today's. InvalidRequest if there is none.
    """
    for found in (name, f"_{name}"):
        own = getattr(type(target), found, None)
        if found in vars(target) or (isinstance(own, property) and own.fset is not None):
            return found
    today = next((item.new for item in RENAMED if item.old == name), None)
    if today is not None and today in vars(target):
        return today
    if name in _BY_THE_CALLER:
        return name
    raise InvalidRequest("config", f"this Ray's config has no {name!r}", "Check its spelling")


def _rename(
    config: Mapping[str, Any], known: Mapping[str, Any], result: Translation
) -> Iterator[tuple[str, Any]]:
    """Attributes by today's names; if both names are there, the one with a value wins."""
    found: dict[str, Any] = {str(name): value for name, value in config.items()}
    for old, new, release in RENAMED:
        if old not in found or old == new:
            continue
        value = found.pop(old)
        if value is None or (isinstance(value, int) and value == DEPRECATED and value is not False):
            found.setdefault(new, value)
            continue
        result.renamed.append(f"{old} -> {new} ({release})")
        found[new] = value
    yield from found.items()


def _drop(name: str, value: Any, result: Translation) -> None:
    if value is None or value is False or value in ((), DEPRECATED, _NOT_SERIALIZABLE) or value == {}:
        return
    removed = _REMOVED.get(name)
    if removed and not removed.matters:
        return
    why = f"gone in Ray {removed.release}: {removed.why}" if removed else "this Ray has no such attribute"
    result.dropped[name] = why


def _model(value: Any, defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    given = value if isinstance(value, Mapping) else {}
    unknown = [
        key for key, item in given.items() if key not in defaults and item not in (None, False, DEPRECATED)
    ]
    return {**defaults, **{key: item for key, item in given.items() if key in defaults}}, unknown


def _value(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and (name, value) in VALUES:
        return VALUES[name, value]
    if isinstance(value, str) and isinstance(default, type):  # MessagePack has classes by name
        return Opaque(value)
    if isinstance(value, str) and isinstance(default, Enum) and not isinstance(value, Enum):
        return type(default)(value.rpartition(".")[2].lower())
    if isinstance(value, Opaque) and value.name.endswith(".DefaultModelConfig"):
        return dict(value.state or {})
    if name in _MAKES and isinstance(value, Mapping):
        return _short_types(value)
    if name in PLACES and _names_code(value):
        return Opaque(value)
    if value == _NOT_SERIALIZABLE:
        return default
    return value


def _names_code(value: Any) -> bool:
    return isinstance(value, str) and "://" not in value and may_import(value)


def may_import(text: str) -> bool:
    """Whether RLlib or gymnasium, asked for an object called `text`, might import and call anything."""
    return ":" in text or bool(_DOTTED.match(text))


def _short_types(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with every "type" in it, at any depth, as the bare name of one of RLlib's own classes.

    RLlib would import and call whatever a dotted name leads to, with the other keys as arguments.
    """
    result: dict[str, Any] = {}
    for key, item in value.items():
        if key in _REMOVED or key == _STARTS:
            continue
        if isinstance(item, Mapping):
            item = _short_types(item)
        elif key == "type" and isinstance(item, (str, Opaque)):
            name = item if isinstance(item, str) else item.name if item.args is None else ":"
            if may_import(name) and not name.startswith("ray.rllib."):
                return {"type": Opaque(name)}
            item = name.rpartition(".")[2]
        result[key] = item
    return result


UNKNOWN = object()
IS_CODE = "it is code"
"""How the reason begins for a setting that is left out since it is code."""


def resolve(value: Any) -> Any:
    """`value` with Ray's own classes instead of records of them; `UNKNOWN` if it holds other code."""
    if isinstance(value, Opaque):
        return _ray_object(value)
    if isinstance(value, str) and value in CLASSES:
        return _look_up(CLASSES[value])
    if isinstance(value, dict):
        inner = {key: resolve(item) for key, item in value.items()}
        return UNKNOWN if any(item is UNKNOWN for item in inner.values()) else inner
    if isinstance(value, (list, tuple)):
        items = [resolve(item) for item in value]
        return UNKNOWN if any(item is UNKNOWN for item in items) else type(value)(items)
    return value


def _ray_object(record: Opaque) -> Any:
    """Ray's own class, or member of an enumeration, that `record` stands for; else `UNKNOWN`."""
    args = record.args or ()
    if record.name == "functools.partial" and len(args) == 1 and record.state is None:
        return resolve(args[0])  # a CheckpointCallback is saved as RLlib's own callbacks, in a partial
    name = CLASSES.get(record.name, record.name)
    if not name.startswith("ray.rllib."):
        return UNKNOWN
    found = _look_up(name)
    if record.args is None and isinstance(found, type):
        return found
    if isinstance(found, EnumMeta) and record.args is not None and len(record.args) == 1:
        return found(record.args[0])
    return UNKNOWN


def _look_up(name: str) -> Any:
    """The object with the dotted `name` in the installed Ray, or `UNKNOWN`."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, UNKNOWN)
    except ImportError:
        return UNKNOWN


def is_code(value: Any) -> bool:
    """Whether `value` stands for a function or class that the caller has to pass.

    Ray's own classes are found by name, and so is its default mapping.
    """
    if isinstance(value, Opaque):
        return not (value.args is None and value.name.startswith("ray.rllib.") and "<" not in value.name)
    return isinstance(value, str) and (value == _NOT_SERIALIZABLE or "<locals>" in value)


def _name_code(value: Any) -> str:
    found: list[str] = []
    pending: list[Any] = [value]
    while pending and not found:
        item = pending.pop()
        if isinstance(item, Opaque):
            found.append(item.name)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
    return found[0] if found else type(value).__name__


def to_scalar(value: Any) -> Any:
    """`value` as a Python number if it is one of numpy's, which RLlib's validation refuses."""
    return value.item() if isinstance(value, np.generic) else value


def translate_single_policies(
    config: Mapping[str, Any], wanted: Iterable[str], target: Any, new_stack: bool
) -> tuple[dict[str, Translation], dict[str, str]]:
    """The settings of single policies, for today's ``PolicySpec(config=...)``, and what is lost of them.

    The settings that all policies share are in `target`. What is lost is a dict from path to reason.
    """
    specs = config.get("policies") or (config.get("multiagent") or {}).get("policies")
    found: dict[str, Translation] = {}
    dropped: dict[str, str] = {}
    for policy_id in wanted:
        spec = specs.get(policy_id) if isinstance(specs, Mapping) else None
        own = spec.get("config") if isinstance(spec, Mapping) else None
        if isinstance(spec, (list, tuple)) and len(spec) > 3:  # the class, two spaces, and this
            own = spec[3]
        where = f"{names.POLICIES}/{policy_id}/config"
        if own and isinstance(own, Mapping) and not new_stack:
            found[policy_id] = made = translate(own, target, False)
            dropped |= {f"{where}/{name}": why for name, why in made.dropped.items()}
        elif own:
            which = ", ".join(map(str, own)) if isinstance(own, Mapping) else "of a class"
            dropped[where] = f'its own settings ({which}): pass config={{"policies": ...}}'
    return found, dropped
