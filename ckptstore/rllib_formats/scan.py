"""List what unpickling a checkpoint's files would import and call, without doing it.

Every file is judged by its bytes, whatever it is called (``content``); what could not be looked into is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ckptstore.codec import encodings
from ckptstore.format.names import stays_below
from ckptstore.rllib_formats.content import LIMITS, Limits, Look
from ckptstore.rllib_formats.ranks import Rank, rank
from ckptstore.rllib_formats.source import MAX_JSON_BYTES

__all__ = ["LIMITS", "Limits", "Rank", "Use", "rank", "scan", "scan_bytes"]

_ENDINGS = (*(f".{extension}" for extension in encodings.CODE_EXTENSIONS), ".tune_metadata")
_JSONS = ("rllib_checkpoint.json", "metadata.json")
_ORDER: dict[Rank, int] = {"code": 0, "unknown": 1, "library": 2, "data": 3}


class Use(NamedTuple):
    """One name that a file mentions, and how often loading it would import and call it."""

    path: str
    name: str
    """In parentheses, where there is none: why something wasn't decoded or looked into."""
    rank: Rank
    """data: makes plain values; library: a class of a known framework; unknown: not looked into; code: runs
    what the file says."""
    calls: int
    position: int
    """Byte of the first use, in the innermost pickle that holds it."""


def scan(files: Mapping[str, int], read: Callable[[str], bytes], limits: Limits = LIMITS) -> tuple[Use, ...]:
    """Every name that unpickling the files would look up, worst rank first, then by path.

    A pickle that can't be decoded is itself reported as code, since no honest program writes one; what was
    not looked into, because nobody here knows its format or because it is over one of `limits`, as unknown.
    """
    found: list[Use] = []
    called = _find_state_files(files, read)
    pieces: dict[str, list[tuple[int, int]]] = {}
    # The index of a distributed checkpoint says which bytes of the other files are loaded by themselves.
    for path in sorted(files, key=lambda each: (not each.endswith(".metadata"), each)):
        size = files[path]
        if not stays_below(path):
            found.append(_unknown(path, "its name would leave the checkpoint"))
        elif size < 0:
            found.append(_unknown(path, "a link, pipe or device"))
        elif size > limits.file_bytes:
            found.append(_unknown(path, f"{size} bytes, more than {limits.file_bytes}"))
        elif size:
            look = Look(path, read(path), limits)
            look.run(_says_pickle(path) or path in called, pieces.get(path, ()))
            found += _uses_of(look)
            directory = path.rpartition("/")[0]
            for name, offset, length in look.pieces:
                pieces.setdefault(f"{directory}/{name}" if directory else name, []).append((offset, length))
    return tuple(sorted(found, key=lambda use: (_ORDER[use.rank], use.path, use.name)))


def scan_bytes(path: str, data: bytes) -> list[Use]:
    """The uses in one file, one entry per name."""
    look = Look(path, data, LIMITS)
    look.run(_says_pickle(path), ())
    return list(_uses_of(look))


def _uses_of(look: Look) -> Iterator[Use]:
    for name, (calls, position) in look.uses.items():
        yield Use(look.path, name, rank(name), calls, position)
    for why in dict.fromkeys(look.refused):
        yield Use(look.path, f"(not decodable: {why})", "code", 0, 0)
    for why in dict.fromkeys(look.unseen):
        yield _unknown(look.path, why)


def _unknown(path: str, why: str) -> Use:
    return Use(path, f"(not looked into: {why})", "unknown", 0, 0)


def _says_pickle(path: str) -> bool:
    """Whether its name makes RLlib or torch decode it as code, so that anything else in it is suspicious."""
    name = path.rpartition("/")[2]
    return name.endswith(_ENDINGS) or name.startswith("checkpoint-")


def _find_state_files(files: Mapping[str, int], read: Callable[[str], bytes]) -> set[str]:
    """Files of any name that RLlib unpickles because the JSON beside them says so."""
    found = set()
    for path in files:
        directory, _, name = path.rpartition("/")
        if name not in _JSONS or not stays_below(path) or not 0 < files[path] <= MAX_JSON_BYTES:
            continue
        try:
            info = json.loads(read(path))
        except (ValueError, RecursionError):
            continue
        for key in ("state_file", "class_and_ctor_args_file"):
            if isinstance(info, dict) and isinstance(info.get(key), str):
                last = info[key].rpartition("/")[2]
                found.add(f"{directory}/{last}" if directory else last)
    return found
