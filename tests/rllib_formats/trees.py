"""Golden checkpoints as dicts of bytes, to be bent and broken in memory."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from ckptstore.rllib_formats.foreign import ForeignCheckpoint
from ckptstore.rllib_formats.foreign import open as open_foreign

DATA = Path(__file__).parents[1] / "data"

Files = dict[str, bytes]


def load(case: str, directory: str = "") -> Files:
    """Path to content of the golden checkpoint `case`."""
    root = DATA / case / "checkpoint" / directory
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


class Recorder:
    """Opens a dict of files and counts what is read."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.paths: list[str] = []

    @property
    def amount(self) -> int:
        """Bytes read so far."""
        return sum(len(self.files[path]) for path in self.paths)

    def read(self, path: str) -> bytes:
        """The content of `path`."""
        self.paths.append(path)
        return self.files[path]

    def open(self) -> ForeignCheckpoint:
        """The checkpoint these files are."""
        return open_foreign({path: len(data) for path, data in self.files.items()}, self.read)


def open_files(files: Files) -> ForeignCheckpoint:
    """The checkpoint that `files` are."""
    return Recorder(files).open()


def read_all(files: Files) -> ForeignCheckpoint:
    """Open and read everything there is to read."""
    return read_everything(open_files(files))


def read_everything(foreign: ForeignCheckpoint) -> ForeignCheckpoint:
    """The same checkpoint, all of it read."""
    foreign.state()
    for policy_id in foreign.policy_ids:
        foreign.policy(policy_id)
        foreign.weights(policy_id)
    for name in foreign.components:
        foreign.component(name)
    return foreign


def with_json(files: Files, path: str, **changes: Any) -> Files:
    """`files` with keys of one JSON changed; None removes a key."""
    value = {**json.loads(files[path]), **changes}
    return {**files, path: json.dumps({k: v for k, v in value.items() if v is not None}).encode()}


def without(files: Files, prefix: str) -> Files:
    """`files` without those below `prefix`."""
    kept = {path: data for path, data in files.items() if not path.startswith(prefix)}
    assert len(kept) < len(files)
    return kept


def with_pickle(files: Files, path: str, value: Any) -> Files:
    """`files` with `path` holding the pickle of `value`."""
    return {**files, path: pickle.dumps(value)}
