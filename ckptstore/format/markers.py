"""The two small files of a checkpoint whose bytes are known without reading them.

Their names begin with a dot, so artifact stores and ``cp dir/*`` leave them behind.
"""

from __future__ import annotations

from ckptstore.format.digest import digest, digest_of_digests
from ckptstore.format.layout import MARKERS, markers
from ckptstore.format.manifest import Manifest


def derive_marker(manifest: Manifest, path: str) -> bytes | None:
    """What the file `path` of a checkpoint that ckptstore saved must hold, if it is one of these two.

    None for any other file, and where the manifest tells of other bytes.
    """
    if path not in MARKERS or manifest.origin != "save":
        return None
    data = markers(manifest.step)[path]
    said = (path, len(data), digest_of_digests([digest(data)]))
    return data if said in manifest.files else None
