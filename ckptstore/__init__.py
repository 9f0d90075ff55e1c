"""Durable, versioned checkpoints for RL algorithms and policies, on local disk, S3 and GCS.

In short::

    from ckptstore import CheckpointStore

    store = CheckpointStore("s3://bucket/runs/ppo")
    store.save(step=100, state={...}, policies={"pol1": {...}})
    store.latest().weights("pol1")
"""

from typing import TYPE_CHECKING

from ckptstore.version import __version__ as __version__

if TYPE_CHECKING:
    from ckptstore.checkpoint import Checkpoint
    from ckptstore.checkpointer import Checkpointer
    from ckptstore.codec.opaque import Opaque
    from ckptstore.errors import (
        CheckpointCorrupt,
        CheckpointError,
        CheckpointExists,
        CheckpointGone,
        CheckpointNotFound,
        CheckpointProtected,
        CheckpointUntrusted,
        InvalidRequest,
        SaveAborted,
        StoreDenied,
        StoreFull,
        StoreNotFound,
        StoreUnavailable,
        StoreUnsuitable,
        UnreadableFormat,
        UnsafeContent,
    )
    from ckptstore.read.how import AlgorithmState
    from ckptstore.retention import BestN, EveryNSteps, LatestDuration, LatestN, Tagged
    from ckptstore.save.asked import Raw
    from ckptstore.staging import Staged
    from ckptstore.store import CheckpointStore

__all__ = [
    "AlgorithmState",
    "BestN",
    "Checkpoint",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointExists",
    "CheckpointGone",
    "CheckpointNotFound",
    "CheckpointProtected",
    "CheckpointStore",
    "CheckpointUntrusted",
    "Checkpointer",
    "EveryNSteps",
    "InvalidRequest",
    "LatestDuration",
    "LatestN",
    "Opaque",
    "Raw",
    "SaveAborted",
    "Staged",
    "StoreDenied",
    "StoreFull",
    "StoreNotFound",
    "StoreUnavailable",
    "StoreUnsuitable",
    "Tagged",
    "UnreadableFormat",
    "UnsafeContent",
]

# Found on first use: `import ckptstore` in a tool that may never touch a checkpoint costs next to nothing.
_HOMES = {
    "AlgorithmState": "read.how",
    "BestN": "retention",
    "Checkpoint": "checkpoint",
    "CheckpointCorrupt": "errors",
    "CheckpointError": "errors",
    "CheckpointExists": "errors",
    "CheckpointGone": "errors",
    "CheckpointNotFound": "errors",
    "CheckpointProtected": "errors",
    "CheckpointStore": "store",
    "CheckpointUntrusted": "errors",
    "Checkpointer": "checkpointer",
    "EveryNSteps": "retention",
    "InvalidRequest": "errors",
    "LatestDuration": "retention",
    "LatestN": "retention",
    "Opaque": "codec.opaque",
    "Raw": "save.asked",
    "SaveAborted": "errors",
    "Staged": "staging",
    "StoreDenied": "errors",
    "StoreFull": "errors",
    "StoreNotFound": "errors",
    "StoreUnavailable": "errors",
    "StoreUnsuitable": "errors",
    "Tagged": "retention",
    "UnreadableFormat": "errors",
    "UnsafeContent": "errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
