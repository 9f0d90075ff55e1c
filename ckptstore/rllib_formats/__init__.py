"""Reads what RLlib wrote, from Ray 2.0 and older to the newest, with numpy alone and without running code.

    foreign = eras.open(files, read)      # files: path to size; read: path to bytes
    foreign.kind, foreign.version, foreign.ray_version, foreign.policy_ids
    foreign.weights("pol1")               # dict of arrays, the names of the live algorithm
    foreign.state(), foreign.policy("pol1"), foreign.notes

Opening reads a small JSON at most; every policy is fetched when it is asked for.
"""

from __future__ import annotations

from ckptstore.rllib_formats.foreign import ForeignCheckpoint, open
from ckptstore.rllib_formats.notes import Note

__all__ = ["ForeignCheckpoint", "Note", "open"]
