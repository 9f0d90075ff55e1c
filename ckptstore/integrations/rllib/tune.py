"""Keeps the checkpoints of Tune's trials in a store."""

from __future__ import annotations

import functools
import os
from typing import Any, ClassVar

from ckptstore import retention
from ckptstore.errors import InvalidRequest
from ckptstore.integrations.rllib import pointers
from ckptstore.integrations.rllib.callback import numbers_in
from ckptstore.integrations.rllib.saving import is_writing, write
from ckptstore.integrations.rllib.sources import StoreHandle
from ckptstore.logs import logger
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore


class StoredAlgorithm:
    """Stands before an algorithm's class, and commits each checkpoint that Tune asks for to a store.

        class StoredPPO(rllib.StoredAlgorithm, PPO):
            checkpoint_store = "s3://bucket/sweep"
            checkpoint_keep = 3

        Tuner(StoredPPO, param_space=config, ...)

    Every trial has a store of its own below that URL, named after its id; or the one that
    ``checkpoint_store``, a static method, opens for a trial id. Tune's own storage gets a small file that
    points there: when Tune restores a trial, on this machine or another, RLlib's own reader is given the
    files, verified. That reader runs code, as under Tune without a store. A failed save fails as RLlib's
    own would. The step is the iteration; one that is there already is replaced.

    What is in the store is a checkpoint of the algorithm's class proper: `from_checkpoint` and plain Ray
    open it without this class."""

    checkpoint_store: ClassVar[Any] = None
    """URL below which the trials' stores are, or a function (a static method) from trial id to store."""
    checkpoint_keep: ClassVar[Keep | None] = None
    """What `CheckpointStore.prune` keeps after each save; None, everything."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Commit to the store, and point there from `checkpoint_dir`."""
        algo: Any = self
        ray: Any = super()
        if is_writing():  # `save` and `CheckpointCallback` have a store of their own
            ray.save_checkpoint(checkpoint_dir)
            return
        store = self._store_of(algo.trial_id)
        told = numbers_in(getattr(algo, "_last_result", None) or {})
        staged = store.stage(algo.iteration, metrics=told, if_exists="replace")
        with staged as path:
            write(ray.save_checkpoint, os.fspath(path))
        assert staged.checkpoint is not None
        if self.checkpoint_keep is not None:
            store.prune(retention.rule(self.checkpoint_keep))
        pointer = pointers.Pointer(store.url, staged.checkpoint.name, staged.checkpoint.id, algo.trial_id)
        with open(os.path.join(checkpoint_dir, pointers.POINTER), "wb") as file:
            file.write(pointers.dump(pointer))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Load what `checkpoint_dir` points at, or holds itself if Ray alone wrote it."""
        algo: Any = super()
        path = os.path.join(checkpoint_dir, pointers.POINTER)
        if not os.path.exists(path):
            algo.load_checkpoint(checkpoint_dir)
            return
        with open(path, "rb") as file:
            pointer = pointers.parse(file.read(pointers.LONGEST), path)
        found = self._store_of(pointer.trial).get(pointer.step)
        if found.id != pointer.id:  # the trial was killed after it had saved the step again
            logger.info("%s was saved again since Tune was told of it", found.url)
        found.resume()
        with found.as_directory() as directory:
            algo.load_checkpoint(directory)

    # RLlib pickles the class along, a local one with all its code.

    def __getstate__(self) -> Any:
        """On the old API stack: what RLlib saves, with the class proper."""
        ray: Any = super()
        state = ray.__getstate__()
        if isinstance(state, dict) and "algorithm_class" in state:
            state["algorithm_class"] = _proper(type(self))
        return state

    def save_to_path(self, path: Any = None, **options: Any) -> Any:
        """On the new API stack: what RLlib saves; with the class proper, if it goes into a store."""
        ray: Any = super()
        saved = ray.save_to_path(path, **options)
        if is_writing():
            from ray import cloudpickle

            algo: Any = self
            made = {"class": _proper(type(self)), "ctor_args_and_kwargs": algo.get_ctor_args_and_kwargs()}
            with open(os.path.join(path, algo.CLASS_AND_CTOR_ARGS_FILE_NAME), "wb") as file:
                cloudpickle.dump(made, file)
        return saved

    def _store_of(self, trial: str) -> CheckpointStore:
        """Also another trial's: population based training goes on from those."""
        places: dict[str, StoreHandle] = self.__dict__.setdefault("_checkpoint_places", {})
        if trial not in places:
            source = self.checkpoint_store
            if callable(source):
                places[trial] = StoreHandle(functools.partial(source, trial))
            elif isinstance(source, (str, os.PathLike)):
                places[trial] = StoreHandle(f"{os.fspath(source).rstrip('/')}/{trial}")
            else:
                raise InvalidRequest(
                    f"{type(self).__name__}.checkpoint_store",
                    f"{source!r:.80} names no store",
                    "Set it to a URL or a static method",
                )
        return places[trial].open()


def _proper(own: type) -> type:
    """The algorithm's class, without what stands before it."""
    order = own.__mro__
    return order[order.index(StoredAlgorithm) + 1]
