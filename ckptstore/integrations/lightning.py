"""Save while Lightning trains, and resume: `docs/trainers/lightning.md`.

from ckptstore.integrations.lightning import CheckpointCallback

saving = CheckpointCallback("s3://bucket/runs/net", keep=BestN("val_loss", 3, "min"))
Trainer(callbacks=[saving]).fit(model, data, ckpt_path=saving.resume_path())
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ckptstore.errors import CheckpointError, InvalidRequest
from ckptstore.format import names
from ckptstore.integrations._shared import Files, find_base
from ckptstore.integrations.rng import GlobalRNG
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore

__all__ = ["CheckpointCallback"]

FILE = "lightning.ckpt"
"""What Lightning writes: a file, or a directory where its strategy shards."""


class CheckpointCallback(find_base("lightning", "lightning.pytorch.callbacks", "Checkpoint")):  # type: ignore[misc]
    """Commits what `Trainer.save_checkpoint` writes, at the end of each epoch or every so many steps.

    Lightning writes while training waits; digests, upload, commit and pruning overlap with what follows. The
    metrics of the manifest are those that the model has logged, so that ``keep=BestN("val_loss", 3, "min")``
    is a top-k. A failure comes up at the next save, or at the end of training. On SIGTERM, after which
    Lightning stops, it saves.

    With several processes all take part, and rank 0 commits; SIGTERM saves nothing there. The random
    generators of each are kept as well.

    Args:
        store: where to, a `CheckpointStore` or its URL.
        every: how many optimizer steps there are between two saves; None saves at the end of each epoch.
        keep: what `CheckpointStore.prune` takes; None keeps everything. The newest is always kept.

    Raises:
        InvalidRequest: while training, where hosts shard a checkpoint among them, or ranks resume apart.
        ModuleNotFoundError: Lightning isn't installed.
    """

    def __init__(
        self,
        store: CheckpointStore | str | os.PathLike[str],
        *,
        every: int | None = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__()
        if every is not None:
            names.check_positive("every", every, "Pass a number of steps, or None")
        self._files = Files(store, keep)
        self._every = every
        self._rngs: list[dict[str, Any]] = []

    @property
    def store(self) -> CheckpointStore:
        """The store."""
        return self._files.store

    def resume_path(self) -> str | None:
        """What `fit` takes as `ckpt_path`: a copy of the newest whole checkpoint; None if there is none.

        It is removed when training has begun.
        """
        path = self._files.lay_out()
        return None if path is None else os.path.join(path, FILE)

    # -- what Lightning calls ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The random generators of every rank."""
        mine = GlobalRNG().state_dict()
        dist = _process_group()
        if dist is None:
            return {"rngs": [mine]}
        rngs: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(rngs, mine)
        return {"rngs": rngs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the generators as they were."""
        self._rngs = state_dict["rngs"]
        self._set_rngs()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Once more: what was made meanwhile may have drawn from them, and now the data is shuffled."""
        self._set_rngs()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """All is loaded. InvalidRequest if not all ranks have loaded the same."""
        self._rngs = []
        self._files.remove_copy()
        first = trainer.strategy.broadcast(self._files.step)
        if first != self._files.step:
            raise InvalidRequest(
                "ckpt_path",
                f"rank 0 resumes from step {first}, rank {trainer.global_rank} from {self._files.step}",
                "Let all processes see the same store",
            )

    def _set_rngs(self) -> None:
        dist = _process_group()
        rank, size = (0, 1) if dist is None else (dist.get_rank(), dist.get_world_size())
        if len(self._rngs) == size:
            GlobalRNG().load_state_dict(self._rngs[rank])

    def on_train_batch_end(self, trainer: Any, *args: Any, **more: Any) -> None:
        """Save if it is time."""
        if self._every is not None and trainer.global_step - max(self._files.step, 0) >= self._every:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save if that is when to."""
        if self._every is None:
            self._save(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save on SIGTERM, and wait for what is in flight."""
        alone = trainer.world_size == 1  # others may be a step further, and would wait for each other
        if alone and trainer.received_sigterm and trainer.global_step > self._files.step:
            self._save(trainer)
        self._files.remove_copy()
        self.store.wait()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the last step if it isn't, and wait until all is durable."""
        if trainer.global_step > self._files.step:
            self._save(trainer)
        self.store.wait()

    def _save(self, trainer: Any) -> None:
        if trainer.fast_dev_run:
            return
        step = trainer.global_step
        with contextlib.ExitStack() as stack:
            said: list[Any] = [None, None]
            if trainer.is_global_zero:
                try:
                    staged = stack.enter_context(self._files.stage(step, trainer.callback_metrics))
                    said[0] = os.path.join(staged, FILE)
                except CheckpointError as error:  # told to the others, which would wait for ever
                    said[1] = error
            path, failure = trainer.strategy.broadcast(said)
            if failure is not None:
                raise failure
            self._files.step = step
            trainer.save_checkpoint(path)
            _refuse_parts(path, trainer.num_nodes)


def _refuse_parts(path: str, hosts: int) -> None:
    if os.path.isdir(path) and hosts > 1:
        raise InvalidRequest(
            "strategy",
            "each host writes a part of the checkpoint, and one alone can't commit them",
            "Have it written whole: FSDPStrategy(state_dict_type='full')",
        )


def _process_group() -> Any:
    """torch.distributed where a process group is alive, else None."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
