"""What commands share that take ``URL/**`` and do the same to every checkpoint below a URL."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import click

from ckptstore import bulk
from ckptstore.cli.session import Session
from ckptstore.cli.text import clean, plain, plural
from ckptstore.errors import CheckpointError, InvalidRequest

_PATTERN = "/**"
WORKERS = 8


def option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--workers``, for commands that take a pattern."""
    return click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=WORKERS,
        metavar="N",
        help=f"With URL/**: checkpoints at once; {WORKERS} by default.",
    )(function)


def below(target: str) -> str | None:
    """The URL of ``URL/**``; None for any other target."""
    if target in ("**", "./**"):
        return "."
    return (target[: -len(_PATTERN)] or "/") if target.endswith(_PATTERN) else None


class Line(NamedTuple):
    """What a command has to say of one checkpoint."""

    result: str
    """In a word or two: counted in the summary."""
    document: Mapping[str, Any]
    cells: Sequence[str] = ()
    exit_code: int = 0


def each(
    session: Session,
    url: str,
    workers: int,
    task: Callable[[bulk.Found], Line],
    columns: Sequence[str] = (),
) -> int:
    """Do `task` for every checkpoint below `url`: a JSON line for each, or a table and a summary.

    Returns the exit code: the highest that any of them would have ended with alone.
    """
    found = bulk.find(url, storage_options=session.options, trusted_keys=session.trusted_keys)
    began = time.monotonic()
    rows: list[list[str]] = []
    counts: Counter[str] = Counter()
    exit_code = 0
    with (
        ThreadPoolExecutor(workers, "ckptstore-bulk") as pool,
        session.show_count(len(found)) as advance,
        closing(bulk.run(task, found, pool)) as outcomes,
    ):
        for outcome in outcomes:
            line = _line(outcome)
            exit_code = max(exit_code, line.exit_code)
            counts[line.result] += 1
            rows.append([outcome.found.path or ".", line.result, *line.cells])
            advance()
            if session.as_json:
                document = {"url": outcome.found.url, "result": line.result, **line.document}
                click.echo(json.dumps(plain({**document, "seconds": round(outcome.seconds, 4)})))
            elif outcome.error is not None:
                click.echo(f"ckptstore: {clean(outcome.error)}", err=True)
    if not session.as_json:
        seconds = time.monotonic() - began
        width = 2 + len(columns)
        table = [(row + [""] * width)[:width] for row in sorted(rows)]
        told = ", ".join(f"{count} {result}" for result, count in counts.most_common())
        each_one = f"{seconds / len(found):.3f} s each"
        session.show(
            {},
            session.table(["checkpoint", "result", *columns], table),
            "",
            f"{plural(len(found), 'checkpoint')}: {told}; {seconds:.1f} s, {each_one}",
        )
    return exit_code


def _line(outcome: bulk.Outcome[Line]) -> Line:
    if outcome.result is not None:
        return outcome.result
    error = outcome.error
    document = {"error": type(error).__name__, "message": str(error)}
    return Line("failed", document, (), error.exit_code if isinstance(error, CheckpointError) else 1)


def mirror(session: Session, url: str, destination: str, options: Mapping[str, Any]) -> bulk.Mirror:
    """Where copies go. InvalidRequest inside `url`, where the next run would take them for sources."""
    source, target = (text.rstrip("/") + "/" for text in (url, destination))
    if target.startswith(source):
        raise InvalidRequest(destination, f"it lies below {url}", "Name a place outside it")
    return bulk.Mirror(destination, options, session.trusted_keys)


def done(outcome: bulk.Done) -> Line:
    """What adopt, cp and migrate say of one among many."""
    checkpoint = outcome.checkpoint
    document = {
        "checkpoint": checkpoint.url if checkpoint else None,
        "id": checkpoint.id if checkpoint else None,
    }
    return Line(outcome.verb, document, [checkpoint.url if checkpoint else ""])
