"""See to it that a listing ends, whatever the server answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

MOST_NAMES = 20_000_000
"""Names of one listing, some gigabytes: more are refused rather than taken into memory."""
NAMES_A_PAGE = 1000
"""What a full page holds; each full one gives the listing its timeout once more."""
_FEW_PAGES = 1000
_FEW_NAMES = 10


class ListingBound:
    """Checks each page of one listing: names rise, no page comes twice, and time is in proportion to names.

    Raises OSError for a server whose pages go round or lead nowhere, TimeoutError past the deadline.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._started = clock()
        self._tokens: set[object] = set()
        self._last = ""
        self._pages = self._names = 0

    def check(self, names: Iterable[str], token: object) -> None:
        """Take note of a page that holds `names` and says that `token` asks for the next, if there is one."""
        page = list(names)
        self._pages += 1
        self._names += len(page)
        if token is None:
            return
        if token in self._tokens:
            raise OSError("the pages of the listing go round: one names a page that was read before")
        self._tokens.add(token)
        if page:
            highest = max(page)
            if highest <= self._last:
                raise OSError("the pages of the listing go round: one holds no name beyond the one before")
            self._last = highest
        if self._names > MOST_NAMES:
            raise OSError(f"the listing has more than {MOST_NAMES:,} names")
        if self._pages > _FEW_PAGES + self._names / _FEW_NAMES:
            raise OSError(f"{self._pages} pages of the listing hold {self._names} names, and more follow")
        if self._clock() - self._started > self._timeout * (2 + self._names / NAMES_A_PAGE):
            raise TimeoutError(f"the listing did not end: {self._pages} pages hold {self._names} names")
