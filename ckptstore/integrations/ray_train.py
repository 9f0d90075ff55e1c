"""Commit the checkpoints that a Ray Train worker reports to a store: `docs/trainers/ray-train.md`.

    from ckptstore.integrations import ray_train

    upload = ray_train.checkpoint_upload_fn(store, epoch, keep=3)
    ray.train.report(metrics, checkpoint, checkpoint_upload_fn=upload)

Ray is imported when a call needs it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ckptstore import retention
from ckptstore.errors import InvalidRequest
from ckptstore.integrations.rllib import pointers
from ckptstore.integrations.rllib.pointers import open_reported
from ckptstore.integrations.rllib.sources import StoreHandle, StoreSource
from ckptstore.retention import Keep

__all__ = ["checkpoint_upload_fn", "open_reported"]


def checkpoint_upload_fn(
    store: StoreSource,
    step: int,
    *,
    metrics: Mapping[str, Any] | None = None,
    labels: Iterable[str] = (),
    keep: Keep | None = None,
) -> Callable[[Any, str], Any]:
    """A function for ``ray.train.report(..., checkpoint_upload_fn=)`` that commits the files as `step`.

        upload = ray_train.checkpoint_upload_fn(store, epoch)
        ray.train.report(metrics, checkpoint, checkpoint_upload_fn=upload)

    Ray keeps every checkpoint below its own storage path. There it gets a small directory that points into
    the store; `open_reported` follows it. With ``CheckpointUploadMode.ASYNC`` Ray calls the function on a
    thread of its own. `keep` prunes the store afterwards; Ray's ``num_to_keep`` removes only pointers. An
    existing step is replaced, since a restarted worker repeats it.

    Only rank 0 may report: on any other worker the function raises InvalidRequest, as that worker's files
    would be missing from the checkpoint. It also raises what `CheckpointStore.stage` raises.
    """
    handle = StoreHandle(store)
    rule = None if keep is None else retention.rule(keep)

    def upload(checkpoint: Any, name: str) -> Any:
        import ray.train

        context = ray.train.get_context()
        if context.get_world_rank() != 0:
            raise InvalidRequest(
                "checkpoint",
                f"worker {context.get_world_rank()} reports one, too",
                "Report it from rank 0 alone",
            )
        opened = handle.open()
        staged = opened.stage(step, metrics=metrics, labels=labels, if_exists="replace")
        with staged as path, checkpoint.as_directory() as source:
            shutil.copytree(source, os.fspath(path), dirs_exist_ok=True, symlinks=True)
        assert staged.checkpoint is not None
        if rule is not None:
            opened.prune(rule)
        storage = context.get_storage()
        directory = storage.build_checkpoint_path_from_name(name)
        storage.storage_filesystem.create_dir(directory)
        pointer = pointers.Pointer(opened.url, staged.checkpoint.name, staged.checkpoint.id)
        with storage.storage_filesystem.open_output_stream(f"{directory}/{pointers.POINTER}") as stream:
            stream.write(pointers.dump(pointer))
        return ray.train.Checkpoint(directory, storage.storage_filesystem)

    return upload
