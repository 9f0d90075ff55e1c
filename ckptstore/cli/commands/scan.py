"""Commands that judge: scan (what unpickling would run) and diff (what differs between two)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from ckptstore import Checkpoint
from ckptstore.backends import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli import many as bulk
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, find_checkpoint
from ckptstore.cli.text import plural
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, UnreadableFormat, UnsafeContent
from ckptstore.read.files import UnverifiedFiles
from ckptstore.rllib_formats import diff as differences
from ckptstore.rllib_formats import scan as scans

REFUSED = UnsafeContent.exit_code
DIFFERENT = 1  # as diff(1) has it
_RANKS: tuple[scans.Rank, ...] = ("code", "library", "data")
_SHOWN_CHARACTERS = 60


@command("scan")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@click.option("--strict", is_flag=True, help=f"Exit with {REFUSED} if anything is more than data.")
@bulk.option
def scan(session: Session, target: str, strict: bool, workers: int) -> None:
    """Show what unpickling a checkpoint would import and call, without doing it.

    Ranks every name: `data` makes plain values, `library` is a class of a known framework, `code` is
    anything else and may do whatever it likes. ckptstore itself runs none of them; RLlib, which unpickles,
    runs them all. Files that can't be decoded count as code. A directory need not be a whole checkpoint.
    """
    if (below := bulk.below(target)) is not None:
        bulk.each(session, below, workers, lambda item: bulk.scan(item, strict), ["the worst"])
    found = [_summarize_scan(name, url, uses) for name, url, uses in _uses(session, target)]
    lines: list[Any] = []
    for item in found:
        lines += [*([""] if lines else []), *_scan_lines(session, item)]
    document = {"worst": _worst(item["worst"] for item in found), "checkpoints": found}
    session.show(document, *(lines or ["the store holds no checkpoint"]))
    if strict and any(item["worst"] not in (None, "data") for item in found):
        click.get_current_context().exit(REFUSED)


def _uses(session: Session, target: str) -> Iterable[tuple[str, str, tuple[scans.Use, ...]]]:
    try:
        store, checkpoint = find(session, target)
    except (CheckpointCorrupt, UnreadableFormat):
        # What is too damaged to open, or no checkpoint at all, may still hold pickles to beware of.
        backend = open_backend(target, session.options)
        with translate_errors(backend.url):
            files = UnverifiedFiles(backend, {item.key: item.size for item in backend.list("")})
        yield backend.url.rpartition("/")[2], backend.url, scans.scan(files.paths(), files.read)
        return
    if checkpoint is not None:
        yield checkpoint.name, checkpoint.url, checkpoint.scan()
    elif store is not None:
        for item in store.checkpoints():
            yield item.name, item.url, item.scan()


def _summarize_scan(name: str, url: str, uses: tuple[scans.Use, ...]) -> dict[str, Any]:
    files: dict[str, list[scans.Use]] = {}
    for use in uses:
        files.setdefault(use.path, []).append(use)
    return {
        "name": name,
        "url": url,
        "worst": _worst(use.rank for use in uses),
        "files": [
            {
                "path": path,
                "worst": _worst(use.rank for use in inside),
                "uses": [
                    {"name": use.name, "rank": use.rank, "calls": use.calls, "position": use.position}
                    for use in inside
                ],
            }
            for path, inside in sorted(files.items(), key=lambda entry: (_order(entry[1]), entry[0]))
        ],
    }


def _worst(ranks: Iterable[str | None]) -> str | None:
    there = set(ranks)
    return next((rank for rank in _RANKS if rank in there), None)


def _place(rank: scans.Rank, name: str) -> tuple[int, str]:
    return _RANKS.index(rank), name


def _order(uses: Iterable[scans.Use]) -> int:
    return min(_RANKS.index(use.rank) for use in uses)


def _scan_lines(session: Session, item: Mapping[str, Any]) -> list[Any]:
    if item["worst"] is None:
        return [f"{item['name']}: unpickling it would import nothing"]
    by_name: dict[tuple[scans.Rank, str], tuple[int, list[str]]] = {}
    counts = []
    for file in item["files"]:
        ranks = [use["rank"] for use in file["uses"]]
        counts.append([file["path"], *(str(ranks.count(rank)) for rank in _RANKS)])
        for use in file["uses"]:
            calls, paths = by_name.get((use["rank"], use["name"]), (0, []))
            by_name[use["rank"], use["name"]] = (calls + use["calls"], [*paths, file["path"]])
    names = [
        [rank, name, str(calls), paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")]
        for (rank, name), (calls, paths) in sorted(by_name.items(), key=lambda entry: _place(*entry[0]))
    ]
    verdict = {
        "code": "unpickling it would import and may run any code",
        "library": "unpickling it would make objects of known frameworks",
        "data": "unpickling it would make plain data only",
    }[item["worst"]]
    return [
        f"{item['name']}: {verdict}",
        "",
        session.table(["file", *_RANKS], counts, right=_RANKS),
        "",
        session.table(["rank", "name", "calls", "in"], names, right=["calls"]),
    ]


class _Chosen:
    """Those policies of a checkpoint that were named on the command line.

    A policy or module saved by itself doesn't know its id: it is taken for the one that was named.
    """

    def __init__(self, checkpoint: Checkpoint, policy_ids: tuple[str, ...]) -> None:
        self._checkpoint = checkpoint
        self._alone = checkpoint.kind in ("Policy", "RLModule") and len(policy_ids) == 1
        # Asked one by one: the list of all may cost reading the algorithm's state.
        self.policy_ids = tuple(name for name in policy_ids if self._alone or name in checkpoint.policies)

    def weights(self, policy_id: str) -> Mapping[str, Any]:
        """Name to array of one of them."""
        return self._checkpoint.weights(None if self._alone else policy_id)


@command("diff")
@click.argument("before", metavar="CHECKPOINT")
@click.argument("after", metavar="CHECKPOINT")
@click.option(
    "--policy",
    "policy_ids",
    metavar="ID",
    multiple=True,
    help="Compare this policy's weights and nothing else. Repeatable.",
)
def diff(session: Session, before: str, after: str, policy_ids: tuple[str, ...]) -> None:
    """Compare the weights and the config of two checkpoints, of whatever release.

    The exit code is 0 if they are equal and 1 if they differ. Optimizers, counters and components are not
    compared. One policy saved by itself is compared with the one named with --policy.
    """
    left, right = (_open(session, text) for text in (before, after))
    sides: list[differences.Comparable] = [
        _Chosen(checkpoint, policy_ids) if policy_ids else checkpoint for checkpoint in (left, right)
    ]
    known = {policy_id for side in sides for policy_id in side.policy_ids}
    if absent := [policy_id for policy_id in policy_ids if policy_id not in known]:
        raise CheckpointNotFound(left.name, f"neither it nor {right.name} holds a policy {absent[0]!r}")
    if not known:
        raise UnreadableFormat(left.name, f"neither it nor {right.name} holds a policy: nothing to compare")
    configs = None if policy_ids else (_config(left), _config(right))
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
            {"key": item.key, "before": _display_value(item.before), "after": _display_value(item.after)}
            for item in found.config
        ],
    }
    session.show(document, *_diff_lines(session, document))
    if found:
        click.get_current_context().exit(DIFFERENT)


def _open(session: Session, text: str) -> Checkpoint:
    checkpoint = find_checkpoint(session, text).checkpoint
    assert checkpoint is not None
    return checkpoint


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    state = checkpoint.state
    config = state.get("config") if isinstance(state, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _display_value(value: Any) -> Any:
    """A config's value, as JSON where it is simple and else as short text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else _brief(value)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _diff_lines(session: Session, document: Mapping[str, Any]) -> list[Any]:
    compared = plural(len(document["compared"]), "policy").replace("policys", "policies")
    what = compared if document["config"] is None else f"{compared} and the config"
    if document["equal"]:
        return [f"equal: {what}"]
    lines: list[Any] = [
        f"{side} in {document[key]}: {', '.join(document[f'only_{key}'])}"
        for side, key in (("only", "before"), ("only", "after"))
        if document[f"only_{key}"]
    ]
    if document["arrays"]:
        rows = [
            [
                item["policy_id"],
                item["name"],
                item["before"] or "(missing)",
                item["after"] or "(missing)",
                _number(item["l2"]),
                _number(item["largest"]),
            ]
            for item in document["arrays"]
        ]
        columns = ["policy", "array", "before", "after", "L2 difference", "largest"]
        lines += [*([""] if lines else []), session.table(columns, rows, right=columns[4:])]
    if document["config"]:
        rows = [[item["key"], _brief(item["before"]), _brief(item["after"])] for item in document["config"]]
        lines += [*([""] if lines else []), session.table(["config", "before", "after"], rows)]
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


COMMANDS = (scan, diff)
