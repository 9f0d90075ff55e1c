"""Move weights from old names to new ones, and keep track of those that are left."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks.families import NETWORKS

Array = Any
CLIP = "log_std_clip_param_const"
CLIP_DEFAULT = 20.0


class Module(NamedTuple):
    """A default RLModule of the new API stack: how to construct it, and its weights."""

    class_name: str
    catalog_class: str | None
    observation_space: Any
    """As the model describes spaces."""
    action_space: Any
    model_config: dict[str, Any]
    inference_only: bool
    weights: dict[str, Array]
    """In the order of the module's own state dict."""
    optimizer: dict[str, Any]
    """States of torch optimizers in arrays, by the names that the Learner gives the optimizers."""
    renamed: tuple[str, ...]
    """Lines "old -> new"."""
    dropped: tuple[str, ...]
    """Lines "name: why"."""
    unproven: tuple[str, ...] = ()
    """What of it is taken from something else than its own record."""

    @property
    def network(self) -> str:
        """Whose network it is: PPO, BC, DQN, SAC, or none."""
        return NETWORKS[self.class_name]


def refuse(where: str, why: str) -> UnreadableFormat:
    """The error for a network that isn't recognised."""
    return UnreadableFormat(
        where,
        f"{why}, so it isn't one of RLlib's own networks that are known here",
        "Migrate it to 1.1, or convert it in a step of your own",
    )


class Mover:
    """The weights of an old network, taken one layer at a time."""

    def __init__(self, weights: Mapping[str, Array], where: str) -> None:
        self.where = where
        self.order = list(weights)
        self.left = dict(weights)
        self.made: dict[str, Array] = {}
        self.sources: dict[str, str] = {}
        self.changes: dict[str, Callable[[Array], Array]] = {}
        self.dropped: list[str] = []

    def has(self, layer: str) -> bool:
        """Whether `layer` has a weight that hasn't been moved yet."""
        return f"{layer}.weight" in self.left

    def layer(self, old: str, new: str, change: Callable[[Array], Array] | None = None) -> tuple[int, ...]:
        """Move weight and bias of one layer; returns the new shape of the weight."""
        self.one(f"{old}.weight", f"{new}.weight", change)
        self.one(f"{old}.bias", f"{new}.bias")
        return tuple(self.made[f"{new}.weight"].shape)

    def one(self, old: str, new: str, change: Callable[[Array], Array] | None = None) -> None:
        """Move one array."""
        if old not in self.left:
            raise refuse(self.where, f"there is no weight {old!r}")
        value = np.asarray(self.left.pop(old))
        self.made[new] = change(value) if change else value
        self.sources[new] = old
        if change:
            self.changes[new] = change

    def clip(self, head: str) -> None:
        """Add the constant that every head of the new stack has among its weights."""
        self.made[f"{head}.{CLIP}"] = np.array([CLIP_DEFAULT], np.float32)

    def copies(self, prefixes: Mapping[str, str]) -> None:
        """Add target networks, which the old stack never stored, as copies of what they follow."""
        for old, new in prefixes.items():
            for name, value in [item for item in self.made.items() if item[0].startswith(f"{old}.")]:
                self.made[new + name[len(old) :]] = value

    def drop_unused(self, prefix: str, why: str) -> None:
        """Drop weights that the old stack made but never used."""
        for name in [name for name in self.left if name.startswith(prefix)]:
            del self.left[name]
            self.dropped.append(f"weights/{name}: {why}")

    def stack(self, old: str, new: str, step: int = 2) -> list[int]:
        """Move all layers ``old.0``, ``old.1`` ... of a multi-layer perceptron; returns their sizes.

        `step` is 2 if an activation follows each layer.
        """
        sizes: list[int] = []
        while self.has(f"{old}.{len(sizes)}._model.0"):
            shape = self.layer(f"{old}.{len(sizes)}._model.0", f"{new}.{step * len(sizes)}")
            sizes.append(shape[0])
        return sizes

    def done(self) -> None:
        """Refuse the network if any weight is left."""
        if self.left:
            names = ", ".join(repr(name) for name in list(self.left)[:3])
            raise refuse(
                self.where, f"the weights {names} ({len(self.left)} in all) belong to no known layer"
            )

    def report_renames(self) -> tuple[str, ...]:
        """A line of the report for every weight that was renamed."""
        return tuple(f"weights/{old} -> weights/{new}" for new, old in self.sources.items())

    def moments(self, optimizer: Any, old: list[str], new: list[str]) -> dict[str, Any] | None:
        """The state of a torch optimizer over `old` as one over `new`; None if it isn't such a state."""
        if not isinstance(optimizer, Mapping) or not isinstance(optimizer.get("state"), Mapping):
            return None
        groups = optimizer.get("param_groups")
        if not isinstance(groups, (list, tuple)) or len(groups) != 1 or not isinstance(groups[0], Mapping):
            return None
        if list(groups[0].get("params") or ()) != list(range(len(old))):
            return None
        state = {}
        for index, name in enumerate(new):
            source = self.sources[name]
            found = optimizer["state"].get(old.index(source)) if source in old else None
            if not isinstance(found, Mapping):
                return None
            state[index] = {key: self._move(name, value) for key, value in found.items()}
        return {"state": state, "param_groups": [{**groups[0], "params": list(range(len(new)))}]}

    def _move(self, name: str, value: Any) -> Any:
        change = self.changes.get(name)
        return change(value) if change and isinstance(value, np.ndarray) and value.ndim else value


def parameters(weights: Mapping[str, Array], *prefixes: str) -> list[str]:
    """Names of the trained weights that begin with one of `prefixes` (all without any), in order."""
    chosen = [name for name in weights if not prefixes or name.startswith(prefixes)]
    return [
        name for name in chosen if not name.endswith(f".{CLIP}") and not re.match("_?(?:target|old)_", name)
    ]


def check_chain(made: Mapping[str, Array], first: int, layers: list[str], where: str) -> None:
    """Refuse layers whose shapes don't follow one another, beginning with `first` inputs."""
    for layer in layers:
        shape = made[f"{layer}.weight"].shape
        if len(shape) != 2 or shape[1] != first or made[f"{layer}.bias"].shape != shape[:1]:
            raise refuse(where, f"the layer {layer!r} has the shape {shape} where {first} inputs come in")
        first = shape[0]
