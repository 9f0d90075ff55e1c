"""Every ``checkpoint_version`` that RLlib has written, and what follows from each.

For a new one add a line to `VERSIONS`, a step to `migrations`, and a file to `layouts` if its directories are
like none before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Stack = Literal["old", "new"]
LayoutName = Literal["single_file", "policies", "tree"]

Writable = Literal["1.1", "2.1"]
"""The versions that ckptstore writes."""
WRITABLE: tuple[str, ...] = get_args(Writable)

_SPELLING = re.compile(r"(\d{1,4})\.(\d{1,4})\Z", re.ASCII)


@dataclass(frozen=True)
class Version:
    """What one ``checkpoint_version`` implies. Versions have no order of their own: compare `number`."""

    name: str
    """As RLlib's JSON spells it."""
    first_ray: str
    """The first Ray release that wrote it."""
    stack: Stack
    """The API stack that trains on from it: the new one wherever a Learner holds the weights."""
    layout: LayoutName
    """The module of `layouts` that reads it."""
    weights: tuple[str, ...]
    """Extensions of the files that hold weights. Of a module with several such files the first one counts."""

    @property
    def number(self) -> tuple[int, int]:
        """The version as two integers, which sort as versions do: 2.10 is newer than 2.9."""
        number = parse(self.name)
        assert number is not None
        return number

    @property
    def written(self) -> bool:
        """Whether ckptstore writes it, too."""
        return self.name in WRITABLE


VERSIONS = (
    Version("0.1", "1.0", "old", "single_file", ("",)),  # older Rays wrote it as well; none was tried
    Version("1.0", "2.1", "old", "policies", ("pkl",)),
    Version("1.1", "2.4", "old", "policies", ("pkl", "msgpck")),
    Version("1.2", "2.5", "new", "policies", ("pt", "pkl", "msgpck")),
    Version("2.0", "2.33", "new", "tree", ("pt",)),
    Version("2.1", "2.41", "new", "tree", ("msgpack", "pkl")),
)
"""All versions, oldest first."""

KNOWN: tuple[str, ...] = tuple(version.name for version in VERSIONS)
NEWEST: str = KNOWN[-1]
NEW_STACK = frozenset(version.name for version in VERSIONS if version.stack == "new")

_BY_NAME = {version.name: version for version in VERSIONS}


def parse(text: str) -> tuple[int, int] | None:
    """The two numbers of a version such as "2.10"; None for any other text."""
    match = _SPELLING.match(text)
    return (int(match[1]), int(match[2])) if match else None


def find_version(name: str) -> Version:
    """The version called `name`, one of `KNOWN`; KeyError for any other."""
    return _BY_NAME[name]


def select_versions(layout: LayoutName, stack: Stack | None = None) -> tuple[str, ...]:
    """Names of the versions with that `layout` (and `stack`), oldest first."""
    return tuple(each.name for each in VERSIONS if each.layout == layout and stack in (None, each.stack))


def guess_version(candidates: tuple[str, ...], extension: str) -> str:
    """The oldest of `candidates` whose weights are in files with `extension`; the newest if none is."""
    return next((name for name in candidates if extension in _BY_NAME[name].weights), candidates[-1])
