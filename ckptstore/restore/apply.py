"""Carry a comparison out: all of it, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckptstore.errors import InvalidRequest
from ckptstore.logs import logger
from ckptstore.restore.findings import Change


def apply(changes: Sequence[Change], where: str) -> None:
    """Make the changes one after another; where one raises, what was changed is put back.

    Raises InvalidRequest for what an object's own loader raises, and names what could not be put back.
    """
    ordered = sorted(changes, key=lambda change: change.last)
    undo: list[tuple[str, Callable[[], object]]] = []
    for change in ordered:
        path = change.path or "the target"
        try:
            undo.append((path, change.snapshot()))
            change.apply()
        except Exception as error:
            lost = _put_back(undo)
            if not undo or undo[-1][0] != path:
                why = f"{path}: what it holds now can't be copied: {error!r:.200}"
            else:
                why = f"{path}: loading it raised {error!r:.300}"
            why += f". Not put back: {', '.join(lost)}" if lost else ". Nothing is changed"
            raise InvalidRequest(where, why, "Make the target as the one that was saved") from error


def _put_back(undo: Sequence[tuple[str, Callable[[], object]]]) -> list[str]:
    """Undo, last first; returns the paths where that failed."""
    lost = []
    for path, put_back in reversed(undo):
        try:
            put_back()
        except Exception:  # noqa: BLE001  # the others are put back all the same, and this one is named
            logger.warning("%s could not be put back as it was", path, exc_info=True)
            lost.append(path)
    return lost
