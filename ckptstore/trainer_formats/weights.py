"""Which part of what a trainer saved are the weights of its networks.

A mapping of names to arrays, however nested, with floating-point numbers among them, is weights; what holds
`param_groups` is an optimizer. Of a dict with other things in it those entries are taken that are weights:
one alone is what is asked for, several keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckptstore.trainer_formats import pickles, sb3
from ckptstore.trainer_formats.containers import Container, is_mapping

_FLOATS = ("float", "double", "half", "bfloat", "complex", "cfloat", "cdouble")
_MOST_DEEP = 100


def find_weights(container: Container) -> dict[str, Any]:
    """Name to leaf of the outline, see `Container`; empty where nothing looks like weights."""
    outline = container.outline()
    if isinstance(container, sb3.Sb3):
        found: Any = outline.get(sb3.POLICY, {})
    elif pickles.is_lightning(outline):
        found = outline["state_dict"]
    else:
        found = _select(container, outline)
    return {name: leaf for name, leaf in _flatten("", found, 0) if container.element(leaf)}


def _select(container: Container, value: Any) -> Any:
    if not is_mapping(value) or "param_groups" in value:
        return {}
    if _is_weights(container, value):
        return value
    chosen = {str(key): item for key, item in value.items() if _is_weights(container, item)}
    if not chosen:  # among other things
        chosen = {str(key): item for key, item in value.items() if container.element(item)}
        return chosen if _is_weights(container, chosen) else {}
    return next(iter(chosen.values())) if len(chosen) == 1 else chosen


def _is_weights(container: Container, value: Any) -> bool:
    """Whether it is a mapping with arrays alone at its ends, and numbers with fractions in one of them."""
    if not is_mapping(value):
        return False
    elements = [container.element(leaf) for _, leaf in _flatten("", value, 0)]
    return all(elements) and any(element.startswith(_FLOATS) for element in elements)


def _flatten(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and depth < _MOST_DEEP:
        for key, item in value.items():
            yield from _flatten(f"{path}/{key}" if path else str(key), item, depth + 1)
    else:
        yield path, value
