"""``ckptstore scan``: show what unpickling a checkpoint would import and call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from ckptstore import bulk
from ckptstore.backends import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli import many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat, UnsafeContent
from ckptstore.read.files import UnverifiedFiles
from ckptstore.rllib_formats import scan as scans

REFUSED = UnsafeContent.exit_code


_RANKS: tuple[scans.Rank, ...] = ("code", "library", "data")


@command("scan")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@click.option("--strict", is_flag=True, help=f"Exit with {REFUSED} if anything is more than data.")
@many.option
def scan(session: Session, target: str, strict: bool, workers: int) -> int:
    """Show what unpickling a checkpoint would import and call, without doing it.

    Ranks every name: `data` makes plain values, `library` is a class of a known framework, `code` is
    anything else and may do whatever it likes. ckptstore itself runs none of them; RLlib, which unpickles,
    runs them all. Files that can't be decoded count as code. A directory need not be a whole checkpoint.
    """
    if (below := many.below(target)) is not None:
        return many.each(session, below, workers, lambda item: _line(item, strict), ["the worst"])
    found = [_summarize_scan(name, url, uses) for name, url, uses in _uses(session, target)]
    lines: list[Any] = []
    for item in found:
        lines += [*([""] if lines else []), *_scan_lines(session, item)]
    document = {"worst": _worst(item["worst"] for item in found), "checkpoints": found}
    session.show(document, *(lines or ["the store holds no checkpoint"]))
    return REFUSED if strict and any(item["worst"] not in (None, "data") for item in found) else 0


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


def _line(found: bulk.Found, strict: bool) -> many.Line:
    """What ``scan`` says of one among many."""
    uses = found.open().scan()
    worst = uses[0].rank if uses else None
    bad = strict and worst not in (None, "data")
    document = {"worst": worst, "uses": [use._asdict() for use in uses]}
    cells = [f"{uses[0].name} in {uses[0].path}" if uses else ""]
    return many.Line(worst or "nothing", document, cells, REFUSED if bad else 0)
