"""Find which part of a value can't be pickled, after pickling the whole has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from ckptstore.errors import InvalidRequest

_DEEPEST = 40
_WIDEST = 10_000


def explain(obj: object, error: Exception, attempt: Callable[[object], object]) -> InvalidRequest:
    """An InvalidRequest that names the type and path of the innermost part for which `attempt` fails.

    Each level tries its parts one by one, so this costs about one more pickling for each level.
    """
    path, culprit, cause = "state", obj, error
    for _ in range(_DEEPEST):
        for step, part in islice(_parts(culprit), _WIDEST):
            failure = _failure(part, attempt)
            if failure is not None:
                path, culprit, cause = path + step, part, failure
                break
        else:
            break
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    if isinstance(cause, InvalidRequest):
        return InvalidRequest(path, f"{cause.what}: {cause.why}", cause.remedy)
    if isinstance(cause, RecursionError) or "recursion" in str(cause):
        return InvalidRequest(path, f"{kind} is nested too deeply to be pickled")
    return InvalidRequest(
        path, f"{kind} can't be pickled ({cause})", "Leave it out, or save what it is made from"
    )


def _failure(part: object, attempt: Callable[[object], object]) -> Exception | None:
    try:
        attempt(part)
    except Exception as error:  # noqa: BLE001  # any reducer of the user's may raise anything
        return error
    return None


def _parts(obj: object) -> Iterator[tuple[str, object]]:
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            yield f"[{_brief(key)}]", value
        for key in obj:
            yield f" key {_brief(key)}", key
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield f"[{index}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f" member {_brief(value)}", value
    elif not isinstance(obj, type):
        fields: Any = getattr(obj, "__dict__", None)
        if isinstance(fields, dict) and not callable(obj):
            for name, value in fields.items():
                yield f".{name}", value


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bytes, bool)) else f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
