"""What is stored already as the source of a save: a policy taken over, a checkpoint copied whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ckptstore.backends.base import place_of
from ckptstore.format.layout import Base, Item, Stored, Write
from ckptstore.format.manifest import pythons_of
from ckptstore.read.reader import VerifiedFiles


class StoredPolicy(Stored):
    """A policy of a committed checkpoint, by its files: their names in its directory, and their paths."""

    def __init__(self, files: VerifiedFiles, paths: Mapping[str, str]) -> None:
        base = base_of(files)
        self._items = {name: _reuse_item(files, base, path) for name, path in paths.items()}

    def items(self, path: Callable[[str], str]) -> list[Item]:
        """See `Stored`."""
        return [item._replace(path=path(name)) for name, item in self._items.items()]


def base_of(files: VerifiedFiles) -> Base:
    """A checkpoint as what a save may take files over from."""
    return Base(
        place_of(files.backend),
        files.prefix,
        files.manifest.id,
        files.parts,
        pythons_of(files.manifest.writer),
    )


def copy_items(files: VerifiedFiles) -> list[Item]:
    """Every file of a checkpoint, verified as it is read."""
    return [_copy_item(files, path) for path in files.paths()]


def _reuse_item(files: VerifiedFiles, base: Base, path: str) -> Item:
    def emit(write: Write) -> Sequence[tuple[int, int]]:
        for data in files.stream(path):
            write(memoryview(data))  # each part stays a part
        return base.files[path].arrays

    return Item(path, emit, (base, path))


def _copy_item(files: VerifiedFiles, path: str) -> Item:
    def emit(write: Write) -> tuple[()]:
        for data in files.stream(path):
            write(data)
        return ()

    return Item(path, emit)
