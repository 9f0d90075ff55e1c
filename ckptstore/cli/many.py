"""``URL/**``: what the commands share that work on every checkpoint below a URL."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import click

from ckptstore import bulk
from ckptstore.backends.registry import open_backend
from ckptstore.cli.advice import in_shell
from ckptstore.cli.session import Session
from ckptstore.cli.text import format_count, to_json_value
from ckptstore.errors import CheckpointError, InvalidRequest
from ckptstore.printable import clean

_PATTERN = "/**"
WORKERS = 8


def workers_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--workers``, for commands that take a pattern."""
    return click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=WORKERS,
        metavar="N",
        help=f"With URL/**: how many checkpoints at once; {WORKERS} by default.",
    )(function)


def parse_pattern(target: str) -> str | None:
    """The URL of ``URL/**``; None for any other target."""
    if target in ("**", "./**"):
        return "."
    return (target[: -len(_PATTERN)] or "/") if target.endswith(_PATTERN) else None


class Line(NamedTuple):
    """What a command reports of one checkpoint among many."""

    result: str
    """In a word or two: the summary counts them."""
    document: Mapping[str, Any]
    cells: Sequence[str] = ()
    exit_code: int = 0


def run_each(
    session: Session,
    url: str,
    workers: int,
    task: Callable[[bulk.Found], Line],
    columns: Sequence[str] = (),
) -> int:
    """Run `task` on every checkpoint below `url` and show a JSON line for each, or a table and a summary.

    Returns the exit code: the highest that any of them would have ended with alone.
    """
    found = bulk.find(url, storage_options=session.options, **session.trusted)
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
            line = _describe_outcome(outcome)
            exit_code = max(exit_code, line.exit_code)
            counts[line.result] += 1
            rows.append([outcome.found.path or ".", line.result, *line.cells])
            advance()
            if session.as_json:
                document = {"url": outcome.found.url, "result": line.result, **line.document}
                document["seconds"] = round(outcome.seconds, 4)
                click.echo(json.dumps(to_json_value(document)))
            elif outcome.error is not None:
                click.echo(f"ckptstore: {clean(in_shell(str(outcome.error)))}", err=True)
    if not session.as_json:
        seconds = time.monotonic() - began
        width = 2 + len(columns)
        table = [(row + [""] * width)[:width] for row in sorted(rows)]
        results = ", ".join(f"{count} {result}" for result, count in counts.most_common())
        each = f"{seconds / len(found):.3f} s each"
        session.show(
            {},
            session.make_table(["checkpoint", "result", *columns], table),
            "",
            f"{format_count(len(found), 'checkpoint')}: {results}; {seconds:.1f} s, {each}",
        )
    return exit_code


def _describe_outcome(outcome: bulk.Outcome[Line]) -> Line:
    if outcome.result is not None:
        return outcome.result
    error = outcome.error
    document = {"error": type(error).__name__, "message": in_shell(str(error))}
    return Line("failed", document, (), error.exit_code if isinstance(error, CheckpointError) else 1)


def describe_done(done: bulk.Done) -> Line:
    """What adopt, cp and migrate report of one checkpoint."""
    checkpoint = done.checkpoint
    document = {
        "checkpoint": checkpoint.url if checkpoint else None,
        "id": checkpoint.id if checkpoint else None,
    }
    return Line(done.verb, document, [checkpoint.url if checkpoint else ""])


def open_mirror(session: Session, url: str, destination: str, options: Mapping[str, Any]) -> bulk.Mirror:
    """The stores that copies of what is below `url` go to.

    InvalidRequest if `destination` is below `url`, where the next run would take the copies for sources.
    """
    source, target = _where(url, session.options), _where(destination, options)
    if target.startswith(source):
        raise InvalidRequest(destination, f"it is below {url}", "Name a destination outside it")
    return bulk.Mirror(destination, options, **session.trusted)


def _where(url: str, options: Mapping[str, Any] | None) -> str:
    """What is the same for each spelling of one place; it ends in a slash."""
    backend = open_backend(url, options)
    root = getattr(backend, "root", None)
    return (os.path.realpath(root) if isinstance(root, str) else backend.url).rstrip("/") + "/"
