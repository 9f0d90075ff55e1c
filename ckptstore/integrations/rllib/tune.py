"""Commit the checkpoints of Tune's trials to a store."""

from __future__ import annotations

import functools
import os
from typing import Any, ClassVar

from ckptstore import retention
from ckptstore.errors import InvalidRequest
from ckptstore.format.names import join_below
from ckptstore.integrations.rllib import pointers
from ckptstore.integrations.rllib.callback import find_trial, select_numbers
from ckptstore.integrations.rllib.saving import is_writing, write
from ckptstore.integrations.rllib.sources import StoreHandle
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore


class StoredAlgorithm:
    """A base class, before the algorithm's own, that commits each checkpoint Tune asks for to a store.

        class StoredPPO(rllib.StoredAlgorithm, PPO):
            checkpoint_store = "s3://bucket/sweep"
            checkpoint_keep = 3

        Tuner(StoredPPO, param_space=config, ...)

    Every trial has a store of its own below that URL, named as the trial's directory in Tune's storage, or
    the one that ``checkpoint_store``, a static method, opens for that name. Tune's own storage gets a small
    file that points there. When Tune restores a trial, on this machine or another, RLlib's own reader gets
    the verified files; that reader runs code, as under Tune without a store. A save that fails raises, as
    RLlib's own would. The step is the iteration, and an existing step is replaced. A trial whose checkpoint
    another has replaced raises CheckpointNotFound.

    The checkpoint in the store is one of the algorithm's own class: `from_checkpoint` and plain Ray open it
    without this class."""

    checkpoint_store: ClassVar[Any] = None
    """The URL below which the trials have their stores, or a static method from trial name to store."""
    checkpoint_keep: ClassVar[Keep | None] = None
    """What `CheckpointStore.prune` keeps after each save; None keeps everything."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Commit to the store, and write a pointer to it into `checkpoint_dir`."""
        algo: Any = self
        ray: Any = super()
        if is_writing():  # `save` and `CheckpointCallback` have a store of their own
            ray.save_checkpoint(checkpoint_dir)
            return
        trial = find_trial(algo) or algo.trial_id
        store = self._store_of(trial)
        metrics = select_numbers(getattr(algo, "_last_result", None) or {})
        staged = store.stage(algo.iteration, metrics=metrics, if_exists="replace")
        with staged as path:
            write(ray.save_checkpoint, os.fspath(path))
        assert staged.checkpoint is not None
        if self.checkpoint_keep is not None:
            store.prune(retention.rule(self.checkpoint_keep))
        pointer = pointers.Pointer(store.url, staged.checkpoint.name, staged.checkpoint.id, trial)
        with open(os.path.join(checkpoint_dir, pointers.POINTER), "wb") as file:
            file.write(pointers.dump(pointer))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Load the checkpoint that `checkpoint_dir` points to, or holds itself if Ray wrote it alone."""
        algo: Any = super()
        path = os.path.join(checkpoint_dir, pointers.POINTER)
        if not os.path.exists(path):
            algo.load_checkpoint(checkpoint_dir)
            return
        with open(path, "rb") as file:
            pointer = pointers.parse(file.read(pointers.LONGEST), path)
        found = self._store_of(pointer.trial).get(pointer.step)
        pointers.check_same(found, pointer)
        found.resume()
        with found.as_directory() as directory:
            algo.load_checkpoint(directory)

    # RLlib pickles the class too, a local one with all its code.

    def __getstate__(self) -> Any:
        """On the old API stack: what RLlib saves, with the algorithm's own class."""
        ray: Any = super()
        state = ray.__getstate__()
        if isinstance(state, dict) and "algorithm_class" in state:
            state["algorithm_class"] = _strip(type(self))
        return state

    def save_to_path(self, path: Any = None, **options: Any) -> Any:
        """On the new API stack: what RLlib saves, with the algorithm's own class if it goes to a store."""
        ray: Any = super()
        saved = ray.save_to_path(path, **options)
        if is_writing():
            from ray import cloudpickle

            algo: Any = self
            made = {"class": _strip(type(self)), "ctor_args_and_kwargs": algo.get_ctor_args_and_kwargs()}
            with open(os.path.join(path, algo.CLASS_AND_CTOR_ARGS_FILE_NAME), "wb") as file:
                cloudpickle.dump(made, file)
        return saved

    def _store_of(self, trial: str) -> CheckpointStore:
        """A trial's store; it may be another trial's, as population based training resumes from those."""
        handles: dict[str, StoreHandle] = self.__dict__.setdefault("_checkpoint_handles", {})
        if trial not in handles:
            source = self.checkpoint_store
            if callable(source):
                handles[trial] = StoreHandle(functools.partial(source, trial))
            elif isinstance(source, (str, os.PathLike)):
                handles[trial] = StoreHandle(join_below(os.fspath(source), trial))
            else:
                raise InvalidRequest(
                    f"{type(self).__name__}.checkpoint_store",
                    f"{source!r:.80} isn't the URL of a store",
                    "Set it to a URL or a static method",
                )
        return handles[trial].open()


def _strip(own: type) -> type:
    """The algorithm's own class, without `StoredAlgorithm` and what is before it."""
    order = own.__mro__
    return order[order.index(StoredAlgorithm) + 1]
