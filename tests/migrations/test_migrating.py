"""`migrate`: what the new checkpoint holds, what stays as it was, what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root as command_line
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointExists, InvalidRequest, UnreadableFormat
from tests.migrations import forward
from tests.rllib_formats.corpus import cases, listing, roots

DATA = Path(__file__).parents[1] / "data"
GOLDEN = [root for case in cases(DATA) for root in roots(case)]
HYBRID = DATA / "v1_2/ray_2.8.0_hybrid/checkpoint"
SINGLE = DATA / "v0_1/ray_1.13.0_multi/checkpoint"


def content(root: Path) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in listing(root)}


@pytest.mark.parametrize("root", GOLDEN, ids=lambda root: root.relative_to(DATA).as_posix())
def test_what_arrives_is_what_was_there(root: Path, tmp_path: Path) -> None:
    before = content(root)
    _, wrong, _ = forward.check(root, str(tmp_path / "store"))
    assert wrong == []
    assert content(root) == before


class Bare(pickle.Unpickler):
    """Imports what any Python with numpy has, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        assert module.partition(".")[0] in {"collections", "numpy", "builtins", "_codecs"}, f"{module}.{name}"
        return super().find_class(module, name)


def test_pickles_name_no_class_of_anybody(tmp_path: Path) -> None:
    # In small what `test_other_pythons` does with other interpreters.
    store = CheckpointStore(tmp_path / "store")
    for step, root in enumerate(GOLDEN):
        store.migrate(root, step=step)
    files = [path for path in (tmp_path / "store").rglob("*") if path.suffix == ".pkl"]
    assert len(files) > len(GOLDEN)
    for path in files:
        with open(path, "rb") as file:
            assert isinstance(Bare(file).load(), dict), path


