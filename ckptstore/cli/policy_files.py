"""Which files of a checkpoint hold one policy or one component, in every layout of RLlib's."""

from __future__ import annotations

from collections.abc import Mapping

from ckptstore import Checkpoint
from ckptstore.format.names import component_path
from ckptstore.rllib_formats.detect import V0_FILE

_HOMES = ("policies", "rl_module", "module_state")  # whose directories are called after policies


def list_policy_files(checkpoint: Checkpoint, policy_id: str, sizes: Mapping[str, int]) -> list[str]:
    """The paths in `sizes` that hold the policy. In the oldest layout all policies share one file."""
    if checkpoint.kind in ("Policy", "RLModule"):
        return list(sizes)
    if checkpoint.version == "0.1":
        return [path for path in sizes if V0_FILE.match(path)]
    if checkpoint.kind == "MultiRLModule":
        return [path for path in sizes if path.startswith(f"{policy_id}/")]
    homes = [f"/{home}/{policy_id}/" for home in _HOMES]
    return [path for path in sizes if any(home in f"/{path}" for home in homes)]


def count_component_bytes(name: str, sizes: Mapping[str, int]) -> int:
    """The size of the component's file, or of its directory without the policies in it.

    RLlib's Learner, for one, holds the modules too.
    """
    if (path := component_path(name)) in sizes:
        return sizes[path]
    inside = ("learner_group/", "learner/", "state.") if name == "learner" else (f"{name}/",)
    return sum(
        count
        for path, count in sizes.items()
        if path.startswith(inside) and not any(f"/{home}/" in f"/{path}" for home in _HOMES)
    )
