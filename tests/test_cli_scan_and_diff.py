"""The commands scan and diff, and what info, tree and verify say of RLlib's checkpoints of every version."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.commands import diff, scan
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats.content import LIMITS
from tests.rllib_formats import corpus
from tests.servers import Server
from tests.stores import policies
from tests.test_cli import ckptstore, complaint, document

DATA = Path(__file__).parent / "data"
TEXT = Path(__file__).parent.parent.joinpath("docs/cli.md").read_text(encoding="utf-8")
MULTI = DATA / "rllib_1_0_ppo_multi5" / "checkpoint"
ROOTS = [root for case in corpus.cases(DATA) for root in corpus.roots(case)]


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


def fields(value: Any) -> set[str]:
    """Every key of a JSON document."""
    if isinstance(value, dict):
        return set(value) | set().union(*map(fields, value.values()))
    return set().union(*map(fields, value)) if isinstance(value, list) else set()


def assert_documented(found: Any) -> None:
    assert {key for key in fields(found) if f"`{key}`" not in TEXT} == set()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MULTI, tmp_path / "checkpoint_000002"))


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: f"{root.parent.parent.name}/{root.name}")
def test_every_version_is_described(root: Path) -> None:
    expected = json.loads((root.parent / "expected.json").read_text()) if root.name == "checkpoint" else {}
    found = document("info", str(root))
    assert found["unreadable"] is None
    assert found["ray_version"] in f"{root} 2.1.0"  # the one without a version in its name
    assert found["committed"] is False
    assert all(item["bytes"] > 0 for item in [*found["per_policy"], *found["components"]])
    if found["kind"] == "Algorithm":
        assert found["iteration"] == expected["iteration"]
        assert found["counters"]
    printed = ckptstore("info", str(root)).stdout
    assert f"ray         {found['ray_version']}" in printed
    assert "no digests to compare" in ckptstore("verify", str(root)).stdout
    assert document("verify", str(root))["ok"]
    policy_id = found["policies"][0]
    drawn = ckptstore("tree", str(root), "--policy", policy_id).stdout
    assert f"arrays of {policy_id}" in drawn
    scanned = document("scan", str(root))
    assert scanned["worst"] in ("library", "code")
    assert not any("not decodable" in use["name"] for use in uses(scanned))


def test_info_tells_damage_of_the_state_and_goes_on(copy: Path) -> None:
    (copy / "rllib_checkpoint.json").write_text(
        json.dumps({"type": "Algorithm", "checkpoint_version": "1.1", "policy_ids": ["pol0"]})
    )
    (copy / "algorithm_state.pkl").write_bytes(b"\x80\x05broken")
    found = document("info", str(copy))
    assert "algorithm_state.pkl" in found["unreadable"]
    assert found["iteration"] is None
    assert "UNREADABLE" in ckptstore("info", str(copy)).stdout


def uses(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [use for item in found["checkpoints"] for file in item["files"] for use in file["uses"]]


class TestScan:
    def test_files_and_ranks(self) -> None:
        found = document("scan", str(MULTI))
        (item,) = found["checkpoints"]
        assert found["worst"] == item["worst"] == "code"
        assert {file["path"] for file in item["files"]} == {
            "algorithm_state.pkl",
            ".tune_metadata",
            *(f"policies/pol{index}/policy_state.pkl" for index in range(5)),
        } & set(corpus.listing(MULTI))
        ranks = [use["rank"] for use in item["files"][0]["uses"]]
        assert ranks == sorted(ranks, key=["code", "library", "data"].index)
        printed = ckptstore("scan", str(MULTI)).stdout
        assert "may run any code" in printed.splitlines()[0]
        assert "and 6 more" in printed

    def test_it_runs_nothing_and_says_what_would(self, copy: Path) -> None:
        marker = copy.parent / "ran"
        attack = pickle.dumps(Attack()).replace(b"1 + 1", b"1 + 2")
        (copy / "policies/pol1/policy_state.pkl").write_bytes(attack)
        found = document("scan", str(copy))
        assert ("builtins.eval", "code", 1) in [
            (use["name"], use["rank"], use["calls"]) for use in uses(found)
        ]
        assert not marker.exists()

    def test_strict(self, tmp_path: Path) -> None:
        assert scan.REFUSED == UnsafeContent.exit_code == 6
        store = CheckpointStore(tmp_path / "plain")
        store.save(1, {"iteration": 1, "text": "a"}, policies())
        assert document("scan", f"{tmp_path}/plain@1", "--strict")["worst"] == "data"
        store.save(2, {"attack": Attack()}, policies())
        assert document("scan", f"{tmp_path}/plain@2", "--strict", exits=6)["worst"] == "code"
        assert [item["worst"] for item in document("scan", f"{tmp_path}/plain")["checkpoints"]] == [
            "data",
            "code",
        ]
        ckptstore("scan", str(MULTI), "--strict", exits=6)
        ckptstore("scan", str(MULTI))

    @pytest.mark.parametrize("how", ["another size", "no manifest", "a stray"])
    def test_what_is_passed_over_is_scanned_all_the_same(self, tmp_path: Path, how: str) -> None:
        root = tmp_path / "run"
        store = CheckpointStore(root)
        for step in (1, 2):
            store.save(step, {"iteration": step})
        file = root / "checkpoint_000002" / ("stray.pkl" if how == "a stray" else "algorithm_state.pkl")
        file.unlink(missing_ok=True)
        file.write_bytes(pickle.dumps(Attack()))
        if how == "no manifest":
            (root / "checkpoint_000002/_ckptstore/manifest.json").unlink()
        targets = [root] if how == "no manifest" else [root, f"{root}@2"]
        for target in [*targets, root / "checkpoint_000002", f"{root}/**"]:
            assert ckptstore("scan", str(target), "--strict", exits=6).exit_code == 6

    def test_nothing_to_import(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path / "store").save(1, {"iteration": 1})
        assert document("scan", f"{tmp_path}/store@1")["worst"] is None
        assert "would import nothing" in ckptstore("scan", f"{tmp_path}/store@1", "--strict").stdout
        empty = CheckpointStore(tmp_path / "empty")
        empty.delete(empty.save(1))
        assert "holds no checkpoint" in ckptstore("scan", f"{tmp_path}/empty").stdout

    def test_what_is_no_checkpoint_or_too_damaged_is_scanned_all_the_same(self, copy: Path) -> None:
        (copy / "rllib_checkpoint.json").write_text("{")
        assert document("scan", str(copy))["worst"] == "code"
        for path in copy.glob("*.*"):
            path.unlink()
        assert document("scan", str(copy))["worst"] == "code"
        (copy.parent / "loose").mkdir()
        (copy.parent / "loose/model.pt").write_bytes(pickle.dumps(Attack()))
        assert document("scan", str(copy.parent / "loose"))["worst"] == "code"
        complaint("scan", str(copy.parent / "absent"), exits=3)

    def test_no_name_hides_anything_and_what_is_not_looked_into_is_refused(self, tmp_path: Path) -> None:
        for number, name in enumerate(
            ("last.ckpt", "pytorch_model.bin", "x.joblib", "model.tar", ".metadata")
        ):
            loose = tmp_path / str(number)
            loose.mkdir()
            (loose / name).write_bytes(pickle.dumps(Attack()))
            assert document("scan", str(loose), "--strict", exits=6)["worst"] == "code"
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd/model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
        assert document("scan", str(tmp_path / "odd"))["worst"] == "unknown"
        assert_documented(document("scan", str(tmp_path / "odd"), "--strict", exits=6))
        assert "HDF5" in ckptstore("scan", str(tmp_path / "odd")).stdout

    @pytest.mark.parametrize("name", ["last.ckpt", "x@latest", "checkpoint_000001", "a.csv"])
    def test_a_file_by_itself(self, tmp_path: Path, name: str) -> None:
        data = pickle.dumps(Attack())
        (tmp_path / name).write_bytes(base64.b64encode(data) if name == "a.csv" else data)
        for target in (tmp_path / name, f"file://{tmp_path}/{name}"):
            found = document("scan", str(target), "--strict", exits=6)
            assert found["worst"] == "code"
            assert found["checkpoints"][0]["name"] == name
        (tmp_path / name).write_bytes(b"text")
        assert "would import nothing" in ckptstore("scan", f"{tmp_path}/{name}", "--strict").stdout

    def test_a_file_over_the_limit_is_said(self, tmp_path: Path) -> None:
        with open(tmp_path / "x", "wb") as file:
            file.truncate(LIMITS.file_bytes + 1)  # takes no space
        assert document("scan", f"{tmp_path}/x", "--strict", exits=6)["worst"] == "unknown"

    def test_directories_that_are_no_checkpoint(self, tmp_path: Path) -> None:
        """As Hugging Face, Lightning, stable-baselines3 and torch's distributed checkpoints leave them."""
        for path in ("hf/model-00001-of-00002.bin", "pl/checkpoints/last.ckpt", "sb3/best_model.zip",
                     "dcp/.metadata", "checkpoint-500/optimizer.pt", "checkpoint_500/rng_state.pth",
                     "checkpoint_000500/scheduler.pt", "a/b/c/x.joblib"):  # fmt: skip
            file = tmp_path / path
            file.parent.mkdir(parents=True)
            file.write_bytes(pickle.dumps(Attack()))
            target = tmp_path / path.split("/")[0]
            assert document("scan", str(target), "--strict", exits=6)["worst"] == "code"
            assert document("scan", f"{target}/", "--strict", exits=6)["worst"] == "code"

    def test_what_lies_beside_checkpoints_is_scanned_too(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path).save(1, {"iteration": 1})
        assert [item["name"] for item in document("scan", str(tmp_path))["checkpoints"]] == [
            "checkpoint_000001"
        ]
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "best.pt").write_bytes(pickle.dumps(Attack()))
        found = document("scan", str(tmp_path), "--strict", exits=6)["checkpoints"]
        assert [(item["name"], item["worst"]) for item in found] == [
            ("checkpoint_000001", None),
            (".", "code"),
        ]

    def test_documented(self) -> None:
        assert_documented(document("scan", str(MULTI)))


