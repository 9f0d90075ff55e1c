"""``ckptstore diff``: compare the weights and the config of two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ckptstore import Checkpoint
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find_checkpoint
from ckptstore.cli.text import format_count
from ckptstore.errors import CheckpointNotFound, UnreadableFormat
from ckptstore.format.manifest import DIRECTORY
from ckptstore.rllib_formats import diff as differences

DIFFERENT = 1  # as diff(1) has it
_SHOWN_CHARACTERS = 60
_WEIGHTS = "weights"  # what stands in the place of a policy's id where there are none


@command("diff")
@click.argument("before", metavar="CHECKPOINT")
@click.argument("after", metavar="CHECKPOINT")
@click.option(
    "--policy",
    "policy_ids",
    metavar="ID",
    multiple=True,
    help="Compare only this policy's weights. Repeatable.",
)
def diff(session: Session, before: str, after: str, policy_ids: tuple[str, ...]) -> int:
    """Compare the weights and the config of two checkpoints, whatever releases wrote them.

    The exit code is 0 if they are equal and 1 if they differ. Optimizers, counters and components are not
    compared. One policy saved by itself, or the weights of another trainer, are compared with the one named
    with --policy.
    """
    left, right = (find_checkpoint(session, text) for text in (before, after))
    if left.kind == right.kind == DIRECTORY and not policy_ids:
        policy_ids = (_WEIGHTS,)
    sides: list[differences.Comparable] = [
        _ChosenPolicies(checkpoint, policy_ids) if policy_ids else checkpoint for checkpoint in (left, right)
    ]
    known = {policy_id for side in sides for policy_id in side.policy_ids}
    if absent := [policy_id for policy_id in policy_ids if policy_id not in known]:
        raise CheckpointNotFound(left.name, f"neither it nor {right.name} holds a policy {absent[0]!r}")
    if not known:
        raise UnreadableFormat(left.name, f"neither it nor {right.name} holds a policy: nothing to compare")
    configs = (
        None
        if policy_ids or DIRECTORY in (left.kind, right.kind)
        else (_get_config(left), _get_config(right))
    )
    if configs is not None and not all(configs):
        configs = None
    found = differences.diff(*sides, configs=configs)
    document = {
        "equal": not found,
        "before": left.url,
        "after": right.url,
        "compared": sorted(set(sides[0].policy_ids) & set(sides[1].policy_ids)),
        "only_before": list(found.only_before),
        "only_after": list(found.only_after),
        "arrays": [item._asdict() for item in found.arrays],
        "config": None
        if configs is None
        else [
            {"key": item.key, "before": _simplify(item.before), "after": _simplify(item.after)}
            for item in found.config
        ],
    }
    session.show(document, *_format_differences(session, document))
    return DIFFERENT if found else 0


class _ChosenPolicies:
    """Those policies of a checkpoint that were named on the command line.

    A policy or module saved by itself doesn't know its id, and is taken for the one that was named.
    """

    def __init__(self, checkpoint: Checkpoint, policy_ids: tuple[str, ...]) -> None:
        self._checkpoint = checkpoint
        self._alone = checkpoint.kind in ("Policy", "RLModule", DIRECTORY) and len(policy_ids) == 1
        # Asked one by one: to list them all may mean reading the algorithm's state.
        self.policy_ids = tuple(name for name in policy_ids if self._alone or name in checkpoint.policies)

    def weights(self, policy_id: str) -> Mapping[str, Any]:
        """Name to array of one of them."""
        return self._checkpoint.weights(None if self._alone else policy_id)


def _get_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    state = checkpoint.state
    config = state.get("config") if isinstance(state, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _simplify(value: Any) -> Any:
    """A config's value for JSON: as it is where JSON has it, and else as short text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else _shorten(value)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _format_differences(session: Session, document: Mapping[str, Any]) -> list[Any]:
    if document["equal"]:
        compared = format_count(len(document["compared"]), "policy", "policies")
        compared = "the weights" if document["compared"] == [_WEIGHTS] else compared
        return [f"equal: {compared}" if document["config"] is None else f"equal: {compared} and the config"]
    lines: list[Any] = [
        f"only in {document[side]}: {', '.join(document[f'only_{side}'])}"
        for side in ("before", "after")
        if document[f"only_{side}"]
    ]
    if document["arrays"]:
        rows = [
            [
                item["policy_id"],
                item["name"],
                item["before"] or differences.MISSING,
                item["after"] or differences.MISSING,
                _format_number(item["l2"]),
                _format_number(item["largest"]),
            ]
            for item in document["arrays"]
        ]
        columns = ["policy", "array", "before", "after", "L2 difference", "largest"]
        lines += [*([""] if lines else []), session.make_table(columns, rows, right=columns[4:])]
    if document["config"]:
        rows = [
            [item["key"], _shorten(item["before"]), _shorten(item["after"])] for item in document["config"]
        ]
        lines += [*([""] if lines else []), session.make_table(["config", "before", "after"], rows)]
    return lines


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
