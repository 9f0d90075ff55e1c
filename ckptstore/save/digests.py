"""Digests of files that no manifest vouches for, as a manifest would have them."""

from __future__ import annotations

from collections.abc import Mapping

from ckptstore.read.files import Files
from ckptstore.save.writing import Hasher


def digest_files(files: Files) -> dict[str, str]:
    """Path to digest, of every file; reads them all, a part at a time. Equal to those of a staged copy."""
    return {path: _digest(files, path) for path in sorted(files.paths())}


def differs(files: Files, known: Mapping[str, str]) -> bool:
    """Whether any of the files that are `known` differs from its digest; reads up to the first that does."""
    return any(_digest(files, path) != expected for path, expected in sorted(known.items()))


def _digest(files: Files, path: str) -> str:
    hasher = Hasher()
    for data in files.stream(path):
        hasher.write(memoryview(data))
    return hasher.finish(path).digest
