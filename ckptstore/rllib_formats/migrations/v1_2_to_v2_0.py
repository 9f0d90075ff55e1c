"""Policies became RLModules in a tree of components, the config a constructor argument. Since Ray 2.33.

What the old API stack kept and the new one doesn't have (filters, replay buffers, exploration, policy
specs, by-policy counters) goes to ``old_stack``, unchanged.
"""

from __future__ import annotations

from typing import Any

FROM = "1.2"
TO = "2.0"

_MOVED = {"algorithm_class", "config", "training_iteration", "metrics_logger", "policy_ids"}


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Lay algorithm and policies out as components."""
    result = dict(raw)
    if "algorithm" in raw:
        result["algorithm"] = _algorithm(raw["algorithm"])
    if "policies" in raw:
        result["policies"] = {policy_id: _policy(state) for policy_id, state in raw["policies"].items()}
    return result


def _algorithm(old: dict[str, Any]) -> dict[str, Any]:
    worker = old.get("worker")
    worker = worker if isinstance(worker, dict) else {}
    state = {key: old[key] for key in ("training_iteration", "metrics_logger") if key in old}
    return {
        "algorithm_state": state,
        "ctor": {"class": old.get("algorithm_class"), "args": (old.get("config"),), "kwargs": {}},
        "policy_ids": list(old.get("policy_ids") or worker.get("policy_ids") or ()),
        "old_stack": {key: value for key, value in old.items() if key not in _MOVED},
    }


def _policy(old: dict[str, Any]) -> dict[str, Any]:
    learner = old.get("learner_state") or {}
    rest = {key: value for key, value in old.items() if key not in {"weights", "learner_state"}}
    spec = rest.pop("policy_spec", None)
    spec = dict(spec) if isinstance(spec, dict) else {}
    return {
        "module_state": old["weights"] if "weights" in old else learner.get("module_state"),
        "optimizer": learner.get("optimizer") or {},
        "ctor": {"class": spec.pop("policy_class", None), "args": (), "kwargs": spec},
        "old_stack": rest,
    }
