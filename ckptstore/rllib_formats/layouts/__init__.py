"""Where each layout keeps what: from a sniffed directory to raw documents, one policy at a time.

A layout reads files through a `Source` and composes the documents that `migrations` upgrades. It
interprets nothing beyond that. One file per layout; a new one is a file here and a line below.
"""

from __future__ import annotations

from ckptstore.rllib_formats.detect import Sniffed
from ckptstore.rllib_formats.layouts.base import Layout, Want
from ckptstore.rllib_formats.layouts.policies import Policies
from ckptstore.rllib_formats.layouts.single_file import SingleFile
from ckptstore.rllib_formats.layouts.tree import Tree
from ckptstore.rllib_formats.source import Source

__all__ = ["Layout", "Want", "layout"]


def layout(source: Source, sniffed: Sniffed) -> Layout:
    """The layout that reads what was sniffed."""
    if sniffed.version == "0.1":
        return SingleFile(source, sniffed)
    return Tree(source, sniffed) if sniffed.version >= "2.0" else Policies(source, sniffed)
