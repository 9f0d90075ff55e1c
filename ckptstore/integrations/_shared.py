"""What the modules for frameworks share."""

from __future__ import annotations

import contextlib
import importlib
import numbers
import os
from collections.abc import Mapping
from typing import Any

from ckptstore import retention
from ckptstore.retention import Keep
from ckptstore.staging import Staged
from ckptstore.store import CheckpointStore


def find_base(package: str, module: str, name: str) -> Any:
    """The framework's class `name`, or, where `package` isn't installed, one that says so when it is made."""
    top = module.partition(".")[0]
    try:
        importlib.import_module(top)
    except ModuleNotFoundError as error:
        if error.name != top:  # it is there, and something that it needs isn't
            raise
    else:
        return getattr(importlib.import_module(module), name)

    class Missing:
        def __init__(self, *args: object, **options: object) -> None:
            raise ModuleNotFoundError(f"{top} isn't installed. Try: pip install {package}", name=top)

    return Missing


def select_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number, tensors of one element too, for a manifest."""
    found = {}
    for name, value in metrics.items():
        if callable(getattr(value, "item", None)) and getattr(value, "ndim", 1) == 0:
            value = value.item()
        if isinstance(value, numbers.Real):
            found[str(name)] = float(value)
    return found


class Files:
    """Checkpoints whose files a framework writes and reads by itself: committed to a store, and laid out."""

    def __init__(self, store: CheckpointStore | str | os.PathLike[str], keep: Keep | None) -> None:
        self.store = store if isinstance(store, CheckpointStore) else CheckpointStore(store)
        self.step = -1
        """The last step that was saved or laid out."""
        self._keep = None if keep is None else retention.rule(keep)
        self._copy = contextlib.ExitStack()

    def lay_out(self) -> str | None:
        """A local copy of the newest whole checkpoint, there until `remove_copy`; None if there is none."""
        self.remove_copy()
        checkpoint = self.store.latest(verified=True)
        if checkpoint is None:
            return None
        checkpoint.resume()
        self.step = checkpoint.step
        return self._copy.enter_context(checkpoint.as_directory())

    def remove_copy(self) -> None:
        """Remove what `lay_out` has made."""
        self._copy.close()

    def stage(self, step: int, metrics: Mapping[str, Any]) -> Staged:
        """A directory to write into. It is committed in the background; then what `keep` says is pruned.

        Raises what the save before it raised.
        """
        self.step = step
        return self.store.stage_async(
            step, metrics=select_numbers(metrics), if_exists="replace", keep=self._keep
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copy": contextlib.ExitStack()}  # the copy is this process's
