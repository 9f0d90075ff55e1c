"""Save, restore and resume RLlib's algorithms in any store, across Ray releases.

    from ckptstore.integrations import rllib

    ckpt = rllib.save(algo, "s3://bucket/runs/ppo")
    algo = rllib.from_checkpoint("s3://bucket/runs/ppo")  # the newest in the store, whichever Ray wrote it

Ray is imported when a call needs it. See ``docs/rllib.md``.
"""

from typing import Any

from ckptstore.integrations.rllib.callback import CheckpointCallback, resume_or_build
from ckptstore.integrations.rllib.models import export_model
from ckptstore.integrations.rllib.pointers import open_reported
from ckptstore.integrations.rllib.policies import policy_from_checkpoint
from ckptstore.integrations.rllib.report import RestoreReport, report
from ckptstore.integrations.rllib.restore import from_checkpoint, restore
from ckptstore.integrations.rllib.saving import export_policy, save
from ckptstore.integrations.rllib.tune import StoredAlgorithm

__all__ = [
    "CheckpointCallback",
    "RestoreReport",
    "StoredAlgorithm",
    "export_model",
    "export_policy",
    "from_checkpoint",
    "open_reported",
    "policy_from_checkpoint",
    "report",
    "restore",
    "resume_or_build",
    "save",
]


def __getattr__(name: str) -> Any:
    if name != "checkpoint_upload_fn":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    from ckptstore.integrations.ray_train import checkpoint_upload_fn

    warnings.warn("import it from ckptstore.integrations.ray_train", DeprecationWarning, stacklevel=2)
    return checkpoint_upload_fn
