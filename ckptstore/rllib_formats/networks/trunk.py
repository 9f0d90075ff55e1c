"""The trunk of a network, below its heads: fully connected layers or convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.rllib_formats.networks import config
from ckptstore.rllib_formats.networks.moving import Mover, check_chain, refuse

EMPTY = "it has no hidden layers, and RLlib's networks of the new stack have at least one"


def move_dense(mover: Mover, model: Mapping[str, Any], inputs: int, old: str, new: str) -> list[int]:
    """Move hidden layers from `old` to the encoder's network `new`; returns their sizes."""
    stride = config.step(config.read_activation(model, mover.where))
    sizes = mover.stack(old, new, stride)
    if not sizes:
        raise refuse(mover.where, EMPTY)
    check_chain(mover.made, inputs, [f"{new}.{stride * index}" for index in range(len(sizes))], mover.where)
    return sizes


def move_convolutions(
    mover: Mover, filters: list[list[Any]], channels: int, active: str, old: str, new: str
) -> None:
    """Move convolutions. All but the last are padded; in the old stack a module before the layer does it."""
    position = 0
    for index, (depth, kernel, _, padding) in enumerate(filters):
        padded = int(padding == "same")
        shape = mover.layer(f"{old}.{index}._model.{padded}", f"{new}.{position + padded}")
        expected = (depth, channels, *(kernel if isinstance(kernel, list) else (kernel, kernel)))
        if shape != expected:
            raise refuse(mover.where, f"the layer {old}.{index} has the shape {shape}, not {expected}")
        position += padded + config.step(active)
        channels = depth


def filters_of(model: Mapping[str, Any], shape: tuple[int, ...], where: str) -> list[list[Any]]:
    """The convolutions in the new stack's form: depth, kernel, stride, padding."""
    filters = model.get("conv_filters") or _DEFAULT_FILTERS.get(shape[:2])
    if not isinstance(filters, (list, tuple)) or any(len(item) != 3 for item in filters):
        raise refuse(
            where, f"its config has no filters, and RLlib has no default ones for images of the shape {shape}"
        )
    last = len(filters) - 1
    return [[*_plain(item), "valid" if index == last else "same"] for index, item in enumerate(filters)]


def _plain(item: Any) -> list[Any]:
    depth, kernel, stride = item
    return [int(depth), _size(kernel), _size(stride)]


def _size(value: Any) -> Any:
    return [int(part) for part in value] if isinstance(value, (list, tuple)) else int(value)


# RLlib's defaults by the size of the image. Those for 64 x 64 have changed between releases, so they aren't
# here.
_DEFAULT_FILTERS: dict[tuple[int, ...], list[list[Any]]] = {
    (96, 96): [[16, [8, 8], 4], [32, [4, 4], 2], [256, [11, 11], 2]],
    (84, 84): [[16, [8, 8], 4], [32, [4, 4], 2], [256, [11, 11], 1]],
    (42, 42): [[16, [4, 4], 2], [32, [4, 4], 2], [256, [11, 11], 1]],
    (10, 10): [[16, [5, 5], 2], [32, [5, 5], 2]],
}
