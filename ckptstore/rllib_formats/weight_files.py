"""Which file holds the weights of each RLModule."""

from __future__ import annotations

from collections.abc import Mapping

from ckptstore.codec.encodings import EXTENSIONS
from ckptstore.rllib_formats.paths import children, join, state_file
from ckptstore.rllib_formats.versions import find_version


def module_files(files: Mapping[str, int], directory: str | None, version: str) -> dict[str, str]:
    """State file of every RLModule below `directory`, by module id; none where it is None.

    Ray 2.5 to 2.32 keep it one directory deeper (``module_state_path/`` and later
    ``module_state_dir/``); the others beside the module's metadata.
    """
    if directory is None:
        return {}
    written = find_version(version).weights
    order = (*written, *(extension for extension in EXTENSIONS if extension not in written))
    found = {}
    for name in children(files, directory):
        for inner in ("", "/module_state_dir", "/module_state_path"):
            if path := state_file(files, f"{join(directory, name)}{inner}/module_state", order):
                found[name] = path
                break
    return found
