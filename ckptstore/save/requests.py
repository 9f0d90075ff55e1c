"""What a save was asked for, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

from ckptstore.commit.base import IfExists
from ckptstore.errors import InvalidRequest
from ckptstore.format import names
from ckptstore.format.layout import CHECKPOINT_VERSION, FORMAT
from ckptstore.format.manifest import Parent, Signature
from ckptstore.format.plain_metrics import simplify
from ckptstore.logs import logger

_SHOWN = 5  # metrics that are named in a warning


@dataclass(frozen=True)
class Request:
    """What the manifest will say beside the files; already validated."""

    step: int
    kind: str
    origin: str
    policies: tuple[str, ...]
    metrics: Mapping[str, object]
    labels: tuple[str, ...]
    if_exists: IfExists
    parent: Parent | None
    checkpoint_version: str = CHECKPOINT_VERSION
    format: str = FORMAT
    store: str = ""
    """Id of the store it goes to, known once that is there."""
    sign: Callable[[bytes], Signature] | None = None
    """Signs the manifest's text, if given."""


def build_request(
    kind: str,
    policies: Iterable[str],
    step: SupportsIndex,
    values: Mapping[str, Any] | None,
    labels: Iterable[str],
    if_exists: IfExists,
    sign: Callable[[bytes], Signature] | None = None,
) -> Request:
    """A `Request` for a save, checked. `values` are its metrics. InvalidRequest says what doesn't fit."""
    if if_exists not in ("error", "replace", "return"):
        raise InvalidRequest("if_exists", f"{if_exists!r} is unknown", "Use 'error', 'replace' or 'return'")
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    if not all(isinstance(label, str) for label in labels):
        raise InvalidRequest("labels", "they aren't a list of str", "Pass for example ['eval']")
    plain, left_out = simplify(values or {})
    if left_out:
        logger.warning(
            "step %s is saved without metrics that aren't numbers or text: %s%s. Pass float(value), say",
            step,
            ", ".join(left_out[:_SHOWN]),
            f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else "",
        )
    return Request(
        step=names.step_number(step),
        kind=kind,
        origin="save",
        policies=tuple(policies),
        metrics=plain,
        labels=labels,
        if_exists=if_exists,
        parent=None,
        sign=sign,
    )
