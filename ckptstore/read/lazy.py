"""A mapping whose values are decoded on first use and then kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ckptstore.work import run_off_main


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
        self._known_keys: tuple[str, ...] | None = None
        self._find_keys = keys
        self._load = load
        self._what = what
        self._holds = holds

    @property
    def _keys(self) -> tuple[str, ...]:
        if self._known_keys is None:
            self._known_keys = run_off_main(self._find_keys)
        return self._known_keys

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            if key not in self:
                raise KeyError(key)
            self._values[key] = run_off_main(partial(self._load, key))
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        # Whether there is one may be known without reading what lists them all.
        if not isinstance(key, str):
            return False
        if self._holds is None:
            return key in self._keys
        return key in self._values or run_off_main(partial(self._holds, key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # whoever gets a pickle of it has no checkpoint to fetch from

    def __repr__(self) -> str:
        return f"<{self._what}: {', '.join(map(repr, self._keys[:8]))}{', ...' if len(self) > 8 else ''}>"
