"""Checkpointer: the lines around a training loop that save, prune, resume and end it."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ckptstore import retention
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointCorrupt, CheckpointError, InvalidRequest
from ckptstore.format.names import CheckpointName
from ckptstore.logs import logger
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore

_RANK = "Pass rank=, 0 for the one that saves"
_SHARDED = ("DTensor", "FullyShardedDataParallel", "ZeroRedundancyOptimizer")


class Checkpointer:
    """Saves named objects while a loop goes on, and resumes it.

    Every `every` steps, or after that time, the objects are snapshotted and written in the background,
    and what `keep` doesn't keep is pruned. On SIGTERM the next `step` saves, waits until that is durable,
    and lets the signal end the process as it would have; a loop that ends well is saved at its end, one that
    an exception or Ctrl-C ends is not.

    With ``every=100`` the steps 99, 199, ... are saved, of a run that was resumed as well: those at whose end
    a hundred more are done. `EveryNSteps` counts what is done here, so that ``EveryNSteps(1000)`` keeps 999.

    Where several processes train, rank 0 saves and all resume from the checkpoint that it chooses. The rank
    is that of torch's process group if there is one, else RANK in the environment, or `rank`.

    Args:
        store: where to, a `CheckpointStore` or its URL.
        objects: what is saved, by name: everything that `Checkpoint.restore` takes. A dict stays the
            caller's: a value that is put into it later is what is saved.
        every: a number of steps, or a `datetime.timedelta`.
        keep: what `CheckpointStore.prune` takes; None keeps everything.
        rank: of this process among those that train; 0 saves.
        strict: whether all of `objects` must be in the checkpoint that is resumed.
        sigterm: whether to save on SIGTERM; only in the main thread.

    Raises:
        InvalidRequest: for objects that hold a part of something sharded, or an unknown rank.

    Example:
        >>> with Checkpointer(store, {"model": model, "optimizer": optimizer}, every=1000, keep=3) as run:
        ...     for step in range(run.resume(), 100_000):
        ...         loss = train()
        ...         run.step(step, {"loss": loss})
    """

    def __init__(
        self,
        store: CheckpointStore | str | os.PathLike[str],
        objects: Mapping[str, Any],
        *,
        every: int | datetime.timedelta,
        keep: Keep | None = None,
        rank: int | None = None,
        strict: bool = True,
        sigterm: bool = True,
    ) -> None:
        if not isinstance(objects, Mapping):
            raise InvalidRequest(
                "objects", f"it is a {type(objects).__name__}", "Pass a dict of what to save"
            )
        if isinstance(every, bool) or not isinstance(every, (int, datetime.timedelta)):
            raise InvalidRequest("every", f"it is {every!r}", "Pass a number of steps, or a timedelta")
        if isinstance(every, int) and every < 1:
            raise InvalidRequest("every", f"it is {every}", "Pass 1 or more")
        _refuse_shards(objects)
        self.store = store if isinstance(store, CheckpointStore) else CheckpointStore(store)
        self.objects: dict[str, Any] = objects if isinstance(objects, dict) else dict(objects)
        """What is saved. After `resume` it holds what could not be changed in place as well."""
        self.rank = _find_rank() if rank is None else rank
        self._every = every
        self._rule = None if keep is None else _of_done_steps(retention.rule(keep))
        self._strict = strict
        self._saved = self._last = self._there = -1
        self._replaced = False
        self._metrics: Mapping[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._signalled = threading.Event()
        self._before: Any = None
        self._installed = False
        if self.rank != 0:
            logger.warning("this process has rank %d: rank 0 saves", self.rank)
        elif sigterm and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note_signal)
            self._installed = True

    # -- resuming -------------------------------------------------------------------------------

    def resume(self) -> int:
        """Restore the objects from the newest whole checkpoint; returns the next step, 0 if there is none."""
        checkpoint = self._choose()
        if checkpoint is None:
            return 0
        self._note_there(checkpoint)
        try:
            made = checkpoint.restore(self.objects, strict=self._strict)
        except CheckpointCorrupt as error:
            if _process_group() is not None:
                raise
            logger.warning("%s. Looking for a whole one", error)
            checkpoint = self.store.latest(verified=True)
            if checkpoint is None:
                raise
            self._note_there(checkpoint)
            made = checkpoint.restore(self.objects, strict=self._strict)
        self.objects |= made
        self._saved = self._last = checkpoint.step
        self._saved_at = time.monotonic()
        return checkpoint.step + 1

    def _note_there(self, checkpoint: Checkpoint) -> None:
        """What has these steps is this run's own past, to be replaced when it trains them again."""
        passed_over = (CheckpointName.parse(skip.name) for skip in checkpoint.skipped)
        self._there = max(self._there, checkpoint.step, *(name.step for name in passed_over if name))

    def _choose(self) -> Checkpoint | None:
        """The newest checkpoint; where several processes train, the newest whole one that rank 0 knows."""
        dist = _process_group()
        if dist is None:
            return self.store.latest()
        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                chosen = self.store.latest(verified=True)
                if chosen is not None:
                    self._note_there(chosen)
                said = [chosen.name if chosen else None, None]
            except CheckpointError as error:  # told to the others, which would wait for ever
                said = [None, error]
        dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        return None if said[0] is None else self.store.get(said[0])

    # -- saving ---------------------------------------------------------------------------------

    def step(self, step: int, metrics: Mapping[str, Any] | None = None) -> bool:
        """Say that `step` is done. Returns whether it is being saved.

        Raises what a save in the background before it raised. After a SIGTERM it saves, and doesn't return
        unless the program has a handler of its own.
        """
        self._last, self._metrics = step, metrics
        if self.rank != 0:
            return False
        if self._signalled.is_set():
            self.close()
            return True
        if not self._is_due(step):
            return False
        self.save(step, metrics)
        return True

    def save(self, step: int, metrics: Mapping[str, Any] | None = None) -> Future[Checkpoint] | None:
        """Save now, in the background, whatever `every` says; None on another rank than 0."""
        if self.rank != 0:
            return None
        future = self.store.save_async(step, self.objects, metrics=metrics, if_exists="replace")
        future.add_done_callback(self._note_replaced)
        if self._rule is not None:
            future.add_done_callback(self._prune)
        self._saved, self._saved_at = step, time.monotonic()
        return future

    def _is_due(self, step: int) -> bool:
        if isinstance(self._every, datetime.timedelta):
            return time.monotonic() - self._saved_at >= self._every.total_seconds()
        return (step + 1) // self._every > (self._saved + 1) // self._every

    def _note_replaced(self, saved: Future[Checkpoint]) -> None:
        """Warn, once, where this run replaces what it didn't resume from."""
        if saved.cancelled() or Future.exception(saved):
            return
        name = CheckpointName.parse(Future.result(saved).name)
        if name is None or name.step <= self._there:
            return
        self._there = name.step
        if name.attempt and not self._replaced:
            self._replaced = True
            logger.warning(
                "%s: step %d of another run was there, and is replaced. Call resume() first to go on from "
                "it; each of several trainers needs a store of its own",
                self.store.url,
                name.step,
            )

    def _prune(self, saved: Future[Checkpoint] | None = None) -> None:
        if self._rule is None or (saved is not None and (saved.cancelled() or Future.exception(saved))):
            return
        try:
            self.store.prune(self._rule)
        except CheckpointError:
            logger.warning("%s: nothing was pruned", self.store.url, exc_info=True)

    # -- ending ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Save the last step if it isn't, wait until all is durable, and give SIGTERM back."""
        try:
            if self.rank == 0:
                if self._last > self._saved:
                    self.save(self._last, self._metrics)
                self.store.wait()
                self._prune()
        except Exception:
            if self._signalled.is_set():  # nobody is left to raise it to
                logger.exception("not saved after SIGTERM")
            raise
        finally:
            self._give_back()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            if self._last > self._saved and self.rank == 0:
                logger.warning("step %d isn't saved: the loop ended with %s", self._last, kind.__name__)
            self.store.wait()  # what is in flight lands
        finally:
            self._give_back()

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled.set()  # saving here could wait for what the signal has interrupted

    def _give_back(self) -> None:
        """Put the handler of before back, and let it have the signal that came meanwhile."""
        if not self._installed:
            return
        self._installed = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
        if self._signalled.is_set():
            self._signalled.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    def __repr__(self) -> str:
        return f"<Checkpointer {self.store.url} rank={self.rank} of {', '.join(self.objects)}>"