class TestDiff:
    def test_equal(self, copy: Path) -> None:
        found = document("diff", str(MULTI), str(copy))
        assert found == {
            "equal": True,
            "before": Checkpoint.open(MULTI).url,
            "after": Checkpoint.open(copy).url,
            "compared": [f"pol{index}" for index in range(5)],
            "only_before": [],
            "only_after": [],
            "arrays": [],
            "config": [],
        }
        assert ckptstore("diff", str(MULTI), str(copy)).stdout == "equal: 5 policies and the config\n"

    def test_arrays(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path / "store")
        one = {"w": np.zeros(4, np.float32), "same": np.ones(3), "odd": np.ones(2)}
        two = {"w": np.array([3, 0, 4, 0], np.float32), "same": np.ones(3), "odd": np.ones((2, 1))}
        store.save(1, {}, {"a": {"weights": one}, "gone": {"weights": one}})
        store.save(2, {}, {"a": {"weights": two}, "new": {"weights": one}})
        left, right = f"{tmp_path}/store@1", f"{tmp_path}/store@2"
        found = document("diff", left, right, exits=diff.DIFFERENT)
        assert (found["only_before"], found["only_after"], found["compared"]) == (["gone"], ["new"], ["a"])
        odd, w = found["arrays"]
        assert w == {
            "policy_id": "a",
            "name": "w",
            "before": "float32 (4,)",
            "after": "float32 (4,)",
            "l2": 5.0,
            "largest": 4.0,
        }
        assert (odd["before"], odd["after"], odd["l2"]) == ("float64 (2,)", "float64 (2, 1)", None)
        assert found["config"] is None
        assert_documented(found)
        printed = ckptstore("diff", left, right, exits=1).stdout
        assert "only in before: gone" not in printed
        assert "gone" in printed
        assert document("diff", left, left, "--policy", "gone")["compared"] == ["gone"]
        assert document("diff", left, right, "--policy", "new", exits=1)["only_after"] == ["new"]
        assert "holds a policy 'x'" in complaint("diff", left, right, "--policy", "x", exits=3)

    def test_configs(self, copy: Path) -> None:
        state = copy / "algorithm_state.pkl"
        value = pickle.dumps({"worker": {"policy_ids": []}, "config": {"lr": 0.5, "new": [1] * 99}})
        state.write_bytes(value)
        found = document("diff", str(MULTI), str(copy), exits=1)
        assert found["arrays"] == []
        keys = {item["key"]: (item["before"], item["after"]) for item in found["config"]}
        assert keys["lr"][1] == 0.5
        assert keys["new"][0] == "(missing)"
        assert len(keys["new"][1]) == 60
        assert "config" in ckptstore("diff", str(MULTI), str(copy), exits=1).stdout
        # A policy is compared without the state being read.
        state.write_bytes(b"broken")
        assert document("diff", str(MULTI), str(copy), "--policy", "pol1")["equal"]

    def test_one_policy_saved_by_itself(self) -> None:
        alone = MULTI / "policies" / "pol3"
        assert document("diff", str(alone), str(MULTI), "--policy", "pol3")["compared"] == ["pol3"]
        assert document("diff", str(MULTI), str(alone), "--policy", "pol3")["equal"]
        assert document("diff", str(alone), str(MULTI), "--policy", "pol4", exits=1)["arrays"]
        assert document("diff", str(alone), str(alone))["compared"] == ["default_policy"]

    def test_across_releases_and_a_store(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path / "store")
        with store.stage(2) as path:
            shutil.copytree(MULTI, path, dirs_exist_ok=True)
        assert document("diff", f"{tmp_path}/store@2", str(MULTI))["equal"]
        old, new = DATA / "v0_1/ray_2.0.1_ppo_filter/checkpoint", DATA / "v2_1/ray_2.60.0_dqn/checkpoint"
        found = document("diff", str(old), str(new), exits=1)
        assert found["arrays"]
        assert {item["key"] for item in found["config"]} >= {"lr", "_is_online"}

    def test_nothing_to_compare(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path / "store").save(1, {"iteration": 1})
        assert "nothing to compare" in complaint(
            "diff", f"{tmp_path}/store@1", f"{tmp_path}/store@1", exits=6
        )
        complaint("diff", f"{tmp_path}/store", f"{tmp_path}/store@1", exits=2)