def test_the_new_one_remembers_where_it_came_from(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    done = store.migrate(HYBRID)
    assert done.checkpoint is not None
    manifest = store.get(3).manifest
    assert manifest.parent is not None
    assert (manifest.parent.relation, manifest.origin) == ("migrate", "migrate")
    copy = Path(shutil.copytree(HYBRID, tmp_path / "copy"))
    again = CheckpointStore(tmp_path / "other").migrate(copy).checkpoint
    assert again is not None
    assert again.manifest.parent == manifest.parent  # a copy is the same source
    (copy / "algorithm_state.pkl").unlink()
    onward = done.checkpoint.migrate(tmp_path / "third").checkpoint
    assert onward is not None
    assert onward.manifest.parent is not None
    assert onward.manifest.parent.id == done.checkpoint.id
    with pytest.raises(CheckpointExists):
        store.migrate(HYBRID)
    assert store.migrate(HYBRID, step=4).checkpoint is not None
    assert [item.step for item in store.checkpoints()] == [3, 4]


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    dry = Checkpoint.open(HYBRID).migrate(store, dry_run=True)
    assert dry.checkpoint is None
    assert store.checkpoints() == []
    Checkpoint.open(HYBRID).migrate(tmp_path / "nowhere", dry_run=True)
    assert not (tmp_path / "nowhere").exists()
    wet = store.migrate(HYBRID)
    assert (dry.policies, dry.algorithm, dry.notes) == (wet.policies, wet.algorithm, wet.notes)
    assert "weights" in dry.policies["hare"].carried


def rename_layers(model: dict[str, Any]) -> dict[str, Any]:
    """Layers of our own network got shorter names."""
    for policy in model["policies"].values():
        policy["weights"] = {
            name.replace("_hidden_layers.", "hidden."): value for name, value in policy["weights"].items()
        }
    model["state"]["extra"]["curriculum"] = {"stage": 2}
    return model


def test_a_step_of_ones_own(tmp_path: Path) -> None:
    before = Checkpoint.open(SINGLE)
    done = before.migrate(tmp_path / "store", steps=[rename_layers])
    assert done.checkpoint is not None
    after = Checkpoint.open(done.checkpoint.url)
    for policy_id in before.policy_ids:
        old, new = before.weights(policy_id), after.weights(policy_id)
        assert [name.replace("_hidden_layers.", "hidden.") for name in old] == list(new)
        assert old.keys() != new.keys()
        for one, two in zip(old.values(), new.values(), strict=True):
            np.testing.assert_array_equal(one, two)
    assert after.state["extra"]["curriculum"] == {"stage": 2}
    assert "step: rename_layers: Layers of our own network got shorter names." in done.notes
    # What the step changed, a plain pickle holds.
    path = Path(done.checkpoint.url.removeprefix("file://")) / "policies/cat/policy_state.pkl"
    assert any(name.startswith("hidden.") for name in pickle.loads(path.read_bytes())["weights"])


class Thing:
    pass


def broken(model: dict[str, Any], what: str) -> dict[str, Any] | None:
    if what == "nothing":
        return None
    if what == "object":
        model["state"]["extra"]["mine"] = Thing()
    elif what == "half":
        del model["components"]
    else:
        del model["policies"]["cat"]["weights"]
    return model


@pytest.mark.parametrize("what", ["nothing", "object", "half", "weights"])
def test_a_step_that_breaks_the_model_is_refused(tmp_path: Path, what: str) -> None:
    store = CheckpointStore(tmp_path / "store")

    def mine(model: dict[str, Any]) -> Any:
        return broken(model, what)

    with pytest.raises(InvalidRequest) as caught:
        store.migrate(SINGLE, steps=[mine])
    assert ("extra/mine" if what == "object" else "step mine") in str(caught.value)
    assert store.checkpoints() == []


def test_a_step_may_leave_a_record(tmp_path: Path) -> None:
    def mine(model: dict[str, Any]) -> dict[str, Any]:
        model["state"]["extra"]["mine"] = Opaque("mine.Thing", (1,))
        return model

    made = Checkpoint.open(SINGLE).migrate(tmp_path / "store", steps=[mine]).checkpoint
    assert made is not None
    assert made.state["extra"]["ckptstore"]["aside"]["extra/mine"] == {
        "__opaque__": "mine.Thing",
        "args": (1,),
    }


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"1\.1, 2\.1"):
        Checkpoint.open(SINGLE).migrate(tmp_path / "store", to="1.0")  # type: ignore[arg-type]
    with CheckpointStore(tmp_path / "own") as own:
        own.save(1, {"a": 1})
        with pytest.raises(UnreadableFormat):
            own.get(1).migrate(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_without_a_step_it_is_zero_and_said_so(tmp_path: Path) -> None:
    done = CheckpointStore(tmp_path / "store").migrate(DATA / "v1_0/ray_2.1.0_policy/checkpoint")
    assert done.checkpoint is not None
    assert (done.checkpoint.step, done.checkpoint.kind) == (0, "Policy")
    assert any("step" in note for note in done.notes)


def ckptstore(*arguments: str, exits: int = 0) -> Result:
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == exits, (result.output, result.exception)
    return result


def test_on_the_command_line(tmp_path: Path) -> None:
    store = tmp_path / "store"
    dry = json.loads(ckptstore("migrate", str(SINGLE), str(store), "--dry-run", "--json").stdout)
    assert (dry["dry_run"], dry["checkpoint"], store.exists()) == (True, None, False)
    assert dry["policies"].keys() == {"cat", "dog"}
    shown = ckptstore("migrate", str(SINGLE), str(store)).stdout
    assert "cat" in shown
    assert shown.rstrip().endswith("store/checkpoint_000003, version 1.1")
    made = CheckpointStore(store, create=False).get(3)
    assert made.policy_ids == ("cat", "dog")
    taken = ckptstore("migrate", str(SINGLE), str(store), exits=4)
    assert "checkpoint_000003" in taken.stderr
    wet = json.loads(ckptstore("migrate", str(SINGLE), str(store), "--step", "9", "--json").stdout)
    assert (wet["step"], wet["dry_run"], wet["to"]) == (9, False, "1.1")
    assert wet["policies"] == dry["policies"]
    assert {
        item["name"] for item in json.loads(ckptstore("ls", str(store), "--json").stdout)["checkpoints"]
    } == {
        "checkpoint_000003",
        "checkpoint_000009",
    }
    ckptstore("migrate", str(tmp_path / "none"), str(store), exits=3)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    ckptstore("migrate", str(SINGLE), str(full), exits=2)
    assert [path.name for path in full.iterdir()] == ["letter.txt"]
