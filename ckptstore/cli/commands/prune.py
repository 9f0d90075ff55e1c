"""``ckptstore prune``: delete checkpoints that no rule keeps."""

from __future__ import annotations

import datetime

import click

from ckptstore import retention
from ckptstore.cli.session import Session, command
from ckptstore.errors import InvalidRequest


@command("prune")
@click.argument("store_url", metavar="STORE")
@click.option("--keep", type=int, metavar="N", help="The newest N stay.")
@click.option("--best", multiple=True, metavar="METRIC=N", help="The N with the highest METRIC stay.")
@click.option("--least", multiple=True, metavar="METRIC=N", help="The N with the lowest METRIC stay.")
@click.option("--every", type=int, metavar="N", help="Those whose step is a multiple of N stay.")
@click.option(
    "--within", metavar="TIME", help="Those saved at most TIME before the newest stay: 90m, 12h or 7d."
)
@click.option("--tagged", is_flag=True, help="Nothing stays but what stays anyway.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def prune(
    session: Session,
    store_url: str,
    keep: int | None,
    best: tuple[str, ...],
    least: tuple[str, ...],
    every: int | None,
    within: str | None,
    tagged: bool,
    dry_run: bool,
) -> None:
    """Delete checkpoints, except those that one of the options keeps.

    The newest stays in any case, and so do those tagged or pinned.
    """
    rules: list[retention.Rule] = []
    if keep is not None:
        rules.append(retention.LatestN(keep))
    rules += [retention.BestN(*_metric("--best", text), "max") for text in best]
    rules += [retention.BestN(*_metric("--least", text), "min") for text in least]
    if every is not None:
        rules.append(retention.EveryNSteps(every))
    if within is not None:
        rules.append(retention.LatestDuration(_duration(within)))
    if tagged:
        rules.append(retention.Tagged())
    if not rules:
        raise InvalidRequest("prune", "nothing says what to keep", "Write for example: --keep 3")
    store = session.store(store_url)
    pruned = store.prune(keep=rules, dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    session.show(
        {"store": store.url, "dry_run": dry_run, "pruned": pruned},
        *([f"{verb} {name}" for name in pruned] or ["nothing to delete"]),
    )


def _metric(option: str, text: str) -> tuple[str, int]:
    metric, _, number = text.rpartition("=")
    if not metric or not number.isdecimal():
        raise InvalidRequest(f"{option} {text}", "it isn't METRIC=N", "Write for example: reward=3")
    return metric, int(number)


def _duration(text: str) -> datetime.timedelta:
    number, unit = text[:-1], {"m": "minutes", "h": "hours", "d": "days"}.get(text[-1:])
    if unit is None or not number.isdecimal():
        raise InvalidRequest(
            f"--within {text}", "it is no length of time", "Write for example 90m, 12h or 7d"
        )
    try:
        return datetime.timedelta(**{unit: int(number)})
    except OverflowError as error:
        raise InvalidRequest(f"--within {text}", "it is too long", "Write for example 7d") from error
