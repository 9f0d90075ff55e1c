"""``ckptstore scan``: show what unpickling a checkpoint would import and call, without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from ckptstore import bulk
from ckptstore.backends.base import Backend, TooLarge
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import explain_memory_error, translate_errors
from ckptstore.cli import many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.commit.local.root import LOCK
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat, UnsafeContent
from ckptstore.format.names import META, STAGING, TRASH, CheckpointName
from ckptstore.read.files import UnverifiedFiles
from ckptstore.read.locate import find_file, list_files
from ckptstore.rllib_formats import scan as scans

_OUR_OWN = (META, STAGING, TRASH, LOCK)
REFUSED = UnsafeContent.exit_code
_RANKS: tuple[scans.Rank, ...] = ("code", "unknown", "library", "data")  # worst first


@command("scan")
@click.argument("target", metavar="STORE|CHECKPOINT|FILE|URL/**")
@click.option("--strict", is_flag=True, help=f"Exit with {REFUSED} if anything is more than data.")
@many.workers_option
def scan(session: Session, target: str, strict: bool, workers: int) -> int:
    """Show what unpickling a checkpoint would import and call, without doing it.

    Every name gets a rank: `data` makes plain values, `library` is a class of a known framework, and `code`
    is anything else, which may do whatever it likes. ckptstore itself runs none of them; RLlib unpickles
    and so runs them all. Every file is judged by its content, whatever it is called. Pickles that can't be
    decoded count as code; what wasn't looked into is listed as `unknown`. CHECKPOINT may be any directory,
    even one that isn't a whole checkpoint. Of a store, what lies beside the checkpoints is scanned too.
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
    if (file := find_file(target, session.options)) is not None:
        yield _scan_file(*file)
        return
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
        yield from _scan_store(open_backend(store.url, session.options))


def _scan_file(directory: Backend, name: str) -> tuple[str, str, tuple[scans.Use, ...]]:
    url = f"{directory.url.rstrip('/')}/{name}"
    with translate_errors(url), explain_memory_error(url):
        try:
            data = directory.read(name, most=scans.LIMITS.file_bytes)
            size = len(data)
        except TooLarge:
            data, size = b"", scans.LIMITS.file_bytes + 1
    return name, url, scans.scan({name: size}, lambda _: data)


def _scan_store(backend: Backend) -> Iterable[tuple[str, str, tuple[scans.Use, ...]]]:
    """Each directory that holds anything, whole or not, and what lies beside them.

    Whatever lies there may be unpickled by somebody. What was deleted holds nothing any more.
    """
    directories: dict[str, dict[str, int]] = {}
    for path, size in list_files(backend, "", backend.url).items():
        name, _, rest = path.partition("/")
        if rest and CheckpointName.parse(name):
            directories.setdefault(name, {})[rest] = size
        elif name not in _OUR_OWN:
            directories.setdefault("", {})[path] = size
    for name in sorted(directories, key=lambda name: (not name, CheckpointName.parse(name) or name)):
        files = UnverifiedFiles(backend, directories[name], name)
        if files.paths():
            yield name or ".", files.label, scans.scan(files.paths(), files.read)


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
