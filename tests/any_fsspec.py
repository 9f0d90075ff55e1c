"""A scheme that ckptstore knows nothing of: ``anydir://`` and a path on the local disk, by fsspec alone."""

from __future__ import annotations

import fsspec
from fsspec.implementations.local import LocalFileSystem

ANY = "anydir"


class AnyDirectory(LocalFileSystem):  # type: ignore[misc]  # untyped
    """The local disk under another name."""

    protocol = ANY

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix(f"{ANY}://"))
        return stripped


fsspec.register_implementation(ANY, AnyDirectory, clobber=True)
