"""Everything that can be asked of a store, tried on one that somebody or something has damaged.

Each call gives the right answer or a typed error that names something; nothing outside is read or touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointCorrupt, CheckpointError
from ckptstore.retention import BestN, LatestDuration, LatestN
from tests.figures import Figures
from tests.stores import assert_same, policies, tree_bytes

STEPS = (1, 2, 3)
NEWEST = "checkpoint_000003"
META = "_ckptstore"


def content(step: int) -> dict[str, Any]:
    """The state at `step`; its array is large enough to be a part of its own."""
    return {"step": step, "w": np.arange(9000, dtype=np.float32) + step, "text": "x" * step}


def save(store: CheckpointStore, step: int, **options: Any) -> Checkpoint:
    """A checkpoint with a policy, a component, a metric and a label."""
    return store.save(
        step,
        content(step),
        policies(1, seed=step, rows=6),
        {"buffer": {"step": step}},
        metrics={"reward": step},
        labels=["eval"],
        **options,
    )


def typed(call: Callable[[], Any], where: str) -> tuple[Any, CheckpointError | None]:
    """What the call gives, or the typed error it ends in; anything else it raises goes through."""
    try:
        return call(), None
    except CheckpointError as ended:
        error = ended
    assert error.what, where
    assert len(str(error)) < 10_000, where
    return None, error


class Trial:
    """Copies of one whole store, to be broken and then tried."""

    def __init__(self, pristine: Path, place: Path, figures: Figures) -> None:
        self.truth = {name: tree_bytes(pristine / name) for name in map("checkpoint_{:06}".format, STEPS)}
        self.outside = place / "outside"
        self._pristine = pristine
        self._scratch = place / "scratch"
        self._root = place / "store"
        self._figures = figures

    def fresh(self) -> Path:
        """A writable copy, as somebody who may write there would have it; nothing outside."""
        for path in (self._root, self.outside, self._scratch):
            if os.path.lexists(path):
                remove(path)
        for path in (self.outside, self._scratch):
            path.mkdir()
        shutil.copytree(self._pristine, self._root)
        for path in [self._root, *self._root.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
        self._figures.add("trees damaged", 1, "hostile trees")
        return self._root

    # -- looking ------------------------------------------------------------------------------------

    def looks(self, root: Path, trusting: bool = True) -> set[tuple[int, str]]:
        """Find and read all there is: which (step, reading) gave an answer.

        Unless the damage may have changed what is true (then not `trusting`), answers must be what was saved.
        """
        store = CheckpointStore(root, create=False)
        found: dict[str, Checkpoint] = {}
        for name, find in self._lookups(store).items():
            got, _ = self._tried(find, name)
            for checkpoint in got or []:
                found.setdefault(checkpoint.url, checkpoint)
        answers: set[tuple[int, str]] = set()
        for checkpoint in found.values():
            answers |= self.reads(checkpoint, trusting)
        if trusting:
            self._check_verdicts(root, store)
        self._commands(root)
        return answers

    def _lookups(self, store: CheckpointStore) -> dict[str, Callable[[], list[Checkpoint]]]:
        def one(call: Callable[[], Checkpoint | None]) -> list[Checkpoint]:
            checkpoint = call()
            return [checkpoint] if checkpoint else []

        return {
            "checkpoints": store.checkpoints,
            "latest": lambda: one(store.latest),
            "latest verified": lambda: one(lambda: store.latest(verified=True)),
            "best": lambda: one(lambda: store.best("reward")),
            **{f"get {step}": partial(one, partial(store.get, step)) for step in STEPS},
            "by tag": lambda: one(lambda: store.get("tag:champion")),
        }

    def reads(self, checkpoint: Checkpoint, trusting: bool = True) -> set[tuple[int, str]]:
        """Everything that can be read of one checkpoint; which readings gave an answer."""
        answers = set()
        for name, read in self._readings(checkpoint).items():
            value, error = self._tried(read, name)
            if error is None:
                answers.add((checkpoint.step, name))
                if trusting and checkpoint.committed:
                    assert_true(checkpoint.step, name, value)
        return answers

    def _readings(self, checkpoint: Checkpoint) -> dict[str, Callable[[], Any]]:
        def directory() -> dict[str, bytes]:
            with checkpoint.as_directory() as path:
                return tree_bytes(path)

        return {
            "load": checkpoint.load,
            "mmap": lambda: checkpoint.load(mmap=True),
            "components": lambda: {name: checkpoint.components[name] for name in checkpoint.components},
            "weights": lambda: {name: checkpoint.weights(name) for name in checkpoint.policy_ids},
            "check": checkpoint.check,
            "verify": checkpoint.verify,
            "scan": checkpoint.scan,
            "directory": directory,
            "repr": lambda: (repr(checkpoint), checkpoint.kind, checkpoint.version, checkpoint.notes),
        }

    def _check_verdicts(self, root: Path, store: CheckpointStore) -> None:
        """Whatever `verify` calls well holds, byte for byte, what was committed under that name."""
        reports, _ = self._tried(store.verify, "verify the store")
        for report in reports or []:
            name = report.name.rpartition("/")[2]
            if report.ok and not report.notes:  # such as that it isn't finished
                truth = self.truth[name.partition("-r")[0]]
                found = tree_bytes(root / name, truth)
                lacking = truth.keys() - found.keys()
                assert lacking <= {".is_checkpoint", ".tune_metadata"}, f"{name} is said whole"
                assert found == {path: truth[path] for path in found}, f"{name} is said whole"

    def _commands(self, root: Path) -> None:
        """The command line ends in one of the documented ways, and says why in one line."""
        for arguments in (("ls",), ("verify",), ("latest",), ("tag",), ("tree",)):
            self.command(*arguments, str(root))
        self.command("info", f"{root / NEWEST}")

    def command(self, *arguments: str) -> int:
        """The exit code of a command; 1 would be an error that nobody foresaw."""
        ended = CliRunner().invoke(cli, [*arguments, "--json"])
        assert ended.exit_code in {0, 2, 3, 4, 5, 6, 7, 8, 9, 10}, (arguments, ended.output, ended.exception)
        if ended.exit_code not in (0, 5):
            assert ended.stderr.splitlines()[-1].startswith("ckptstore: "), arguments
        self._figures.add("hostile reads: commands", 1)
        return ended.exit_code

    # -- changing -----------------------------------------------------------------------------------

    def changes(self, root: Path) -> None:
        """Everything that writes, in an order in which each still finds something to do."""
        store = CheckpointStore(root, create=False)
        calls: dict[str, Callable[[], Any]] = {
            "copy": lambda: store.copy_to(CheckpointStore(self._scratch / "copy")),
            "migrate": lambda: Checkpoint.open(root / NEWEST).migrate(self._scratch / "migrated"),
            "adopt": lambda: store.adopt(NEWEST),
            "dry prune": lambda: store.prune(LatestN(1) | BestN("reward", 1), dry_run=True),
            "tag": lambda: store.tag("other", 2),
            "save": lambda: save(store, 9),
            "replace": lambda: save(store, 2, if_exists="replace"),
            "stage": lambda: self._stage(store),
            "gc": lambda: store.gc(grace=0),
            "prune": lambda: store.prune(LatestN(2) | LatestDuration(timedelta(hours=1))),
            "rollback": lambda: store.rollback(2),
            **{f"delete {step}": partial(store.delete, step) for step in STEPS},
            "gc again": lambda: store.gc(grace=0),
        }
        for name, call in calls.items():
            value, error = self._tried(call, name, "changes")
            if name in ("save", "replace") and error is None:
                assert value.verify().ok
                assert_same(value.state, content(value.step))

    def _stage(self, store: CheckpointStore) -> None:
        with store.stage(11) as path:
            Path(path, "file").write_bytes(b"x")

    def _tried(
        self, call: Callable[[], Any], name: str, what: str = "reads"
    ) -> tuple[Any, CheckpointError | None]:
        value, error = typed(call, name)
        self._figures.add(f"hostile {what}", 1, "reads checked" if what == "reads" else None)
        self._figures.add(f"    {what} refused with a typed error", int(error is not None))
        return value, error

    def refuses(self, call: Callable[[], Any], path: Path) -> None:
        """The call must end in CheckpointCorrupt that names `path`."""
        value, error = self._tried(call, str(path))
        assert isinstance(error, CheckpointCorrupt), (path, error or value)
        assert str(path) in str(error), error


def assert_true(step: int, reading: str, value: Any) -> None:
    """The answer of a reading is what `save` was given at that step."""
    if reading in ("load", "mmap"):
        assert_same(value.state, content(step))
        assert_same(value.policies, policies(1, seed=step, rows=6))
    elif reading == "components":
        assert_same(value, {"buffer": {"step": step}})


def remove(path: Path) -> None:
    """Whatever it is, however deep, without following a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
