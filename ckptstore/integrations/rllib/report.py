"""What became of a checkpoint's fields in a live algorithm."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.logs import logger


@dataclass
class RestoreReport:
    """What `from_checkpoint` or `restore` did."""

    source: str
    """URL of the checkpoint."""
    written_by: str
    """The Ray that wrote it; empty where nothing tells."""
    api_stack: str
    """ "old" or "new": what the algorithm runs on."""
    converted: bool = False
    """Whether it was written on the old API stack and taken over to the new one."""
    policies: tuple[str, ...] = ()
    """The policies that were set."""
    carried: list[str] = field(default_factory=list)
    """The fields that were set."""
    renamed: list[str] = field(default_factory=list)
    """Config attributes under another name, with the release that renamed them."""
    dropped: dict[str, str] = field(default_factory=dict)
    """What could not be carried, and why."""
    notes: list[str] = field(default_factory=list)
    """What reading inferred or missed."""


_reports: weakref.WeakKeyDictionary[Any, RestoreReport] = weakref.WeakKeyDictionary()


def keep(algo: Any, told: RestoreReport) -> None:
    """Remember the report of `algo`, and log once what it could not carry."""
    _reports[algo] = told
    if told.dropped:
        lost = "; ".join(f"{name}: {why}" for name, why in sorted(told.dropped.items()))
        logger.warning("restored %s, but not: %s", told.source, lost)
    else:
        logger.info("restored %s", told.source)


def report(algo: Any) -> RestoreReport:
    """What the last `from_checkpoint` or `restore` did to `algo`. InvalidRequest if there was none."""
    try:
        return _reports[algo]
    except KeyError:
        raise InvalidRequest("algo", "nothing was restored into it", "Call restore first") from None
