"""``ckptstore verify``: read and check every byte of a checkpoint or a store."""

from __future__ import annotations

from typing import Any

import click

from ckptstore import bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.cli.text import format_count, format_size
from ckptstore.errors import CheckpointCorrupt
from ckptstore.read.report import VerifyReport

DAMAGED = CheckpointCorrupt.exit_code


@command("verify")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@many.workers_option
def verify(session: Session, target: str, workers: int) -> int:
    """Read and check every byte.

    The exit code is 5 if anything differs from what was committed, or isn't signed as it must be.
    """
    if (url := many.parse_pattern(target)) is not None:
        return many.run_each(session, url, workers, _verify_one, ["the first problem"])
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        with session.show_progress("verifying", describe.count_bytes(checkpoint)) as progress:
            reports = (
                [checkpoint.check(progress=progress)]
                if store is None
                else store.verify([checkpoint], progress=progress)
            )
    elif store is not None:
        total = describe.count_bytes(*store.checkpoints())
        with session.show_progress("verifying", total) as progress:
            reports = store.verify(progress=progress)
    ok = all(report.ok for report in reports)
    documents = [_describe_report(report) for report in reports]
    lines: list[str] = []
    no_digests = checkpoint is not None and not checkpoint.committed
    for item in documents:
        amount = f"{format_count(item['files'], 'file')}, {format_size(item['bytes'])}"
        amount += " (all of it can be read; there are no digests to compare with)" if no_digests else ""
        wrong = "not trusted" if item["untrusted"] else "DAMAGED"
        found = wrong if not item["ok"] else f"ok, {amount}" if item["files"] else "not read"
        lines.append(f"{item['name']}: {found}")
        lines += [f"  signed for the store {item['signed_for']}"] if item["signed_for"] else []
        lines += [f"  {note}" for note in item["notes"]]
        lines += [f"  {problem}" for problem in item["problems"]]
        lines += [f"  not part of it: {path}" for path in item["strays"]]
    session.show({"ok": ok, "checkpoints": documents}, *(lines or ["the store holds no checkpoint"]))
    return 0 if ok else DAMAGED


def _verify_one(found: bulk.Found) -> many.Line:
    report = found.open().check()
    result = ("whole" if found.committed else "readable, no digests") if report.ok else "damaged"
    document = _describe_report(report)
    del document["name"]
    problem = report.problems[0] if report.problems else ""
    return many.Line(result, document, [problem], 0 if report.ok else DAMAGED)


def _describe_report(report: VerifyReport) -> dict[str, Any]:
    return {
        "name": report.name.rstrip("/").rpartition("/")[2],
        "ok": report.ok,
        "files": report.files,
        "bytes": report.bytes,
        "problems": list(report.problems),
        "strays": list(report.strays),
        "sharers": {path: list(names) for path, names in report.sharers.items()},
        "notes": list(report.notes),
        "signed_for": report.signed_for,
        "untrusted": report.untrusted,
    }
