"""Ways to get reading and looking wrong, each applied for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from ckptstore import checkpoint
from ckptstore.backends.objects import retry
from ckptstore.find.survey import Survey
from ckptstore.format.parts import Part
from ckptstore.read.reader import VerifiedFiles


class _Unchecked(VerifiedFiles):
    """Takes every byte as it comes."""

    def _check(self, path: str, part: Part, data: memoryview) -> None:
        pass


def _names_as_listed(self: Survey) -> Any:
    return self._catalog.names()


class _Endless(retry.RetryPolicy):
    """Waits for the end of time."""

    def __init__(self, timeout: float, retries: int | None = None, **options: Any) -> None:
        super().__init__(float("inf"), None, **options)


MUTANTS: dict[str, Callable[[], Any]] = {
    "digest not checked": lambda: patch.object(checkpoint, "VerifiedFiles", _Unchecked),
    "listing trusted": lambda: patch.object(Survey, "names", _names_as_listed),
    "retry without deadline": lambda: patch.object(retry, "RetryPolicy", _Endless),
}
