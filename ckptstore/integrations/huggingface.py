"""Save while the Trainer of Hugging Face trains, and resume: `docs/trainers/huggingface.md`.

from ckptstore.integrations.huggingface import CheckpointCallback

saving = CheckpointCallback("s3://bucket/runs/lm", keep=3)
Trainer(..., callbacks=[saving]).train(resume_from_checkpoint=saving.resume_path())
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from ckptstore.integrations._shared import Files, find_base
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore

__all__ = ["CheckpointCallback"]


class CheckpointCallback(find_base("transformers", "transformers", "TrainerCallback")):  # type: ignore[misc]
    """Commits each ``checkpoint-N`` that the Trainer writes as step N, byte for byte, in the background.

    When it writes is for `TrainingArguments` to say: `save_strategy`, `save_steps`; `save_total_limit=1`
    keeps its own directory small. The metrics are those of the step's log. A failure comes up at the next
    save, or at the end of training. Rank 0 commits what the processes of its host have written.

    Args:
        store: where to, a `CheckpointStore` or its URL.
        keep: what `CheckpointStore.prune` takes; None keeps everything.

    Raises:
        ModuleNotFoundError: transformers isn't installed.
    """

    def __init__(self, store: CheckpointStore | str | os.PathLike[str], *, keep: Keep | None = None) -> None:
        super().__init__()
        self._files = Files(store, keep)

    @property
    def store(self) -> CheckpointStore:
        """The store."""
        return self._files.store

    def resume_path(self) -> str | None:
        """What `train` takes as `resume_from_checkpoint`: a copy of the newest; None if there is none.

        The newest whole checkpoint, that is. It is removed when training has ended.
        """
        return self._files.lay_out()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Commit what was written."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # each rank writes a file of its own
        if not state.is_world_process_zero:
            return
        metrics = {}
        for logged in state.log_history:
            if logged.get("step") == state.global_step:
                metrics.update(logged)
        source = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        with self._files.stage(state.global_step, metrics) as path:
            shutil.copytree(source, path, dirs_exist_ok=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Wait until all is durable."""
        self._files.remove_copy()
        self.store.wait()
