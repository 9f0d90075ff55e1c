"""A mapping whose values are decoded on first use and then kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any


class Lazy(Mapping[str, Any]):
    """Named values, each decoded on first use and then kept."""

    def __init__(
        self,
        keys: Callable[[], tuple[str, ...]],
        load: Callable[[str], Any],
        what: str,
        holds: Callable[[str], bool] | None = None,
    ) -> None:
        self._values: dict[str, Any] = {}
        self._find_keys = keys
        self._load = load
        self._what = what
        self._holds = holds

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return self._find_keys()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        if key not in self._values:
            self._values[key] = self._load(key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        # Whether there is one may be known without reading what lists them all.
        return isinstance(key, str) and (self._holds(key) if self._holds else key in self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<{self._what}: {', '.join(map(repr, self._keys[:8]))}{', ...' if len(self) > 8 else ''}>"
