"""Save while RLlib trains, and resume an interrupted run."""

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
"""The key under which the callback adds its own results to those of training."""


class CheckpointCallback:
    """Saves the algorithm into a store every few iterations, on both API stacks.

        config.callbacks(rllib.CheckpointCallback("s3://bucket/runs/ppo", every=10, keep=3))

    RLlib writes its files while training waits; digests, upload, commit and pruning overlap with the next
    iterations. If a save fails, the `train` that saves next raises its error, or `stop` does. With
    ``wait=True`` every `train` returns with its checkpoint committed. ``result["ckptstore"]`` holds the last
    committed step. The manifest has the numbers of the result, of ``env_runners`` and of ``evaluation``,
    so ``BestN("env_runners/episode_return_mean", 3)`` finds them.

    Under Tune every trial has a store of its own below `store`, named as the trial's directory in Tune's
    storage; ``result["ckptstore"]["store"]`` is its URL.

    Parameters:
        store: a `CheckpointStore`, its URL, or a function that opens it. If the function takes a parameter,
            it gets the trial's name, empty outside Tune. A pickle of the callback holds no credentials:
            another process opens its own store with the credentials that it has, or by that function.
        every: how many iterations there are between two saves.
        keep: which checkpoints to keep after each save, as for `CheckpointStore.prune`; None keeps all.
        wait: whether to wait for each commit.

    RLlib's config takes it instead of a class of callbacks. In the checkpoints that it writes, RLlib's own
    callbacks replace it, so that they open without ckptstore.
    """

    def __init__(
        self, store: StoreSource, *, every: int = 1, keep: Keep | None = None, wait: bool = False
    ) -> None:
        names.check_positive("every", every, "Pass for example every=10")
        self._handle = StoreHandle(store)
        self._every = every
        self._keep = None if keep is None else retention.rule(keep)
        self._wait = wait

    @property
    def store(self) -> CheckpointStore:
        """The store, which each process opens once."""
        return self._handle.open()

    def __call__(self) -> Any:
        """The object that RLlib calls back; RLlib makes one for every algorithm and env runner."""
        from ray.rllib.callbacks.callbacks import RLlibCallback

        made = RLlibCallback()
        saver = _Saver(self._handle, self._every, self._keep, self._wait)
        made.on_algorithm_init = saver.on_algorithm_init
        made.on_train_result = saver.on_train_result
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        if is_writing():
            from ray.rllib.callbacks.callbacks import RLlibCallback

            return functools.partial, (RLlibCallback,)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"CheckpointCallback({self._handle!r}, every={self._every}, keep={self._keep})"


class _Saver:
    """Saves one algorithm."""

    def __init__(self, handle: StoreHandle, every: int, keep: Keep | None, wait: bool) -> None:
        self._handle = handle
        self._every = every
        self._keep = keep
        self._wait = wait
        self._staged: Staged | None = None
        self._committed: int | None = None

    def on_algorithm_init(self, *, algorithm: Any, **more: Any) -> None:
        """Make `stop` wait for the last save, since RLlib has no callback for it."""
        cleanup = algorithm.cleanup

        def clean_up_and_wait() -> None:
            try:
                cleanup()
            finally:
                if self._staged is not None:
                    self._handle.open(find_trial(algorithm)).wait()

        algorithm.cleanup = clean_up_and_wait
        self._handle.open(find_trial(algorithm))  # now, if it can't be opened

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **more: Any) -> None:
        """Save if it is time. Raises the error of the previous save."""
        step, trial = algorithm.iteration, find_trial(algorithm)
        if step % self._every == 0:
            store = self._handle.open(trial)
            staged = store.stage_async(
                step, metrics=select_numbers(result), if_exists="replace", keep=self._keep
            )
            self._update()
            with staged as path:
                write(algorithm.save_checkpoint, os.fspath(path))
            self._staged = staged
            if self._wait:
                store.wait()
        self._update()
        if self._committed is not None:
            result[RESULT] = {"committed_step": self._committed}
            if trial:
                result[RESULT]["store"] = self._handle.open(trial).url

    def _update(self) -> None:
        if self._staged is not None and self._staged.checkpoint is not None:
            self._committed = self._staged.checkpoint.step


def find_trial(algorithm: Any) -> str:
    """The name of the Tune trial that `algorithm` is, as its directory has it; empty outside Tune.

    Its ``trial_id`` would be "default" in every trial, since RLlib takes what Tune says of the trial for a
    part of its config.
    """
    return str(getattr(getattr(algorithm, "_storage", None), "trial_dir_name", None) or "")


def select_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a training result, for a manifest's metrics."""
    found = {name: value for name, value in result.items() if _is_number(value)}
    parts = {name: _select_nested(result[name]) for name in ("env_runners", "evaluation") if name in result}
    return found | {name: inner for name, inner in parts.items() if inner}


def _select_nested(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items() if isinstance(value, Mapping) else ():
        kept = _select_nested(item) if isinstance(item, Mapping) else item if _is_number(item) else None
        if kept is not None and kept != {}:
            found[str(name)] = kept
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def resume_or_build(config: Any, store: StoreSource) -> Any:
    """The algorithm of `config`, restored from the newest intact checkpoint in the store, or a new one.

    A damaged checkpoint is skipped for the one before it. The checkpoint that the run resumes from becomes
    the parent of the next one, and `keep` never removes it. Raises as `from_checkpoint` does, and
    CheckpointCorrupt if the store holds checkpoints but none is intact, rather than begin anew.
    """
    opened = StoreHandle(store).open()
    newest = opened.latest(verified=True)
    if newest is None:
        return config.build_algo()
    algo = from_checkpoint(newest, config=config)
    for callback in _find_callbacks(config):
        if callback.store is not opened and callback.store.url == opened.url:
            callback.store.get(newest.name).resume()
    return algo


def _find_callbacks(config: Any) -> list[CheckpointCallback]:
    found = config.callbacks_class
    return [
        each
        for each in (found if isinstance(found, list) else [found])
        if isinstance(each, CheckpointCallback)
    ]
