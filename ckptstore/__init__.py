"""Durable, versioned checkpoints for RL algorithms and policies, on local disk, S3 and GCS."""

from ckptstore.checkpoint import AlgorithmState, Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointError
from ckptstore.staging import Staged
from ckptstore.store import CheckpointStore

__all__ = ["AlgorithmState", "Checkpoint", "CheckpointError", "CheckpointStore", "Opaque", "Staged"]
