"""``ckptstore repair``: mend damaged checkpoints from other copies of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli import many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, pick, split
from ckptstore.errors import CheckpointCorrupt, CheckpointError
from ckptstore.logs import logger


@command("repair")
@click.argument("target", metavar="STORE|CHECKPOINT")
@click.option(
    "--from",
    "mirrors",
    multiple=True,
    metavar="STORE|CHECKPOINT|URL/**",
    help="A copy that may hold what is damaged here, such as one that `cp` made. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be mended, and from where.")
def repair(session: Session, target: str, mirrors: tuple[str, ...], dry_run: bool) -> int:
    """Mend damaged checkpoints from copies of the same bytes.

    These are searched for in the other checkpoints of the store, and wherever --from says. Of a single
    CHECKPOINT only that is mended, and what shares a damaged file with it. The exit code is 5 if something
    stays damaged.
    """
    url, which = split(target)
    store = session.open_store(url)
    chosen = None if which is None else [_choose(store, which)]
    sources = [source for text in mirrors for source in _open(session, text)]
    reports = store.repair(*sources, which=chosen, dry_run=dry_run)
    lines = [] if reports else ["nothing is damaged"]
    for report in reports:
        lines.append(report.name)
        verb = "would mend" if dry_run else "mended"
        lines += [f"  {verb} {path} from {origin}" for path, origin in report.mended.items()]
        lines += [f"  LOST {path}: {why}" for path, why in report.lost.items()]
        lines += [f"  {note}" for note in report.notes]
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
                "notes": list(report.notes),
            }
            for report in reports
        ],
    }
    session.show(document, *lines)
    return 0 if document["ok"] else CheckpointCorrupt.exit_code


def _choose(store: CheckpointStore, which: str) -> str | int:
    """What `which` means; its manifest may be damaged, so that only a tag or `latest` is looked up."""
    if which.isdecimal():
        return int(which)
    return which if which.startswith("checkpoint_") else pick(store, which).name


def _open(session: Session, text: str) -> list[CheckpointStore | Checkpoint]:
    if (url := many.parse_pattern(text)) is not None:
        return list(_open_all(session, url))
    target = find(session, text)
    found = target.checkpoint or target.store
    assert found is not None
    return [found]


def _open_all(session: Session, url: str) -> Iterator[Checkpoint]:
    """Every committed checkpoint below `url` whose manifest can be read."""
    for found in bulk.find(url, storage_options=session.options, **session.trusted):
        if found.committed:
            try:
                yield found.open()
            except CheckpointError as error:
                logger.warning("%s is no help: %s", found.url, error.why)
