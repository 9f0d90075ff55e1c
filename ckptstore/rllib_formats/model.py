"""The model: what RLlib wrote, in the same fields whatever the release.

``docs/model.md`` says where each field comes from. The input is a raw checkpoint that `migrations` has
upgraded to the newest version; nothing here knows an older layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ckptstore.codec import npy
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats import pipelines

_LIFETIME = "_lifetime"
_SEPARATOR = "--"
_SPACES = Budget(bytes=256 * 2**20)  # bounds of all spaces nested in one: a large image has a few MB


def state(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The algorithm's part of the model, from the documents ``algorithm`` and ``tune_metadata`` in `raw`."""
    algorithm = raw.get("algorithm") or {}
    tune = _dict(raw.get("tune_metadata"))
    own, old = _dict(algorithm.get("algorithm_state")), _dict(algorithm.get("old_stack"))
    worker, runner = _dict(old.get("worker")), _dict(algorithm.get("env_runner"))
    ctor = _dict(algorithm.get("ctor"))
    config = config_dict(_config(ctor))
    metrics = own.get("metrics_logger")
    known = {"worker", "counters", "local_replay_buffer", "checkpoint_version"}
    return {
        "algorithm_class": class_name(ctor.get("class")),
        "iteration": _iteration(own, tune),
        "counters": _counters(old, runner, metrics, tune),
        "config": config,
        "policy_ids": list(algorithm.get("policy_ids") or ()),
        "policy_mapping_fn": worker.get("policy_mapping_fn", config.get("policy_mapping_fn")),
        "policies_to_train": _policies_to_train(config, worker),
        "filters": _dict(worker.get("filters")),
        "replay_buffers": old.get("local_replay_buffer"),
        "connectors": _dict(runner.get("connectors")),
        "metrics": metrics if metrics is not None else old.get("train_exec_impl") or {},
        "env_runner": _dict(runner.get("state")),
        "last_result": _dict(tune.get("last_result")),
        "extra": {
            **{key: value for key, value in old.items() if key not in known and key != "train_exec_impl"},
            **_pipelines(runner.get("pipelines")),
        },
    }


def _pipelines(found: Any) -> dict[str, Any]:
    """The connectors that aren't RLlib's defaults, by pipeline: class, and arguments if a file has them."""
    made = {
        slot: [
            {**item, "class": name}
            for item in items
            if (name := class_name(item["class"]) or "") and not pipelines.is_default(name)
        ]
        for slot, items in _dict(found).items()
    }
    return {"pipelines": made} if made else {}


def policy(raw: Mapping[str, Any], policy_id: str, source: str) -> dict[str, Any]:
    """One policy's part of the model. `source` names its file in errors."""
    old, ctor = _dict(raw.get("old_stack")), _dict(raw.get("ctor"))
    kwargs = _dict(ctor.get("kwargs"))
    taken = {
        "global_timestep",
        "num_grad_updates",
        "_exploration_state",
        "current_kl_coeff",
        "connector_configs",
        "checkpoint_version",
        "module_spec",
    }
    config = kwargs.get("config", kwargs.get("model_config"))
    spaces = {"observation_space", "action_space"}
    return {
        "policy_class": class_name(ctor.get("class")),
        "weights": weights(raw.get("module_state"), source),
        "optimizer": {
            str(name).removeprefix(f"{policy_id}_"): _unwrap(item)
            for name, item in _dict(raw.get("optimizer")).items()
        },
        "global_timestep": _integer(old.get("global_timestep")),
        "num_grad_updates": _integer(old.get("num_grad_updates")),
        "exploration": _dict(old.get("_exploration_state")),
        "kl_coeff": old.get("current_kl_coeff"),
        "observation_space": space(kwargs.get("observation_space")),
        "action_space": space(kwargs.get("action_space")),
        "config": config_dict(config),
        "connectors": _dict(old.get("connector_configs")),
        "extra": {
            **{key: value for key, value in old.items() if key not in taken},
            **_module(old.get("module_spec")),
            **({"class": ctor["class"]} if _is_by_value(ctor.get("class")) else {}),
            **{key: value for key, value in kwargs.items() if key not in {"config", "model_config"} | spaces},
        },
    }


def _is_by_value(kind: Any) -> bool:
    """Whether a class was pickled with its code, so that its name says too little."""
    return isinstance(kind, Opaque) and kind.args is not None


def _module(spec: Any) -> dict[str, Any]:
    """What the Learner recorded of the module in a policy of the old stack: its class and model config."""
    if not isinstance(spec, dict) or not spec:
        return {}
    kind = class_name(spec.get("class", spec.get("policy_class")))
    return {"module_spec": {"class": kind, "config": config_dict(spec.get("config"))}}


