"""Every operation of a store, stopped after every change it makes to the disk.

The store already holds two older tagged checkpoints. After each stop plain ``os`` must find them byte
for byte, and of the operation's own checkpoints the old state or the new; then the same operation,
repeated by a new process without any clean-up, must succeed.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.commit.local.catalog import DirectoryAttempt
from ckptstore.errors import CheckpointExists, CheckpointGone, CheckpointNotFound
from ckptstore.testing import Crash, CrashingDisk
from tests.figures import Figures
from tests.stores import assert_same, tree_bytes

CASE = Path(__file__).parents[1] / "data" / "v1_1" / "ray_2.35.0_policy_msgpack" / "checkpoint"
State = dict[str, dict[str, bytes]]
STATE = {"iteration": 1, "x": np.arange(40_000)}
POLICIES = {"pol0": {"weights": {"w": np.ones((200, 200))}}, "pol1": {"weights": {"w": np.zeros(3)}}}


def new_store(root: Path, disk: CrashingDisk | None = None) -> CheckpointStore:
    """A store as a fresh process opens it; one file at a time, so that changes come in one order."""
    backend = LocalBackend(str(root), disk=disk) if disk else LocalBackend(str(root))
    return CheckpointStore(backend, concurrency=1)


def look(root: Path) -> State:
    """Committed checkpoints by name, every byte of them, without any code of ours."""
    return {
        path.name: tree_bytes(path)
        for path in root.glob("checkpoint_*")
        if (path / "_ckptstore" / "manifest.json").exists()
    }


def save(store: CheckpointStore) -> None:
    store.save(3, STATE, POLICIES, metrics={"r": 1.0})


def replace(store: CheckpointStore) -> None:
    store.save(3, {"iteration": 2}, POLICIES, if_exists="replace")


def stage(store: CheckpointStore) -> None:
    with store.stage(3) as path:
        Path(path, "deep").mkdir()
        Path(path, "deep", "file").write_bytes(b"x" * 100_000)


def delete(store: CheckpointStore) -> None:
    store.delete(3)


def prune(store: CheckpointStore) -> None:
    store.prune(1)


def gc(store: CheckpointStore) -> None:
    store.gc()


def tag(store: CheckpointStore) -> None:
    store.tag("champion", 2)


def adopt(store: CheckpointStore) -> None:
    store.adopt("checkpoint_000003")


class Scenario(NamedTuple):
    operate: Callable[[CheckpointStore], None]
    prepare: Callable[[Path], None]
    again_fails: tuple[type[Exception], ...] = ()
    """What the repetition may say where the operation had taken effect before it was stopped."""


def nothing(root: Path) -> None:
    pass


def one_more(root: Path) -> None:
    save(new_store(root))


def three_more(root: Path) -> None:
    store = new_store(root)
    for step in (3, 4, 5):
        store.save(step, STATE)


def leftovers(root: Path) -> None:
    """A save that died in the middle, one just before its commit, and a delete that died."""
    save(new_store(root))
    for operation, after in ((replace, 8), (replace, 30), (delete, 4)):
        disk = CrashingDisk(after)
        with pytest.raises(Crash):
            operation(new_store(root, disk))
        disk.drop()


def rllibs(root: Path) -> None:
    """A directory that Ray wrote, under a name of ours."""
    shutil.copytree(CASE, root / "checkpoint_000003")


SCENARIOS = {
    "save": Scenario(save, nothing, (CheckpointExists,)),
    "stage": Scenario(stage, nothing, (CheckpointExists,)),
    "replace": Scenario(replace, one_more),
    "delete": Scenario(delete, one_more, (CheckpointNotFound, CheckpointGone)),
    "prune": Scenario(prune, three_more),
    "gc": Scenario(gc, leftovers),
    "tag": Scenario(tag, nothing),
    "adopt": Scenario(adopt, rllibs),
}


def template(root: Path, scenario: Scenario) -> Path:
    store = new_store(root)
    for step in (1, 2):
        store.tag(f"old{step}", store.save(step, {"step": step}, POLICIES))
    scenario.prepare(root)
    return root


def between(before: State, seen: State, after: State) -> bool:
    """Whether what is seen is old or new at every step: nothing half, nothing else."""
    if not all(name in before or name in after for name in seen):
        return False
    whole = all(
        files in (before.get(name), after.get(name)) or name not in before for name, files in seen.items()
    )
    kept = all(seen.get(name) == before[name] for name in before if name in after)
    return whole and kept and visible_steps(before) & visible_steps(after) <= visible_steps(seen)


def visible_steps(state: State) -> set[str]:
    return {name.partition("-")[0] for name in state}


def loop(tmp_path: Path, scenario: Scenario, moments: range | None = None) -> tuple[int, int]:
    """Run the scenario, stopped at every change; (changes the operation makes, states looked at)."""
    origin = template(tmp_path / "origin", scenario)
    before = look(origin)
    whole = tmp_path / "whole"
    shutil.copytree(origin, whole)
    scenario.operate(new_store(whole))
    expected = look(whole)
    for after in itertools.count():
        root = tmp_path / "crashed"
        shutil.copytree(origin, root)
        disk = CrashingDisk(after)
        try:
            scenario.operate(new_store(root, disk))
            lived = True
        except Crash:
            lived = False
        disk.drop()
        seen = look(root)
        moment = f"stopped at change {after}, {disk.changes[-1] if disk.changes else None}"
        for name in ("checkpoint_000001", "checkpoint_000002"):
            assert seen.get(name) == before[name], f"{moment}: {name} is not what it was"
        assert between(before, seen, expected), f"{moment}: {sorted(seen)}"
        check_readable(root, seen, moment)
        try:
            scenario.operate(new_store(root))
        except scenario.again_fails:
            assert visible_steps(seen) == visible_steps(expected), moment
        assert visible_steps(look(root)) == visible_steps(expected), moment
        check_readable(root, look(root), moment)
        new_store(root).gc()
        assert visible_steps(look(root)) == visible_steps(expected), moment
        assert not list((root / ".staging").glob("*")), moment
        shutil.rmtree(root)
        if lived:
            return len(disk.changes), after + 1
    raise AssertionError("unreachable")


def check_readable(root: Path, seen: State, moment: str) -> None:
    """What lies there is what the store lists, and every byte of it verifies."""
    store = new_store(root)
    assert {f"checkpoint_{ckpt.step:06}" for ckpt in store.checkpoints()} == visible_steps(seen), moment
    assert all(report.ok for report in store.verify()), moment
    assert_same(store.get("tag:old1").load().policies, POLICIES)


@pytest.mark.parametrize("name", SCENARIOS)
def test_stopped_after_every_change(tmp_path: Path, figures: Figures, name: str) -> None:
    changes, states = loop(tmp_path, SCENARIOS[name])
    print(f"{name}: {changes} changes, {states} states")
    figures.add("changes after which a whole operation stopped", states)
    assert changes > 1


# -- mutants: rules broken on purpose, each of which the loop has to notice -----------------------------


class Later:
    """A sink that keeps a file's bytes for after the commit."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes | memoryview) -> None:
        self.data += bytes(data)

    def __enter__(self) -> Later:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def manifest_first(patch: pytest.MonkeyPatch) -> None:
    """The payload is written once the manifest is committed."""
    create, commit = DirectoryAttempt.create, DirectoryAttempt.commit
    held: dict[str, Later] = {}

    def create_later(self: DirectoryAttempt, path: str) -> Any:
        return create(self, path) if path.endswith("manifest.json") else held.setdefault(path, Later())

    def commit_first(self: DirectoryAttempt, manifest: bytes) -> Any:
        name = commit(self, manifest)
        for path, sink in held.items():
            with self._catalog.backend.write(f"{name}/{path}") as file:
                file.write(sink.data)
        held.clear()
        return name

    patch.setattr(DirectoryAttempt, "create", create_later)
    patch.setattr(DirectoryAttempt, "commit", commit_first)


