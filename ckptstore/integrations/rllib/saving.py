"""Save algorithms and policies to a store, in RLlib's own format."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from ckptstore.checkpoint import Checkpoint
from ckptstore.store import CheckpointStore

WRITER = "ckptstore_writer.json"
"""The file that says which Python RLlib ran on; a manifest may be written later and on another."""


def save(
    algo: Any,
    store: CheckpointStore | str | os.PathLike[str],
    *,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    labels: Iterable[str] = (),
    if_exists: Literal["error", "replace"] = "replace",
) -> Checkpoint:
    """Commit what RLlib itself saves of `algo` to a store; durable when this returns.

    The step is the training iteration, unless `step` is given. RLlib writes into the checkpoint's own
    directory: on local disk nothing is copied, for a bucket the files are uploaded in parallel. An existing
    step is replaced, since Ray repeats a step whose checkpoint was committed before a crash. Raises as
    `CheckpointStore.stage` does.
    """
    opened = store if isinstance(store, CheckpointStore) else CheckpointStore(store)
    number = algo.iteration if step is None else step
    staged = opened.stage(number, metrics=metrics, labels=labels, if_exists=if_exists)
    with staged as path:
        write(algo.save_checkpoint, os.fspath(path))
    assert staged.checkpoint is not None
    return staged.checkpoint


def write(save_checkpoint: Callable[[str], Any], directory: str) -> None:
    """Let RLlib write an algorithm's files, and write beside them which Python it ran on."""
    _writing.now = True
    try:
        with _enter_sessions(getattr(save_checkpoint, "__self__", None)):
            save_checkpoint(directory)
    finally:
        _writing.now = False
    with open(os.path.join(directory, WRITER), "w", encoding="utf-8") as file:
        json.dump({"python": platform.python_version()}, file)


def enter_session(policy: Any) -> contextlib.AbstractContextManager[Any]:
    """Make the session of a static graph of TensorFlow the default one, of which RLlib exports the weights.

    Otherwise RLlib's file has weights that were never trained.
    """
    session = policy.get_session() if hasattr(policy, "get_session") else None
    return contextlib.nullcontext() if session is None else session.as_default()


@contextlib.contextmanager
def _enter_sessions(algo: Any) -> Iterator[None]:
    """Let each policy of `algo` that exports its model beside its state do so in its own session."""
    config: Any = getattr(algo, "config", None)
    if str(getattr(config, "framework_str", "")) != "tf" or not config.export_native_model_files:
        yield
        return
    policies = [algo.get_policy(policy_id) for policy_id in algo.env_runner.policy_map]
    for policy in policies:
        policy.export_model = functools.partial(_export_in_session, policy, policy.export_model)
    try:
        yield
    finally:
        for policy in policies:
            del policy.export_model


def _export_in_session(policy: Any, export_model: Callable[..., None], *args: Any, **options: Any) -> None:
    with enter_session(policy):
        export_model(*args, **options)


class _Writing(threading.local):
    now = False


_writing = _Writing()


def is_writing() -> bool:
    """Whether this thread is in `write`, whose pickles are kept and may be read by any process."""
    return _writing.now


def export_policy(
    policy: Any,
    url: CheckpointStore | str | os.PathLike[str],
    *,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    labels: Iterable[str] = (),
    if_exists: Literal["error", "replace"] = "replace",
) -> Checkpoint:
    """Commit one policy, or one module of the new API stack, by itself to the store at `url`.

    The step is the policy's global timestep, or 0 for a module, which has none, unless `step` is given.
    """
    store = url if isinstance(url, CheckpointStore) else CheckpointStore(url)
    number = int(getattr(policy, "global_timestep", 0)) if step is None else step
    staged = store.stage(number, metrics=metrics, labels=labels, if_exists=if_exists)
    with staged as path:
        if hasattr(policy, "export_checkpoint"):
            with enter_session(policy):
                policy.export_checkpoint(os.fspath(path))
        else:
            policy.save_to_path(os.fspath(path))
    assert staged.checkpoint is not None
    return staged.checkpoint
