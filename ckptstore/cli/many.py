"""``URL/**``: the same command for every checkpoint below a URL. And adopt, which is mostly used so."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, NoReturn

import click

from ckptstore import bulk
from ckptstore.cli import describe
from ckptstore.cli.session import Session, command
from ckptstore.cli.text import clean, plain, plural
from ckptstore.cli.text import size as shown_size
from ckptstore.errors import CheckpointCorrupt, CheckpointError, InvalidRequest, UnsafeContent
from ckptstore.format import names

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
) -> NoReturn:
    """Do `task` for every checkpoint below `url`: a JSON line for each, or a table and a summary.

    The exit code is the highest that any of them would have ended with alone.
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
    click.get_current_context().exit(exit_code)


def _line(outcome: bulk.Outcome[Line]) -> Line:
    if outcome.result is not None:
        return outcome.result
    error = outcome.error
    document = {"error": type(error).__name__, "message": str(error)}
    return Line("failed", document, (), error.exit_code if isinstance(error, CheckpointError) else 1)


def info(found: bulk.Found) -> Line:
    """What ``info`` says of one among many."""
    summary = describe.summary(found.open(), {})
    cells = [
        "" if summary["step"] is None else str(summary["step"]),
        summary["kind"],
        summary["version"],
        str(len(summary["policies"])),
        shown_size(summary["bytes"]),
    ]
    return Line("committed" if found.committed else "no manifest", summary, cells)


INFO_COLUMNS = ("step", "kind", "version", "policies", "size")


def verify(found: bulk.Found) -> Line:
    """What ``verify`` says of one among many."""
    checkpoint = found.open()
    report = checkpoint.check()
    result = ("whole" if found.committed else "readable, no digests") if report.ok else "damaged"
    document = {"ok": report.ok, "files": report.files, "bytes": report.bytes, "problems": report.problems}
    problem = report.problems[0] if report.problems else ""
    return Line(result, document, [problem], 0 if report.ok else CheckpointCorrupt.exit_code)


def scan(found: bulk.Found, strict: bool) -> Line:
    """What ``scan`` says of one among many."""
    uses = found.open().scan()
    worst = uses[0].rank if uses else None
    bad = strict and worst not in (None, "data")
    document = {"worst": worst, "uses": [use._asdict() for use in uses]}
    cells = [f"{uses[0].name} in {uses[0].path}" if uses else ""]
    return Line(worst or "nothing", document, cells, UnsafeContent.exit_code if bad else 0)


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


@command("adopt")
@click.argument("target", metavar="CHECKPOINT|URL/**")
@option
def adopt(session: Session, target: str, workers: int) -> None:
    """Give directories that Ray wrote a manifest where they lie: nothing is moved or changed.

    The directory that they lie in becomes a store. Every byte is read; a manifest is all that is written.
    """
    if (url := below(target)) is not None:
        adopter = bulk.Adopter(url, session.options, session.trusted_keys)
        each(session, url, workers, lambda found: done(adopter.adopt(found)), ["adopted"])
    parent, _, name = target.rstrip("/").rpartition("/")
    names.check_checkpoint_name(
        name, target, "Copy it with `ckptstore cp`; for all below it name it with /** behind"
    )
    parent = parent or ("/" if target.startswith("/") else ".")
    store = session.store(parent, create=True)
    checkpoint = store.adopt(name)
    session.show(
        {"store": store.url, "adopted": describe.summary(checkpoint, store.tags())},
        f"{checkpoint.url} is a checkpoint now, {shown_size(checkpoint.manifest.size)}",
    )


COMMANDS = (adopt,)