def weights(module_state: Any, source: str) -> dict[str, Any]:
    """Name to array, named as in the live algorithm; names in nested containers are joined by ``/``.

    A policy of eager TensorFlow has a list of weights: their names are "0", "1" and so on. A policy without
    a network has none (its `module_state` may be None). Raises UnsafeContent, naming the file `source`, if
    anything in it is not an array: part of the weights is worse than none.
    """
    flat: dict[str, Any] = {}
    if module_state is None:
        return flat
    pending: list[tuple[str, Any]] = [("", module_state)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            inner: Iterable[tuple[Any, Any]] = value.items()
        elif isinstance(value, (list, tuple)):
            inner = enumerate(value)
        elif isinstance(value, (np.ndarray, np.generic, float, int)) and name:
            flat[name] = np.asarray(value)
            if flat[name].dtype.hasobject:
                raise UnsafeContent(source, f"the weight {name!r:.80} is an array of Python objects")
            continue
        else:
            what = f"{value.name!r:.80}" if isinstance(value, Opaque) else type(value).__name__
            raise UnsafeContent(source, f"the weight {name!r:.80} is not an array: it is of type {what}")
        pending.extend((f"{name}/{key}" if name else str(key), item) for key, item in reversed(list(inner)))
    return flat


def class_name(value: Any) -> str | None:
    """The dotted name of a class that was pickled by name or by value (as Tune does), or spelled out."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Opaque):
        return None
    if value.args is None:
        return value.name
    if value.name.endswith("._make_skeleton_class") and len(value.args) > 1:
        parts = [*value.args, *(value.state if isinstance(value.state, tuple) else ())]
        modules = [part["__module__"] for part in parts if isinstance(part, dict) and "__module__" in part]
        name = str(value.args[1])
        return f"{modules[-1]}.{name}" if modules and isinstance(modules[-1], str) else name
    return value.name


def config_dict(config: Any) -> dict[str, Any]:
    """The config as a dict, with its attributes' names in the release that wrote it."""
    if isinstance(config, Opaque):
        return {**dict(config.entries or ()), **_dict(config.state), "class": config.name}
    return dict(config) if isinstance(config, dict) else {}


def space(value: Any, meter: Meter | None = None) -> Any:
    """The plain description of a space, whether it comes from a pickle or from RLlib's JSON for spaces."""
    meter = meter or Meter(_SPACES, 0)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("space"), dict):
        inner = space(value["space"], meter)
        original = value.get("original_space")
        return (
            {**inner, "original_space": space(original, meter)}
            if original and isinstance(inner, dict)
            else inner
        )
    result = dict(value)
    for key in ("low", "high", "nvec"):
        if isinstance(result.get(key), (str, bytes)):
            result[key] = npy.npy_base64(result[key], meter)
    inner = result.get("spaces")
    if isinstance(inner, dict):
        result["spaces"] = {key: space(item, meter) for key, item in inner.items()}
    elif isinstance(inner, (list, tuple)):
        result["spaces"] = [space(item, meter) for item in inner]
    if isinstance(result.get("shape"), list):
        result["shape"] = tuple(result["shape"])
    if isinstance(result.get("dtype"), str):
        result["dtype"] = npy.dtype_of(result["dtype"]).name
    return result


def lifetime_counters(metrics: Any) -> dict[str, Any]:
    """The lifetime counters among the new stack's metrics, by their paths joined with ``/``."""
    stats = _dict(_dict(metrics).get("stats"))
    found = {}
    for key, stat in stats.items():
        if not isinstance(key, str) or _LIFETIME not in key or not isinstance(stat, dict):
            continue
        values = stat.get("values")
        value = stat.get("lifetime_sum", values[-1] if isinstance(values, list) and values else None)
        if isinstance(value, (int, float, np.number)):
            found[key.replace(_SEPARATOR, "/")] = value
    return found


def _counters(
    old: dict[str, Any], runner: dict[str, Any], metrics: Any, tune: dict[str, Any]
) -> dict[str, Any]:
    if counters := _dict(old.get("counters")):
        return dict(counters)
    found = lifetime_counters(metrics)
    for key, value in _dict(runner.get("state")).items():
        if isinstance(key, str) and _LIFETIME in key and isinstance(value, (int, float, np.number)):
            found[key] = value
    return found or _dict(_dict(tune.get("last_result")).get("counters"))


def _iteration(own: dict[str, Any], tune: dict[str, Any]) -> int | None:
    """The iteration: from the state (Ray 2.7 on), else from what Tune noted beside the checkpoint."""
    for source in (own, {"training_iteration": tune.get("iteration")}, _dict(tune.get("last_result"))):
        if (number := _integer(source.get("training_iteration"))) is not None:
            return number
    return None


def _config(ctor: dict[str, Any]) -> Any:
    args = ctor.get("args")
    return args[0] if isinstance(args, (tuple, list)) and args else _dict(ctor.get("kwargs")).get("config")


def _policies_to_train(config: dict[str, Any], worker: dict[str, Any]) -> Any:
    """The ids if the config lists them as data, else the record of the function that decides."""
    ids = config.get("policies_to_train")
    if ids is None and isinstance(config.get("multiagent"), dict):
        ids = config["multiagent"].get("policies_to_train")
    if isinstance(ids, (list, tuple, set, frozenset)):
        return sorted(map(str, ids))
    return ids if ids is not None else worker.get("is_policy_to_train")


def _unwrap(item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"module_id", "state"}:
        return item["state"]
    return item


def _integer(value: Any) -> int | None:
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