def test_in_a_bucket(moto: Server) -> None:
    url = moto.new_url()
    bucket, _, prefix = url.partition("://")[2].partition("/")
    for path in MULTI.rglob("*"):
        if path.is_file():
            key = f"{prefix}/old/{path.relative_to(MULTI).as_posix()}"
            moto.client().put_object(Bucket=bucket, Key=key, Body=path.read_bytes() or b"-")
    options = [f"--storage-option={name}={moto.options[name]}" for name in ("endpoint_url", "key", "secret")]
    options.append("--storage-option=client_kwargs.region_name=us-east-1")
    assert document("scan", f"{url}/old", *options)["worst"] == "code"
    assert document("diff", f"{url}/old", str(MULTI), "--policy", "pol2", *options)["equal"]
    assert document("info", f"{url}/old", *options)["ray_version"] == "2.1.0"
    assert document("verify", f"{url}/old", *options)["ok"]
    store = CheckpointStore(url, storage_options=moto.options)
    store.save(1, {"iteration": 1}, policies())
    assert document("diff", f"{url}@1", f"{url}@1", *options)["compared"] == ["pol0", "pol1", "pol2"]
    assert document("scan", f"{url}@1", "--strict", *options)["worst"] == "data"
    moto.client().put_object(Bucket=bucket, Key=f"{prefix}/x.pt", Body=pickle.dumps(Attack()))
    assert document("scan", f"{url}/x.pt", "--strict", *options, exits=6)["worst"] == "code"


