"""Refuse to unpickle functions and classes that another Python wrote as bytecode."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ckptstore.codec.pickles.python_code import find_code
from ckptstore.errors import UnreadableFormat
from ckptstore.format.manifest import pythons_of


def refuse_foreign_code(what: str, pickled: bytes, writer: Mapping[str, str]) -> None:
    """Raise UnreadableFormat if `pickled` holds bytecode of another minor version of Python; run nothing.

    `writer` is the manifest's. `pickled` may lack the data of its arrays.
    """
    here = _minor(".".join(map(str, sys.version_info[:2])))
    wrote = list(dict.fromkeys(map(_minor, pythons_of(writer))))
    found = find_code(pickled)
    if found is None or (wrote == [here] and found.fits):
        return
    others = [version for version in wrote if version != here]
    who = " or ".join(f"Python {version}" if version else "an unknown Python" for version in others)
    raise UnreadableFormat(
        what,
        f"it holds functions or classes as bytecode of {who or 'another Python'}; Python {here} can't run it",
        f"Load it with {who if who and '' not in others else 'the Python that wrote it'}, or without "
        "trusted=True, as data; classes in an importable module load on any Python once saved anew",
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
