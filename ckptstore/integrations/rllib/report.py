"""Reports: what became of a checkpoint's fields in a live algorithm."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.logs import logger


@dataclass
class RestoreReport:
    """What `from_checkpoint` or `restore` did, field by field."""

    source: str
    """URL of the checkpoint."""
    written_by: str
    """The Ray that wrote it; empty where no file says."""
    api_stack: str
    """ "old" or "new": what the algorithm runs on."""
    converted: bool = False
    """Whether it was written on the old API stack and converted to the new one."""
    policies: tuple[str, ...] = ()
    """The policies that were set."""
    carried: list[str] = field(default_factory=list)
    """The fields that were set."""
    renamed: list[str] = field(default_factory=list)
    """Config attributes that were renamed, and the release that did it."""
    dropped: dict[str, str] = field(default_factory=dict)
    """What was lost, and why."""
    notes: list[str] = field(default_factory=list)
    """What reading inferred or found missing."""


_reports: weakref.WeakKeyDictionary[Any, RestoreReport] = weakref.WeakKeyDictionary()


def keep(algo: Any, done: RestoreReport) -> None:
    """Remember the report of `algo`, and log once what was lost."""
    _reports[algo] = done
    if done.dropped:
        lost = "; ".join(f"{name}: {why}" for name, why in sorted(done.dropped.items()))
        logger.warning("restored %s, but not: %s", done.source, lost)
    else:
        logger.info("restored %s", done.source)


def report(algo: Any) -> RestoreReport:
    """The report of the last `from_checkpoint` or `restore` of `algo`. InvalidRequest if there was none."""
    try:
        return _reports[algo]
    except KeyError:
        raise InvalidRequest("algo", "nothing was restored into it", "Call restore first") from None
