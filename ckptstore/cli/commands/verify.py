"""``ckptstore verify``: read and check every byte."""

from __future__ import annotations

from typing import Any

import click

from ckptstore import bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.cli.text import plural, size
from ckptstore.errors import CheckpointCorrupt
from ckptstore.read.report import VerifyReport

VERIFIED_BADLY = CheckpointCorrupt.exit_code


@command("verify")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@many.option
def verify(session: Session, target: str, workers: int) -> int:
    """Read and check every byte.

    The exit code is 5 if anything differs from what was committed.
    """
    if (url := many.below(target)) is not None:
        return many.each(session, url, workers, _line, ["the first problem"])
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        with session.progress("verifying", sum(describe.files(checkpoint).values())) as progress:
            reports = [checkpoint.check(progress=progress)]
    elif store is not None:
        total = sum(sum(describe.files(item).values()) for item in store.checkpoints())
        with session.progress("verifying", total) as progress:
            reports = store.verify(progress=progress)
    ok = all(report.ok for report in reports)
    documents = [_report(report) for report in reports]
    lines: list[str] = []
    undigested = checkpoint is not None and not checkpoint.committed
    for item in documents:
        said = f"{plural(item['files'], 'file')}, {size(item['bytes'])}"
        said += " (all of it can be read; there are no digests to compare with)" if undigested else ""
        lines.append(f"{item['name']}: ok, {said}" if item["ok"] else f"{item['name']}: DAMAGED")
        lines += [f"  {problem}" for problem in item["problems"]]
    session.show({"ok": ok, "checkpoints": documents}, *(lines or ["the store holds no checkpoint"]))
    return 0 if ok else VERIFIED_BADLY


def _report(found: VerifyReport) -> dict[str, Any]:
    """One checkpoint's part of what ``verify`` tells."""
    return {
        "name": found.name.rstrip("/").rpartition("/")[2],
        "ok": found.ok,
        "files": found.files,
        "bytes": found.bytes,
        "problems": list(found.problems),
    }


def _line(found: bulk.Found) -> many.Line:
    """What ``verify`` says of one among many."""
    checkpoint = found.open()
    report = checkpoint.check()
    result = ("whole" if found.committed else "readable, no digests") if report.ok else "damaged"
    document = {"ok": report.ok, "files": report.files, "bytes": report.bytes, "problems": report.problems}
    problem = report.problems[0] if report.problems else ""
    return many.Line(result, document, [problem], 0 if report.ok else VERIFIED_BADLY)
