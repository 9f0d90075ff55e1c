"""Put what is broken where the library looks for what is whole; AssertionError if it looks there no more."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


def install(module: ModuleType, broken: type) -> None:
    """Have `module` use `broken` where it used the class that `broken` derives from."""
    (whole,) = broken.__bases__
    for name in vars(broken):
        assert name.startswith("__") or hasattr(whole, name), f"{whole.__name__} has no {name} any more"
    put(module, whole.__name__, whole, broken)


def replace(module: ModuleType, whole: Callable[..., Any], broken: Callable[..., Any]) -> None:
    """Have `module` call `broken` where it called the function `whole`."""
    put(module, whole.__name__, whole, broken)


def put(module: ModuleType, name: str, whole: object, broken: object) -> None:
    """Bind `name` in `module` to `broken`; until now it must be `whole`."""
    assert getattr(module, name, None) is whole, f"{module.__name__} has no {name} any more"
    setattr(module, name, broken)
