"""Choose what `prune` deletes: what no rule keeps and nothing protects."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping

from ckptstore import retention
from ckptstore.checkpoint import Checkpoint
from ckptstore.commit import refs
from ckptstore.find.targets import Target, target_of
from ckptstore.format.metrics import explain_unknown
from ckptstore.logs import logger

_TOLERANCE = datetime.timedelta(hours=1)
"""By which clocks of two machines may differ: less makes no checkpoint one of the future."""


def choose_unneeded(
    checkpoints: Iterable[Checkpoint],
    rule: retention.Rule,
    protecting: Mapping[str, refs.Target],
    in_use: Collection[str],
    now: datetime.datetime | None = None,
) -> list[Target]:
    """Of all committed `checkpoints`, oldest first, those that may go.

    What a ref of `protecting` points at, and those whose ids are `in_use`, stay whatever `rule` says. Where
    that asks for the best by a metric that none has, all of them stay, and a warning says why.
    """
    checkpoints = list(checkpoints)
    for metric in metrics_of(rule):
        if why := explain_unknown(metric, (checkpoint.metrics for checkpoint in checkpoints)):
            logger.warning("nothing is pruned: %s", why)
    latest = (now or datetime.datetime.now(datetime.UTC)) + _TOLERANCE
    by_step = {checkpoint.step: checkpoint for checkpoint in checkpoints}
    tagged = {step: bool(refs.refs_to(protecting, checkpoint.name)) for step, checkpoint in by_step.items()}
    candidates = [
        retention.Candidate(
            step,
            checkpoint.manifest.created,
            checkpoint.metrics,
            tagged[step],
            _is_ahead(checkpoint.manifest.created, latest),
        )
        for step, checkpoint in by_step.items()
    ]
    return [
        target_of(by_step[step])
        for step in retention.steps_to_prune(candidates, rule)
        if by_step[step].id not in in_use and not tagged[step]
    ]


def metrics_of(rule: retention.Rule) -> list[str]:
    """The metrics by which `rule` judges."""
    rules = rule.rules if isinstance(rule, retention.AnyOf) else (rule,)
    return list(dict.fromkeys(each.metric for each in rules if isinstance(each, retention.BestN)))


def _is_ahead(created: str, latest: datetime.datetime) -> bool:
    moment = retention.read_moment(created)
    return moment is not None and moment > latest