def delete_before_unpublish(patch: pytest.MonkeyPatch) -> None:
    """A delete removes the files where they lie, the manifest last."""
    from ckptstore.commit.local.catalog import DirectoryCatalog

    def unpublish(self: DirectoryCatalog, root: Any, doomed: list[Any]) -> list[str]:
        disk = self.backend.disk
        for name in doomed:
            with disk.open_dir(root, str(name)) as directory:
                for entry in sorted(disk.entries(directory), key=lambda entry: entry.name == "_ckptstore"):
                    disk.remove_tree(directory, entry.name)
            disk.rmdir(root, str(name))
        return []

    patch.setattr(DirectoryCatalog, "unpublish", unpublish)


@pytest.mark.parametrize(
    ("mutant", "name"),
    [(manifest_first, "save"), (delete_before_unpublish, "delete"), (delete_before_unpublish, "prune")],
)
def test_the_loop_notices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutant: Callable[[pytest.MonkeyPatch], None],
    name: str,
) -> None:
    template(tmp_path / "before", SCENARIOS[name])  # the world itself is made by sound code
    monkeypatch.setattr(
        "tests.crash.test_store_crash.template", lambda root, _: shutil.copytree(tmp_path / "before", root)
    )
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        loop(tmp_path, SCENARIOS[name])
