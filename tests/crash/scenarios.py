"""What is tried at every moment, and the stores that it is tried on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ckptstore.format.names import CheckpointName
from tests.crash.loop import Scenario
from tests.crash.world import State, catalog, manifest, payload, save

ONE, TWO = CheckpointName(1), CheckpointName(2)


def _both(old: State, new: State) -> list[State]:
    """A replacement shows the old one, both, or the new one: the higher attempt counts."""
    return [old, {**old, **new}, new]


def _lower_first(old: State, new: State) -> list[State]:
    return [old, {name: files for name, files in old.items() if name != str(ONE)}, new]


SAVE = Scenario("save", lambda store: save(store, 3))
FIRST = Scenario("first", lambda store: save(store, 0))
REPLACE = Scenario("replace", lambda store: save(store, 2, "replace", "again"), _both)
DELETE = Scenario("delete", lambda store: store.delete(ONE, lambda: None))
DELETE_SHADOWED = Scenario(
    "delete-shadowed", lambda store: store.delete(CheckpointName(1, 1), lambda: None), _lower_first
)
SWEEP = Scenario("sweep", lambda store: store.sweep(None))
ADOPT = Scenario("adopt", lambda store: store.adopt(CheckpointName(7), _vouch))
ALL = (SAVE, FIRST, REPLACE, DELETE, DELETE_SHADOWED, SWEEP, ADOPT)


def _vouch(files: Mapping[str, int]) -> tuple[bytes, bytes]:
    table, held = b"parts", payload(7, "Ray's")
    assert files == {path: len(data) for path, data in held.items()}
    return table, manifest({**held, "_ckptstore/parts.json": table})


def make_templates(base: str) -> dict[str, str]:
    """Stores by scenario: two older checkpoints under "", and what some need beside them."""
    store = catalog(base)
    store.backend.publish("_ckptstore/store.json", b"{}")
    save(store, 1)
    save(store, 2)

    littered = f"{base}-littered"
    shutil.copytree(base, littered)
    os.makedirs(f"{littered}/.staging/dead/policies")
    Path(littered, ".staging/dead/policies/half").write_bytes(b"half")
    Path(littered, ".staging/dead.lock").touch()
    Path(littered, ".staging/gone.lock").touch()
    os.makedirs(f"{littered}/.staging/unlocked")
    shutil.copytree(f"{base}/{ONE}", f"{littered}/.trash/{ONE}.0123456789abcdef")
    stray = Path(littered, "_ckptstore/.ckptstore-0123456789abcdef.tmp")
    stray.write_bytes(b"x")
    os.utime(stray, (0, 0))

    shadowed = f"{base}-shadowed"
    shutil.copytree(base, shadowed)
    shutil.copytree(f"{base}/{ONE}", f"{shadowed}/{ONE}-r1")

    empty = f"{base}-empty"
    os.mkdir(empty)

    foreign = f"{base}-foreign"
    shutil.copytree(base, foreign)
    for path, data in payload(7, "Ray's").items():
        file = Path(foreign, str(CheckpointName(7)), path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return {"": base, "sweep": littered, "delete-shadowed": shadowed, "first": empty, "adopt": foreign}
