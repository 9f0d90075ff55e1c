"""``ckptstore doctor``: try whether a backend does what a store relies on."""

from __future__ import annotations

import click

from ckptstore.backends.registry import open_backend
from ckptstore.cli.session import Session, command
from ckptstore.commit.doctor import diagnose


@command("doctor")
@click.argument("url", metavar="URL")
@click.option("--single-writer", is_flag=True, help="Accept a backend that ignores create-only writes.")
def doctor(session: Session, url: str, single_writer: bool) -> None:
    """Try, with a few small files, what a store relies on.

    Also says what the backend promises. URL need not hold a store yet. The exit code is that of the first
    check that fails.
    """
    diagnosis = diagnose(open_backend(url, session.options), single_writer)
    document = {
        "url": diagnosis.url,
        "ok": diagnosis.problem is None,
        "checks": [
            {"name": check.name, "ok": check.problem is None, "problem": str(check.problem or "")}
            for check in diagnosis.checks
        ],
        "promises": dict(diagnosis.promises),
    }
    checks = [["ok" if check.problem is None else "NO", check.name] for check in diagnosis.checks]
    promises = list(diagnosis.promises.items())
    session.show(document, diagnosis.url, session.make_pairs(checks), "", session.make_pairs(promises))
    if diagnosis.problem is not None:
        raise diagnosis.problem
