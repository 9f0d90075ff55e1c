"""``ckptstore doctor``: try what a store relies on."""

from __future__ import annotations

import click

from ckptstore.backends import open_backend
from ckptstore.cli.session import Session, command
from ckptstore.commit.doctor import diagnose


@command("doctor")
@click.argument("url", metavar="URL")
@click.option("--single-writer", is_flag=True, help="Accept a place that ignores create-only writes.")
def doctor(session: Session, url: str, single_writer: bool) -> None:
    """Try what a store relies on, with a few small files, and say what the place promises.

    URL need not hold a store yet. Exits with the code of the first thing that is wrong.
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
    rows = [["ok" if check.problem is None else "NO", check.name] for check in diagnosis.checks]
    session.show(
        document, diagnosis.url, session.pairs(rows), "", session.pairs(list(diagnosis.promises.items()))
    )
    if diagnosis.problem is not None:
        raise diagnosis.problem
