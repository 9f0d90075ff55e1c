"""Names of newer gymnasium in stored samples, counters always under one key. Since Ray 2.4.

On disk 1.1 brought a JSON that states format, file and policies, and msgpack as an alternative. Inside the
pickles ``dones`` had become ``terminateds``, and algorithms with an execution plan, whose metrics stood in
place of the counters, went away a few releases later.
"""

from __future__ import annotations

from typing import Any

FROM = "1.0"
TO = "1.1"

_RENAMED = {"dones": "terminateds"}


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Rename the columns and fill the counters in."""
    result = dict(raw)
    if "algorithm" in raw:
        algorithm = dict(raw["algorithm"])
        plan = algorithm.get("train_exec_impl")
        if "counters" not in algorithm and isinstance(plan, dict) and isinstance(plan.get("counters"), dict):
            algorithm["counters"] = dict(plan["counters"])
        if "local_replay_buffer" in algorithm:
            algorithm["local_replay_buffer"] = _rename(algorithm["local_replay_buffer"])
        result["algorithm"] = algorithm
    return result


def _rename(value: Any) -> Any:
    """`value` with the columns of every sample batch in it renamed."""
    if isinstance(value, list):
        return [_rename(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "sample_batch" in value and isinstance(value["sample_batch"], dict):
        columns = value["sample_batch"]
        names = {old: new for old, new in _RENAMED.items() if new not in columns}
        return {**value, "sample_batch": {names.get(name, name): item for name, item in columns.items()}}
    return {key: _rename(item) for key, item in value.items()}
