"""What all containers have in common: a tree of values, whose arrays may be fetched one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ckptstore.codec import torchfile, trees
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.torch_calls import AsArrays, Tensors

EXPANDED = Budget(bytes=2**30)
"""For what is compressed, or stands for more than its bytes: a gibibyte, and eight times the file."""


class Decode(NamedTuple):
    """What to make of what a file holds."""

    tensors: Callable[[], Tensors] | None = None
    """Makes what makes tensors; arrays by default."""
    classes: Classes | None = None
    """Classes whose instances are made of their fields."""
    unpickle: Callable[[bytes, bool], Any] | None = None
    """Makes real objects of a pickle, or of a file of torch.save: by running what it says."""

    def tensor_maker(self) -> Tensors:
        """What makes the tensors of one file."""
        return AsArrays() if self.tensors is None else self.tensors()


AS_DATA = Decode()


class Container(Protocol):
    """One file."""

    @property
    def name(self) -> str:
        """The format, and the version of its writer where the file says it."""

    def tree(self, decode: Decode = AS_DATA) -> Any:
        """All that it holds."""

    def outline(self) -> Any:
        """The same, without the data of arrays where these can be fetched apart."""

    def element(self, leaf: Any) -> str:
        """The type of the elements of an array in the outline; empty for what isn't an array."""

    def make(self, leaf: Any) -> Any:
        """The array that stands at `leaf` in the outline."""


def element_of(leaf: Any) -> str:
    """The type of the elements of what is decoded already; empty for what isn't an array."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return "" if leaf.dtype.hasobject else str(leaf.dtype.name)
    if isinstance(leaf, Opaque) and leaf.name.startswith("torch.") and leaf.args and len(leaf.args) == 1:
        return leaf.name.removeprefix("torch.") if isinstance(leaf.args[0], np.ndarray) else ""
    return ""


def with_tensors(value: Any, size: int, tensors: Tensors) -> Any:
    """`value`, decoded from a pickle of `size` bytes, with the tensors that are pickled in it."""
    meter = Meter(EXPANDED, size)

    def convert(item: Opaque) -> Any:
        return torchfile.tensor(item, meter, tensors=tensors) if item.name.startswith("torch.") else item

    return trees.rewrite(value, convert)


def is_mapping(value: Any) -> bool:
    """Whether it is a mapping of names, or of numbers as optimizers have, to anything."""
    return isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value)
