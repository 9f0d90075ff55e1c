"""One pickle became a directory: every policy moved to a file of its own. Since Ray 2.1.

Before, ``checkpoint-<n>`` held ``worker``: filters, states and specs of all policies and one config. There
was no iteration, no counters and no algorithm class; ``.tune_metadata`` has the first two.
"""

from __future__ import annotations

from typing import Any

FROM = "0.1"
TO = "1.0"


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Split the one document into the algorithm's state and one state per policy."""
    result = dict(raw)
    if "algorithm" not in raw:
        return result
    old = dict(raw["algorithm"])
    worker = dict(old.pop("worker", None) or {})
    config = worker.pop("policy_config", None)
    if config is None:  # Ray 1.x kept it in the last result only
        result_then = (raw.get("tune_metadata") or {}).get("last_result")
        config = result_then.get("config") if isinstance(result_then, dict) else None
    specs = worker.pop("policy_specs", None) or {}
    states = worker.pop("state", None) or {}
    multiagent = config.get("multiagent") if isinstance(config, dict) else None
    multiagent = multiagent if isinstance(multiagent, dict) else {}
    worker.setdefault("policy_ids", list(states))
    worker.setdefault("policy_mapping_fn", multiagent.get("policy_mapping_fn"))
    worker.setdefault("is_policy_to_train", multiagent.get("policies_to_train"))
    result["algorithm"] = {**old, "worker": worker, "config": config}
    result["policies"] = {
        policy_id: _policy(state, specs.get(policy_id, {}), config) for policy_id, state in states.items()
    }
    return result


def _policy(state: Any, spec: Any, config: Any) -> dict[str, Any]:
    # A policy that has nothing but weights handed those out as its whole state.
    fields = dict(state) if isinstance(state, dict) and "weights" in state else {"weights": state}
    if isinstance(spec, dict):
        # A spec held what the policy overrides; from 1.0 on it holds its whole config.
        own = spec.get("config")
        merged = {**(config if isinstance(config, dict) else {}), **(own if isinstance(own, dict) else {})}
        fields.setdefault("policy_spec", {**spec, "config": merged})
    return fields