@dataclass(frozen=True)
class _EveryNDone(retention.Rule):
    """Keeps those at whose end a multiple of `n` steps is done, where the first step is 0."""

    n: int

    def keeps(self, candidates: Sequence[retention.Candidate]) -> set[int]:
        """See `Rule`."""
        return {candidate.step for candidate in candidates if (candidate.step + 1) % self.n == 0}


def _of_done_steps(rule: retention.Rule) -> retention.Rule:
    """`rule` for steps that are counted from 0 and saved at their end."""
    if isinstance(rule, retention.AnyOf):
        return retention.AnyOf(tuple(map(_of_done_steps, rule.rules)))
    return _EveryNDone(rule.n) if isinstance(rule, retention.EveryNSteps) else rule


def _process_group() -> Any:
    """torch.distributed where a process group is alive, else None."""
    dist: Any = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _find_rank() -> int:
    dist = _process_group()
    if dist is not None:
        return int(dist.get_rank())
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    if rank is None and size.isdecimal() and int(size) > 1:
        raise InvalidRequest(
            "rank", f"WORLD_SIZE is {size} and RANK isn't set", "Pass rank=, 0 for the one that saves"
        )
    if rank is not None and not rank.isdecimal():
        raise InvalidRequest("rank", f"RANK is {rank!r}", "Pass rank=, 0 for the one that saves")
    return int(rank or 0)


def _refuse_shards(objects: Mapping[str, Any]) -> None:
    """InvalidRequest for an object of which this process has only a part."""
    for name, value in objects.items():
        held = [value]
        for method in ("modules", "parameters"):
            if callable(getattr(type(value), method, None)) and hasattr(type(value), "state_dict"):
                held += getattr(value, method)()
        for item in held:
            kinds = [kind.__name__ for kind in type(item).__mro__]
            if any(kind in _SHARDED for kind in kinds):
                raise InvalidRequest(
                    f"objects[{name!r}]",
                    f"a {kinds[0]} in it is sharded over processes, and one alone can't save it",
                    "Gather it first: get_model_state_dict(..., full_state_dict=True)",
                )
