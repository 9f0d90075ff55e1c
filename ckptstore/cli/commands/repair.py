"""``ckptstore repair``: mend damaged checkpoints from other copies of the same bytes."""

from __future__ import annotations

import click

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.errors import CheckpointCorrupt


@command("repair")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--from",
    "mirrors",
    multiple=True,
    metavar="STORE|CHECKPOINT",
    help="A copy that may hold what is damaged here, such as one that `cp` made. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be mended, and from where.")
def repair(session: Session, store_url: str, mirrors: tuple[str, ...], dry_run: bool) -> int:
    """Mend damaged checkpoints from copies of the same bytes.

    These are searched for in the other checkpoints of the store, and wherever --from says. The exit code
    is 5 if something stays damaged.
    """
    store = session.open_store(store_url)
    reports = store.repair(*(_open(session, text) for text in mirrors), dry_run=dry_run)
    lines = [] if reports else ["nothing is damaged"]
    for report in reports:
        lines.append(report.name)
        verb = "would mend" if dry_run else "mended"
        lines += [f"  {verb} {path} from {origin}" for path, origin in report.mended.items()]
        lines += [f"  LOST {path}: {why}" for path, why in report.lost.items()]
    document = {
        "store": store.url,
        "dry_run": dry_run,
        "ok": all(report.ok for report in reports),
        "checkpoints": [
            {
                "name": report.name.rpartition("/")[2],
                "ok": report.ok,
                "mended": dict(report.mended),
                "lost": dict(report.lost),
            }
            for report in reports
        ],
    }
    session.show(document, *lines)
    return 0 if document["ok"] else CheckpointCorrupt.exit_code


def _open(session: Session, text: str) -> CheckpointStore | Checkpoint:
    target = find(session, text)
    found = target.checkpoint or target.store
    assert found is not None
    return found
