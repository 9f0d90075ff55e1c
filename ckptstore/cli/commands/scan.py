"""``ckptstore scan``: show what unpickling a checkpoint would import and call, without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from ckptstore import bulk
from ckptstore.backends.base import Backend
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli import many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat, UnsafeContent
from ckptstore.format.names import CheckpointName
from ckptstore.read.files import UnverifiedFiles
from ckptstore.read.locate import list_files
from ckptstore.rllib_formats import scan as scans

REFUSED = UnsafeContent.exit_code
_RANKS: tuple[scans.Rank, ...] = ("code", "unknown", "library", "data")  # worst first


@command("scan")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@click.option("--strict", is_flag=True, help=f"Exit with {REFUSED} if anything is more than data.")
@many.workers_option
def scan(session: Session, target: str, strict: bool, workers: int) -> int:
    """Show what unpickling a checkpoint would import and call, without doing it.

    Every name gets a rank: `data` makes plain values, `library` is a class of a known framework, and `code`
    is anything else, which may do whatever it likes. ckptstore itself runs none of them; RLlib unpickles
    and so runs them all. Every file is judged by its content, whatever it is called. Pickles that can't be
    decoded count as code; what wasn't looked into is listed as `unknown`. CHECKPOINT may be any directory,
    even one that isn't a whole checkpoint.
    """
    if (url := many.parse_pattern(target)) is not None:
        return many.run_each(session, url, workers, lambda found: _scan_one(found, strict), ["the worst"])
    found = [_summarize(name, url, uses) for name, url, uses in _scan_target(session, target)]
    lines: list[Any] = []
    for item in found:
        lines += [*([""] if lines else []), *_format_summary(session, item)]
    document = {"worst": _find_worst(item["worst"] for item in found), "checkpoints": found}
    session.show(document, *(lines or ["the store holds no checkpoint"]))
    return REFUSED if strict and any(item["worst"] not in (None, "data") for item in found) else 0


def _scan_one(found: bulk.Found, strict: bool) -> many.Line:
    uses = _scan_files(found.backend, found.path) if found.committed else found.open().scan()
    worst = uses[0].rank if uses else None
    refused = strict and worst not in (None, "data")
    document = {"worst": worst, "uses": [use._asdict() for use in uses]}
    cells = [f"{uses[0].name} in {uses[0].path}" if uses else ""]
    return many.Line(worst or "nothing", document, cells, REFUSED if refused else 0)


def _scan_target(session: Session, target: str) -> Iterable[tuple[str, str, tuple[scans.Use, ...]]]:
    """The name and URL of each checkpoint, and what unpickling it would use."""
    try:
        store, checkpoint = find(session, target)
    except (CheckpointCorrupt, UnreadableFormat):
        # Too damaged to open, or not a checkpoint at all: it may still hold pickles to beware of.
        yield _scan_directory(session, target)
        return
    if checkpoint is not None:
        if checkpoint.committed:  # strays as well
            yield _scan_directory(session, checkpoint.url)
        else:
            yield checkpoint.name, checkpoint.url, checkpoint.scan()
    elif store is not None:
        backend = open_backend(store.url, session.options)
        with translate_errors(store.url):
            names = sorted(filter(None, map(CheckpointName.parse, backend.children())))
        for name in names:  # whole or not: whatever lies there may be unpickled by somebody
            yield str(name), f"{store.url}/{name}", _scan_files(backend, str(name))


def _scan_directory(session: Session, url: str) -> tuple[str, str, tuple[scans.Use, ...]]:
    """Its name and URL, and what is in it."""
    backend = open_backend(url, session.options)
    return backend.url.rpartition("/")[2], backend.url, _scan_files(backend, "")


def _scan_files(backend: Backend, prefix: str) -> tuple[scans.Use, ...]:
    """Every file below `prefix`, whatever a manifest says of it."""
    files = UnverifiedFiles(backend, list_files(backend, prefix, backend.url), prefix)
    return scans.scan(files.paths(), files.read)


def _summarize(name: str, url: str, uses: tuple[scans.Use, ...]) -> dict[str, Any]:
    """The JSON of one checkpoint: its files, the worst first."""
    files: dict[str, list[scans.Use]] = {}
    for use in uses:
        files.setdefault(use.path, []).append(use)
    return {
        "name": name,
        "url": url,
        "worst": _find_worst(use.rank for use in uses),
        "files": [
            {
                "path": path,
                "worst": _find_worst(use.rank for use in inside),
                "uses": [
                    {"name": use.name, "rank": use.rank, "calls": use.calls, "position": use.position}
                    for use in inside
                ],
            }
            for path, inside in sorted(
                files.items(), key=lambda entry: (min(_RANKS.index(use.rank) for use in entry[1]), entry[0])
            )
        ],
    }


def _find_worst(ranks: Iterable[str | None]) -> str | None:
    present = set(ranks)
    return next((rank for rank in _RANKS if rank in present), None)


def _format_summary(session: Session, item: Mapping[str, Any]) -> list[Any]:
    """For people: a verdict, a table of the files, and a table of the names, the worst first."""
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
    worst_first = sorted(by_name, key=lambda entry: (_RANKS.index(entry[0]), entry[1]))
    names = []
    for rank, name in worst_first:
        calls, paths = by_name[rank, name]
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        names.append([rank, name, str(calls), paths[0] + more])
    verdict = {
        "code": "unpickling it would import and may run any code",
        "unknown": "not all of it could be looked into",
        "library": "unpickling it would make objects of known frameworks",
        "data": "unpickling it would make plain data only",
    }[item["worst"]]
    return [
        f"{item['name']}: {verdict}",
        "",
        session.make_table(["file", *_RANKS], counts, right=_RANKS),
        "",
        session.make_table(["rank", "name", "calls", "in"], names, right=["calls"]),
    ]