def test_what_is_dead_in_a_bucket_is_not_listed(moto: Server) -> None:
    """Tombstones and seals hold the directory's name; nothing in it could be unpickled."""
    url = moto.new_url()
    options = [f"--storage-option={name}={moto.options[name]}" for name in ("endpoint_url", "key", "secret")]
    options.append("--storage-option=client_kwargs.region_name=us-east-1")
    store = CheckpointStore(url, storage_options=moto.options)
    for step in (1, 2, 3):
        store.save(step, {"iteration": step})
    store.save(3, {"iteration": 3}, if_exists="replace")
    store.delete(1)
    bucket, _, prefix = url.partition("://")[2].partition("/")
    claim = f"{prefix}/checkpoint_000009/_ckptstore/claim.json"
    moto.client().put_object(Bucket=bucket, Key=claim, Body=b"{}")  # of a save that died right away
    found = document("scan", url, *options)["checkpoints"]
    assert [item["name"] for item in found] == ["checkpoint_000002", "checkpoint_000003-r1"]
    for step in (2, 3):
        store.delete(step)
    assert "holds no checkpoint" in ckptstore("scan", url, *options).stdout


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_scan_of_an_archive_whose_data_are_damaged(tmp_path: Path, method: int) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", method) as made:
        made.writestr("policy.bin", bytes(range(256)) * 20)
    data = bytearray(path.read_bytes())
    data[50:80] = b"\xff" * 30
    path.write_bytes(data)
    done = ckptstore("scan", str(path), "--strict", exits=6)
    assert "not a whole zip archive" in done.output
