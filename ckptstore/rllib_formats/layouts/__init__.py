"""Where each layout keeps what: from a directory of a known kind to raw documents, one policy at a time.

A layout reads files through a `Source` and composes the documents that `migrations` upgrades. It
interprets nothing beyond that. One file per layout; a new one is a file here and a line in `_LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from ckptstore.rllib_formats.detect import Detected
from ckptstore.rllib_formats.layouts.base import Layout, Want
from ckptstore.rllib_formats.layouts.policies import Policies
from ckptstore.rllib_formats.layouts.single_file import SingleFile
from ckptstore.rllib_formats.layouts.tree import Tree
from ckptstore.rllib_formats.source import Source
from ckptstore.rllib_formats.versions import LayoutName, find_version

__all__ = ["Layout", "Want", "layout"]


_LAYOUTS: dict[LayoutName, Callable[[Source, Detected], Layout]] = {
    "single_file": SingleFile,
    "policies": Policies,
    "tree": Tree,
}


def layout(source: Source, detected: Detected) -> Layout:
    """The layout that reads the files of `source`, which `detected` describes."""
    return _LAYOUTS[find_version(detected.version).layout](source, detected)
