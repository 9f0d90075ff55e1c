"""``ckptstore prune``: delete the checkpoints that no option keeps."""

from __future__ import annotations

import datetime

import click

from ckptstore import retention
from ckptstore.cli.session import Session, command
from ckptstore.cli.text import parse_duration
from ckptstore.errors import InvalidRequest
from ckptstore.find.prune import metrics_of
from ckptstore.format.metrics import explain_unknown


@command("prune")
@click.argument("store_url", metavar="STORE")
@click.option("--keep", type=int, metavar="N", help="Keep the newest N.")
@click.option(
    "--best", multiple=True, metavar="METRIC=N", help="Keep the N with the highest METRIC. Repeatable."
)
@click.option(
    "--least", multiple=True, metavar="METRIC=N", help="Keep the N with the lowest METRIC. Repeatable."
)
@click.option("--every", type=int, metavar="N", help="Keep those whose step is a multiple of N.")
@click.option(
    "--within", metavar="TIME", help="Keep those saved at most TIME before the newest: 90m, 12h or 7d."
)
@click.option("--tagged", is_flag=True, help="Keep only tagged and pinned checkpoints, and the newest.")
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
    """Delete the checkpoints that no option keeps.

    The newest is always kept, and so are tagged and pinned ones.
    """
    rules: list[retention.Rule] = []
    if keep is not None:
        rules.append(retention.LatestN(keep))
    rules += [retention.BestN(*_parse_metric("--best", text), "max") for text in best]
    rules += [retention.BestN(*_parse_metric("--least", text), "min") for text in least]
    if every is not None:
        rules.append(retention.EveryNSteps(every))
    if within is not None:
        rules.append(retention.LatestDuration(_parse_within(within)))
    if tagged:
        rules.append(retention.Tagged())
    if not rules:
        raise InvalidRequest("prune", "nothing says what to keep", "Write for example: --keep 3")
    store = session.open_store(store_url)
    if named := metrics_of(retention.rule(rules)):
        metrics = [checkpoint.metrics for checkpoint in store.checkpoints()]
        for metric in named:
            if why := explain_unknown(metric, metrics):
                raise InvalidRequest(f"--best or --least {metric}", why, "Nothing was deleted")
    pruned = store.prune(keep=rules, dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    session.show(
        {"store": store.url, "dry_run": dry_run, "pruned": pruned},
        *([f"{verb} {name}" for name in pruned] or ["nothing to delete"]),
    )


def _parse_metric(option: str, text: str) -> tuple[str, int]:
    metric, _, number = text.rpartition("=")
    if not metric or not number.isdecimal():
        raise InvalidRequest(f"{option} {text}", "it isn't METRIC=N", "Write for example: reward=3")
    return metric, int(number)


def _parse_within(text: str) -> datetime.timedelta:
    return datetime.timedelta(seconds=parse_duration(text, "--within"))
