"""How the parts of a checkpoint are decoded, as `Checkpoint.load` was asked, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.torch_calls import Tensors


@dataclass(frozen=True)
class How:
    """What to make of a part: plain data from private memory, unless asked otherwise."""

    trusted: bool = False
    """Unpickle real objects, which runs whatever code the part names."""
    mmap: bool = False
    """Map arrays copy-on-write where the place has files, instead of reading them."""
    tensors: Callable[[], Tensors] | None = None
    """Makes what makes the tensors of one part; arrays by default."""
    classes: Classes | None = None
    """Classes whose instances are made, of their fields."""


SAFELY = How()
"""Plain data, read and checked."""


class _StateAndPolicies(NamedTuple):
    state: Any
    policies: dict[str, Any]


class AlgorithmState(_StateAndPolicies):
    """What `Checkpoint.load` returns: a pair, with `components` beside."""

    components: Mapping[str, Any] = MappingProxyType({})
    """Component name to component, decoded as asked of `load`, each when it is first asked for."""
