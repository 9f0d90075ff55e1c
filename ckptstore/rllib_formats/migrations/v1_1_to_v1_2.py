"""The Learner took over training: weights and named optimizers stand in ``learner/``. Since Ray 2.5.

Before, a policy kept its optimizers as a list (torch), as a dict of variables (TensorFlow 1) or as a list
of variables (TensorFlow 2, eager).
"""

from __future__ import annotations

from typing import Any

FROM = "1.1"
TO = "1.2"


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Name the optimizers of every policy: "0", "1" ... for torch, "variables" for TensorFlow."""
    result = dict(raw)
    if "policies" in raw:
        result["policies"] = {policy_id: _policy(state) for policy_id, state in raw["policies"].items()}
    return result


def _policy(state: dict[str, Any]) -> dict[str, Any]:
    fields = dict(state)
    variables = fields.pop("_optimizer_variables", None)
    if "learner_state" in state:
        # Policies beside a Learner kept an empty list; should one ever hold more, it is not lost.
        return {**fields, "_optimizer_variables": variables} if variables else fields
    fields["learner_state"] = {"module_state": None, "optimizer": _by_name(variables)}
    return fields


def _by_name(variables: Any) -> dict[str, Any]:
    if isinstance(variables, dict):
        return {"variables": variables} if variables else {}
    if not isinstance(variables, (list, tuple)) or not variables:
        return {}
    if all(isinstance(item, dict) and "param_groups" in item for item in variables):
        return {str(index): item for index, item in enumerate(variables)}
    return {"variables": {str(index): item for index, item in enumerate(variables)}}
