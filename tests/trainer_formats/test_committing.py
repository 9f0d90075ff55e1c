"""What other trainers wrote, committed byte for byte, compared, exported and restored."""

from __future__ import annotations

import json
import shutil
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root
from ckptstore.errors import CheckpointExists, InvalidRequest, UnreadableFormat
from tests.stores import tree_bytes
from tests.trainer_formats.support import (
    DATA,
    KERAS,
    OTHERS,
    assert_weights,
    files,
    only_file,
    said,
    truth,
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(root, [str(each) for each in arguments], prog_name="ckptstore")


def show(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("name", OTHERS)
def test_add_commits_it_byte_for_byte(tmp_path: Path, name: str, place: str) -> None:
    store = CheckpointStore(tmp_path / "store" if place == "local" else f"memory://{uuid.uuid4().hex}")
    source = Checkpoint.open(DATA / name / "checkpoint")
    ckpt = store.add(source, step=7)
    assert (ckpt.step, ckpt.kind, ckpt.committed) == (7, "Directory", True)
    assert ckpt.manifest.origin == "stage"
    with ckpt.as_directory() as copy:
        copied = tree_bytes(copy)
        assert {path: copied[path] for path in files(name)} == files(name)
    for again in (store.get(7), Checkpoint.open(ckpt.url) if place == "local" else ckpt):
        assert_weights(name, again.weights())
        assert repr(again.load().state) == repr(source.load().state)
        assert (again.format, tuple(again.components)) == (source.format, tuple(source.components))
        assert again.verify().ok
    with pytest.raises(CheckpointExists):
        store.add(source, step=7)
    assert store.add(source, step=7, if_exists="replace").name == "checkpoint_000007-r1"


def test_add_takes_the_step_that_the_files_tell(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    for name in ("lightning_2.6.6", "huggingface_5.24.0", "sb3_ppo_2.9.2"):
        assert store.add(Checkpoint.open(DATA / name / "checkpoint")).step == said(name)["step"]
    with pytest.raises(InvalidRequest, match=r"its files don't tell its step.*step=N"):
        store.add(Checkpoint.open(only_file("cleanrl_2.13.0")))
    with pytest.raises(InvalidRequest, match="keeps its step"):
        CheckpointStore(tmp_path / "other").add(store.get(5), step=6)
    with pytest.raises(InvalidRequest):
        store.add(Checkpoint.open(only_file("cleanrl_2.13.0")), step=-1)
    assert [ckpt.step for ckpt in store.checkpoints()] == [5, 8, 32]


def test_a_file_alone_is_committed_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "secret.txt").write_text("1")
    path = tmp_path / "runs" / "agent.pt"
    path.write_bytes(only_file("cleanrl_2.13.0").read_bytes())
    store = CheckpointStore(tmp_path / "store")
    ckpt = store.add(Checkpoint.open(path), step=1)
    assert [file.path for file in ckpt.manifest.files] == ["agent.pt"]
    assert ckpt.state.keys() == truth("cleanrl_2.13.0").keys()
    other = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.copy_to(other)
    assert_weights("cleanrl_2.13.0", other.get(1).weights())


def test_what_was_staged_and_adopted_opens(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with store.stage(3) as path:
        shutil.copytree(DATA / "lightning_2.6.6" / "checkpoint", path, dirs_exist_ok=True)
    shutil.copytree(DATA / "sharded_5.24.0" / "checkpoint", tmp_path / "checkpoint_000004")
    store.adopt("checkpoint_000004")
    assert_weights("lightning_2.6.6", store.get(3).weights())
    assert_weights("sharded_5.24.0", store.get(4).weights())
    assert store.get(4).kind == "Directory"
    with store.stage(5) as path:
        Path(path, "notes.txt").write_text("x")
    assert store.get(5).format == ""
    with pytest.raises(UnreadableFormat, match="another program"):
        store.get(5).load()
    with pytest.raises(UnreadableFormat, match="another program"):
        store.get(5).weights()


@pytest.mark.parametrize("name", [*OTHERS, *KERAS])
def test_cp(tmp_path: Path, name: str) -> None:
    store = tmp_path / "store"
    content = files(name)
    source = only_file(name) if len(content) == 1 else DATA / name / "checkpoint"
    done = run("cp", source, store, "--step", 9)
    assert done.exit_code == 0, done.output
    copied = tree_bytes(store / "checkpoint_000009")
    assert {path: copied[path] for path in content} == content
    if name not in KERAS:
        assert_weights(name, CheckpointStore(store).get(9).weights())
    if "step" not in said(name):
        refused = run("cp", source, tmp_path / "other")
        assert refused.exit_code == (2 if name not in KERAS else refused.exit_code)
        assert "--step N" in refused.output or name in KERAS


def test_info(tmp_path: Path) -> None:
    document = show("info", only_file("lightning_2.6.6"))
    assert (document["kind"], document["version"], document["step"]) == ("Directory", "", 8)
    assert (document["format"], document["policies"]) == ("Lightning 2.6.6", [])
    assert [item["name"] for item in document["components"]] == ["net"]
    document = show("info", DATA / "huggingface_5.24.0" / "checkpoint")
    sizes = {item["name"]: item["bytes"] for item in document["components"]}
    assert sizes["optimizer"] == len(files("huggingface_5.24.0")["optimizer.pt"])
    assert document["format"] == "Hugging Face 5.24.0"
    run("cp", only_file("sb3_ppo_2.9.2"), tmp_path / "store")
    assert show("info", f"{tmp_path / 'store'}@32")["format"] == "Stable-Baselines3 2.9.2"
    text = run("info", f"{tmp_path / 'store'}@32").output
    assert "Directory\n" in text
    assert "Stable-Baselines3 2.9.2" in text
    broken = tmp_path / "x.ckpt"
    broken.write_bytes(only_file("lightning_2.6.6").read_bytes()[:-100])
    refused = run("info", broken)
    assert (refused.exit_code, "it is cut short" in refused.output, str(broken) in refused.output) == (
        5,
        True,
        True,
    )
    assert "Download or copy it again" in refused.output


def test_diff(tmp_path: Path) -> None:
    one = only_file("cleanrl_2.13.0")
    same = run("diff", one, one)
    assert (same.exit_code, same.output) == (0, "equal: the weights\n")
    assert run("diff", one, only_file("torch_tar_2.13.0")).exit_code == 0
    weights = {name: array.copy() for name, array in truth("cleanrl_2.13.0").items()}
    weights["0.bias"][2] += 1
    np.savez(tmp_path / "other.npz", **weights)  # type: ignore[arg-type]
    done = run("diff", one, tmp_path / "other.npz", "--json")
    assert done.exit_code == 1
    [array] = json.loads(done.output)["arrays"]
    assert (array["name"], array["largest"]) == ("0.bias", 1.0)
    np.savez(tmp_path / "none.npz", steps=np.arange(3))
    assert run("diff", one, tmp_path / "none.npz").exit_code == 6


def test_diff_with_a_policy_of_ours(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    weights = truth("cleanrl_2.13.0")
    store.save(1, {}, {"p": {"weights": weights}, "q": {"weights": {"a": np.ones(2)}}})
    store.get(1).export(tmp_path / "p.npz", "p")
    assert run("diff", f"{tmp_path / 'store'}@1", tmp_path / "p.npz", "--policy", "p").exit_code == 0
    assert run("diff", only_file("cleanrl_2.13.0"), f"{tmp_path / 'store'}@1", "--policy", "p").exit_code == 0
    assert run("diff", f"{tmp_path / 'store'}@1", tmp_path / "p.npz", "--policy", "q").exit_code == 1


@pytest.mark.parametrize("name", OTHERS)
def test_export(tmp_path: Path, name: str) -> None:
    source = only_file(name) if len(files(name)) == 1 else DATA / name / "checkpoint"
    weights = Checkpoint.open(source).weights()
    plain = not any(array.dtype.kind == "V" or "float8" in array.dtype.name for array in weights.values())
    for ending in ("npz", "safetensors"):
        dest = tmp_path / f"weights.{ending}"
        if ending == "safetensors" and any(array.dtype.kind == "c" for array in weights.values()):
            continue
        done = run("export", source, dest)
        if ending == "npz" and not plain:
            assert (done.exit_code, "Export to safetensors" in done.output) == (2, True)
            continue
        assert done.exit_code == 0, done.output
        again = Checkpoint.open(dest).weights()
        assert again.keys() == weights.keys()
        for key in weights:
            assert (again[key].dtype, again[key].tobytes()) == (weights[key].dtype, weights[key].tobytes())
    assert (
        Checkpoint.open(source).export(tmp_path / "p.json") if plain and "complex64" not in weights else True
    )


@pytest.mark.parametrize("ending", ["onnx", "pt"])
def test_a_network_is_not_exported(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("onnx" if ending == "onnx" else "torch")
    with pytest.raises(UnreadableFormat):
        Checkpoint.open(only_file("cleanrl_2.13.0")).export(tmp_path / f"x.{ending}")
    assert not list(tmp_path.iterdir())


def test_migrate_is_for_what_rllib_wrote(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFormat, match="RLlib"):
        Checkpoint.open(only_file("cleanrl_2.13.0")).migrate(tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "name", [name for name in OTHERS if not name.startswith(("sb3", "hugg"))]
)  # those hold code
def test_scan_sees_no_code(name: str) -> None:
    source = only_file(name) if len(files(name)) == 1 else DATA / name / "checkpoint"
    uses = Checkpoint.open(source).scan()
    assert [use for use in uses if use.rank in ("code", "unknown")] == []
    assert run("scan", source).exit_code == 0


def test_restore_arrays() -> None:
    ckpt = Checkpoint.open(only_file("lightning_2.6.6"))
    target = {
        name.removeprefix("net."): np.zeros_like(array) for name, array in truth("lightning_2.6.6").items()
    }
    made = ckpt.restore({"net": target, "epoch": 0})
    assert made["epoch"] == ckpt.state["epoch"]
    np.testing.assert_equal(made["net"], {name: truth("lightning_2.6.6")[f"net.{name}"] for name in target})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path) -> None:
    """One byte of a storage: its CRC tells."""
    with zipfile.ZipFile(path) as archive:
        last = max(
            (info for info in archive.infolist() if "/data/" in info.filename), key=lambda i: i.file_size
        )
    data = bytearray(path.read_bytes())
    head = data[last.header_offset : last.header_offset + 30]
    data[last.header_offset + 30 + sum(int.from_bytes(head[at : at + 2], "little") for at in (26, 28))] ^= 1
    path.write_bytes(data)


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def point(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        ("huggingface_5.24.0", "model.safetensors", cut),
        ("huggingface_5.24.0", "model.safetensors", cut_header),
        ("huggingface_5.24.0", "model.safetensors", empty),
        ("huggingface_5.24.0", "optimizer.pt", cut),
        ("huggingface_5.24.0", "optimizer.pt", change),
        ("huggingface_5.24.0", "training_args.bin", point),
        ("sharded_5.24.0", "model-00002-of-00006.safetensors", Path.unlink),
        ("sharded_5.24.0", "model-00003-of-00006.safetensors", cut),
    ],
)
def test_damage_is_found_before_a_digest_calls_it_whole(
    tmp_path: Path, name: str, file: str, damage: Callable[[Path], None]
) -> None:
    directory = tmp_path / "there"
    shutil.copytree(DATA / name / "checkpoint", directory)
    assert run("verify", directory).exit_code == 0
    damage(directory / file)
    done = run("verify", directory)
    assert (done.exit_code, file in done.output) == (5, True), done.output
    done = run("cp", directory, tmp_path / "store", "--step", "1")
    assert (done.exit_code, file in done.output) == (5, True), done.output
    assert not (tmp_path / "store" / "checkpoint_000001").exists()
