"""Optimizers say which module they train, metrics have text keys, modules take keywords. Since Ray 2.41.

On disk ``module_state.pt`` became ``module_state.pkl`` and torch tensors became arrays; the decoders see to
that. Keys of metrics were tuples up to Ray 2.40 and are joined by ``--`` since. A module's constructor took
one config object up to Ray 2.37.
"""

from __future__ import annotations

from typing import Any

FROM = "2.0"
TO = "2.1"

_SEPARATOR = "--"


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Wrap the optimizers, join the keys, spread the config object of modules."""
    result = dict(raw)
    if "algorithm" in raw:
        algorithm = dict(raw["algorithm"])
        for part in ("algorithm_state", "learner"):
            if isinstance(algorithm.get(part), dict):
                algorithm[part] = _with_text_keys(algorithm[part])
        result["algorithm"] = algorithm
    if "policies" in raw:
        result["policies"] = {
            policy_id: _policy(policy_id, state) for policy_id, state in raw["policies"].items()
        }
    return result


def _with_text_keys(state: dict[str, Any]) -> dict[str, Any]:
    logger = state.get("metrics_logger")
    if not isinstance(logger, dict) or not isinstance(logger.get("stats"), dict):
        return state
    stats = {
        _SEPARATOR.join(map(str, key)) if isinstance(key, tuple) else key: value
        for key, value in logger["stats"].items()
    }
    return {**state, "metrics_logger": {**logger, "stats": stats}}


def _policy(policy_id: str, state: dict[str, Any]) -> dict[str, Any]:
    optimizer = state.get("optimizer") or {}
    return {
        **state,
        "optimizer": {name: _optimizer(policy_id, item) for name, item in optimizer.items()},
        "ctor": _constructor(state.get("ctor")),
    }


def _optimizer(policy_id: str, item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"module_id", "state"}:
        return item
    return {"module_id": policy_id, "state": item}


def _constructor(ctor: Any) -> dict[str, Any]:
    ctor = dict(ctor) if isinstance(ctor, dict) else {"class": None, "args": (), "kwargs": {}}
    args, kwargs = tuple(ctor.get("args") or ()), dict(ctor.get("kwargs") or {})
    state = getattr(args[0], "state", None) if len(args) == 1 else None
    if isinstance(state, dict):
        renamed = {"model_config_dict": "model_config"}
        kwargs = {**{renamed.get(key, key): value for key, value in state.items()}, **kwargs}
        args = ()
    return {**ctor, "args": args, "kwargs": kwargs}
