"""What desktops, notebooks, consoles and network file systems leave in any directory: nobody's data."""

from __future__ import annotations

from collections.abc import Mapping

from ckptstore.format.names import META

_NAMES = frozenset(
    {".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory", "lost+found"}
)
_BEGINNINGS = ("._", ".nfs", ".fuse_hidden", ".trash-", ".~lock.")
_DIRECTORIES = frozenset(
    {".ipynb_checkpoints", "__macosx", "@eadir", ".spotlight-v100", ".fseventsd", ".trashes"}
    | {".temporaryitems", ".appledouble", "system volume information", "$recycle.bin"}
)


def is_dropping(path: str) -> bool:
    """Whether the file `path`, or a directory that it lies in, has the name of such a file or directory.

    They come and go by themselves, so that no manifest may name one.
    """
    *folders, name = path.lower().split("/")
    if not name:
        return True  # an object for the directory itself, as consoles of buckets make
    if any(part in _DIRECTORIES for part in (*folders, name)):
        return True
    return name in _NAMES or name.startswith(_BEGINNINGS)


def content_of(listing: Mapping[str, int]) -> dict[str, int]:
    """Of a directory's files (path to size), those that are none of ours and not nobody's."""
    return {
        path: size
        for path, size in listing.items()
        if not path.startswith(f"{META}/") and not is_dropping(path)
    }
