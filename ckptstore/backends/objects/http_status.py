"""What the answer to a failed request means, by its HTTP status."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Outcome(enum.Enum):
    """What a failed request means, whatever the client library calls it."""

    ABSENT = "absent"
    BUCKET_MISSING = "the bucket is not there"
    EXISTS = "a create-only write met an existing key"
    DENIED = "denied"
    FULL = "full"
    SHORT = "fewer bytes than asked for"
    RETRY = "transient: worth another try"
    REFUSED = "the server refuses the request itself, and always will"
    UNABLE = "the server can't do that at all"
    FATAL = "will not work however often it is tried"


BY_STATUS = {
    401: Outcome.DENIED,
    403: Outcome.DENIED,
    404: Outcome.ABSENT,
    408: Outcome.RETRY,
    409: Outcome.RETRY,  # two requests at once, and nobody said which won
    412: Outcome.EXISTS,
    416: Outcome.SHORT,
    429: Outcome.RETRY,
    500: Outcome.RETRY,
    502: Outcome.RETRY,
    503: Outcome.RETRY,
    504: Outcome.RETRY,
}
"""What an HTTP status means to every store; a client adds what only its own store says."""

HOPELESS = frozenset({Outcome.REFUSED, Outcome.UNABLE, Outcome.FATAL})
"""What no other try would change."""


def by_status(status: object, known: Mapping[int, Outcome] = BY_STATUS) -> Outcome:
    """What a reply of `status` means: as `known` says, or by the hundred that it belongs to."""
    if not isinstance(status, int):
        return Outcome.FATAL
    if status in known:
        return known[status]
    if status == 501:
        return Outcome.UNABLE
    if status > 504:
        return Outcome.RETRY
    return Outcome.REFUSED if 300 <= status < 500 else Outcome.FATAL
