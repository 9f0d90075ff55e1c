"""Saves while RLlib trains, and goes on where a run was."""

from __future__ import annotations

import functools
import numbers
import os
from collections.abc import Mapping
from typing import Any

from ckptstore import retention
from ckptstore.format import names
from ckptstore.integrations.rllib.restore import from_checkpoint
from ckptstore.integrations.rllib.saving import is_writing, write
from ckptstore.integrations.rllib.sources import StoreHandle, StoreSource
from ckptstore.retention import Keep
from ckptstore.staging import Staged
from ckptstore.store import CheckpointStore

RESULT = "ckptstore"
"""The key of what the callback adds to the results of training."""


class CheckpointCallback:
    """Saves the algorithm into a store every few iterations, on both API stacks.

        config.callbacks(rllib.CheckpointCallback("s3://bucket/runs/ppo", every=10, keep=3))

    RLlib writes its files while training waits; digests, upload, commit and pruning go on beside the next
    iterations. A save that failed comes up as the error of the `train` that saves next, or of `stop`. With
    ``wait=True`` every `train` returns with its checkpoint committed. ``result["ckptstore"]`` tells the last
    committed step. The manifest has the numbers of the result, of ``env_runners`` and of ``evaluation``,
    so ``BestN("env_runners/episode_return_mean", 3)`` finds them.

    Parameters:
        store: a `CheckpointStore`, its URL, or a function that opens it. Pickles of this hold no
            credentials: another process opens its own store with those around it, or by that function.
        every: how many iterations from one save to the next.
        keep: what stays when others have come after it, as `CheckpointStore.prune` takes it; None, all.
        wait: whether to wait for each commit.

    This stands in a config and is called by RLlib, as a class of callbacks would be. In the checkpoints
    that it writes stand RLlib's own callbacks in its place: they can be opened without ckptstore.
    """

    def __init__(
        self, store: StoreSource, *, every: int = 1, keep: Keep | None = None, wait: bool = False
    ) -> None:
        names.check_positive("every", every, "Pass for example every=10")
        self._place = StoreHandle(store)
        self._every = every
        self._keep = None if keep is None else retention.rule(keep)
        self._wait = wait

    @property
    def store(self) -> CheckpointStore:
        """The store, opened once in each process."""
        return self._place.open()

    def __call__(self) -> Any:
        """What RLlib calls back, one for every algorithm and env runner."""
        from ray.rllib.callbacks.callbacks import RLlibCallback

        made = RLlibCallback()
        saver = _Saver(self._place, self._every, self._keep, self._wait)
        made.on_algorithm_init = saver.on_algorithm_init
        made.on_train_result = saver.on_train_result
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        if is_writing():
            from ray.rllib.callbacks.callbacks import RLlibCallback

            return functools.partial, (RLlibCallback,)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"CheckpointCallback({self._place!r}, every={self._every}, keep={self._keep})"


class _Saver:
    """Saves one algorithm."""

    def __init__(self, place: StoreHandle, every: int, keep: Keep | None, wait: bool) -> None:
        self._place = place
        self._every = every
        self._keep = keep
        self._wait = wait
        self._staged: Staged | None = None
        self._committed: int | None = None

    def on_algorithm_init(self, *, algorithm: Any, **more: Any) -> None:
        """RLlib tells nobody that an algorithm is stopped, so take part in that."""
        cleanup = algorithm.cleanup

        def last() -> None:
            try:
                cleanup()
            finally:
                if self._staged is not None:
                    self._place.open().wait()

        algorithm.cleanup = last

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **more: Any) -> None:
        """Save if it is time. Raises what the save before raised."""
        step = algorithm.iteration
        if step % self._every == 0:
            store = self._place.open()
            staged = store.stage_async(step, metrics=numbers_in(result), if_exists="replace", keep=self._keep)
            self._look()
            with staged as path:
                write(algorithm.save_checkpoint, os.fspath(path))
            self._staged = staged
            if self._wait:
                store.wait()
        self._look()
        if self._committed is not None:
            result[RESULT] = {"committed_step": self._committed}

    def _look(self) -> None:
        if self._staged is not None and self._staged.checkpoint is not None:
            self._committed = self._staged.checkpoint.step


def numbers_in(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a training result that a checkpoint may be judged by."""
    found = {name: value for name, value in result.items() if _is_number(value)}
    parts = {name: _numbers(result[name]) for name in ("env_runners", "evaluation") if name in result}
    return found | {name: inner for name, inner in parts.items() if inner}


def _numbers(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items() if isinstance(value, Mapping) else ():
        kept = _numbers(item) if isinstance(item, Mapping) else item if _is_number(item) else None
        if kept is not None and kept != {}:
            found[str(name)] = kept
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def resume_or_build(config: Any, store: StoreSource) -> Any:
    """The algorithm of `config`: gone on from the newest whole checkpoint in the store, or a new one.

    A damaged checkpoint is passed over for the one before it. The one that the run goes on from is the
    parent of the next, and stays whatever `keep` says. Raises as `from_checkpoint` does, and
    CheckpointCorrupt if there are checkpoints and none is whole: never begins anew over those.
    """
    place = StoreHandle(store).open()
    newest = place.latest(verified=True)
    if newest is None:
        return config.build_algo()
    algo = from_checkpoint(newest, config=config)
    for callback in _callbacks(config):
        if callback.store is not place and callback.store.url == place.url:
            callback.store.get(newest.name).resume()
    return algo


def _callbacks(config: Any) -> list[CheckpointCallback]:
    found = config.callbacks_class
    return [
        each
        for each in (found if isinstance(found, list) else [found])
        if isinstance(each, CheckpointCallback)
    ]
