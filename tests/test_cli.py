"""The command line, called in this process: what each command prints, and how it ends."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ckptstore import Checkpoint, CheckpointStore, errors
from ckptstore.cli import commands, text
from ckptstore.cli.app import root
from ckptstore.cli.commands import verify
from ckptstore.printable import clean
from ckptstore.version import __version__
from tests.servers import Server
from tests.stores import unlinked

KINDS: list[type[errors.CheckpointError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.CheckpointError)
]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(here: Path) -> Iterator[CheckpointStore]:
    with CheckpointStore("store") as made:
        for step in (10, 20, 30):
            made.save(
                step,
                {"iteration": step},
                {f"pol{index}": {"weights": {"fc/w": WEIGHTS + index}} for index in range(3)},
                {"replay": np.zeros(40_000)},
                metrics={"reward": math.nan if step == 30 else float(step), "eval": {"len": step}},
                labels=["nightly"],
            )
        made.tag("champion", 10)
        yield made


def ckptstore(*arguments: str, exits: int = 0) -> Result:
    result = CliRunner().invoke(root, arguments)
    assert result.exit_code == exits, (result.output, result.exception)
    return result


def document(*arguments: str, exits: int = 0) -> Any:
    """The JSON a command prints, read by a parser that takes no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(ckptstore(*arguments, "--json", exits=exits).stdout, parse_constant=refuse)


def complaint(*arguments: str, exits: int) -> str:
    """The one line on standard error of a command that fails and prints nothing else."""
    result = ckptstore(*arguments, exits=exits)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("ckptstore: ")
    return result.stderr


def damage(store: CheckpointStore, name: str, path: str) -> None:
    file = Path("store", name, path)
    data = bytearray(unlinked(file))
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


class TestLs:
    def test_columns(self, store: CheckpointStore) -> None:
        lines = ckptstore("ls", "store", "--metric", "reward", "--metric", "eval/len").stdout.splitlines()
        assert " ".join(lines[0].split()) == "name step kind policies size created (UTC) reward eval/len tags"
        assert [line.split()[0] for line in lines[1:]] == [item.name for item in store.checkpoints()]
        assert lines[1].split()[-3:] == ["10", "10", "champion"]
        assert lines[3].split()[-2:] == ["nan", "30"]

    def test_json(self, store: CheckpointStore) -> None:
        found = document("ls", "store")
        assert found["id"] == store.id
        assert [item["step"] for item in found["checkpoints"]] == [10, 20, 30]
        first, last = found["checkpoints"][0], found["checkpoints"][-1]
        assert first == {
            "name": "checkpoint_000010",
            "url": f"{store.url}/checkpoint_000010",
            "id": store.get(10).id,
            "step": 10,
            "kind": "Algorithm",
            "version": "1.1",
            "committed": True,
            "created": store.get(10).manifest.created,
            "policies": ["pol0", "pol1", "pol2"],
            "file_count": len(store.get(10).manifest.files),
            "bytes": store.get(10).manifest.size,
            "metrics": {"reward": 10.0, "eval": {"len": 10}},
            "labels": ["nightly"],
            "tags": ["champion"],
        }
        assert last["metrics"]["reward"] == "nan"

    def test_an_empty_store_is_no_failure(self, here: Path) -> None:
        CheckpointStore("store").save(1)
        CheckpointStore("store").delete(1)
        assert "holds no checkpoint" in ckptstore("ls", "store").stdout
        assert document("ls", "store")["checkpoints"] == []

    def test_damage_is_said_on_standard_error(self, store: CheckpointStore) -> None:
        Path("store/checkpoint_000020/algorithm_state.pkl").unlink()
        result = ckptstore("ls", "store")
        assert "checkpoint_000020" not in result.stdout
        assert "warning" in result.stderr
        assert "algorithm_state.pkl is missing" in result.stderr


class TestInfo:
    def test_a_checkpoint(self, store: CheckpointStore) -> None:
        found = document("info", "store@20")
        assert found["step"] == 20
        assert found["origin"] == "save"
        assert found["parent"] == {"id": store.get(10).id, "relation": "resume"}
        assert [item["id"] for item in found["per_policy"]] == ["pol0", "pol1", "pol2"]
        assert sum(item["bytes"] for item in found["files"]) == found["bytes"]
        assert {item["path"] for item in found["files"]} == {
            file.path for file in store.get(20).manifest.files
        }
        assert [item["name"] for item in found["components"]] == ["replay"]
        printed = ckptstore("info", "store@20").stdout
        assert "reward = 20" in printed
        assert "eval/len = 20" in printed

    def test_large_arrays_are_counted_from_the_index(self, here: Path) -> None:
        weights = {"w": np.ones(100_000), "v": np.ones(200_000)}
        CheckpointStore("store").save(1, {}, {"pol": {"weights": weights}})
        (policy,) = document("info", "store@1")["per_policy"]
        assert (policy["indexed_arrays"], policy["indexed_bytes"]) == (2, 2_400_000)

    def test_a_store(self, store: CheckpointStore) -> None:
        found = document("info", "store")
        assert found["checkpoint_count"] == 3
        assert found["bytes"] == sum(item.manifest.size for item in store.checkpoints())
        assert found["newest"]["step"] == 30
        assert found["tags"] == {"champion": "checkpoint_000010"}
        assert "champion -> checkpoint_000010" in ckptstore("info", "store").stdout


class TestTree:
    def test_files_and_arrays(self, store: CheckpointStore) -> None:
        printed = ckptstore("tree", "store@latest", "--policy", "pol1").stdout
        assert "policy_state.pkl" in printed
        assert "weights/fc/w  float32 3x4" in printed
        found = document("tree", "store@latest", "--policy", "pol1")
        assert found["arrays"] == {
            "pol1": [{"name": "weights/fc/w", "dtype": "float32", "shape": [3, 4], "bytes": 48}]
        }
        assert {item["path"] for item in found["files"]} == {
            file.path for file in store.get(30).manifest.files
        }

    def test_a_store(self, store: CheckpointStore) -> None:
        assert "checkpoint_000010  [champion]" in ckptstore("tree", "store").stdout
        assert len(document("tree", "store")["checkpoints"]) == 3

    def test_an_unknown_policy(self, store: CheckpointStore) -> None:
        assert "'pol9'" in complaint("tree", "store@10", "--policy", "pol9", exits=3)

    def test_data_that_hold_themselves(self, here: Path) -> None:
        loop: dict[str, Any] = {"w": WEIGHTS}
        loop["again"] = [loop]
        CheckpointStore("store").save(1, {}, {"pol": loop})
        assert [item["name"] for item in document("tree", "store@1", "--policy", "pol")["arrays"]["pol"]] == [
            "w"
        ]


class TestVerify:
    def test_whole(self, store: CheckpointStore) -> None:
        assert document("verify", "store")["ok"]
        assert document("verify", "store@10")["checkpoints"][0]["bytes"] == store.get(10).manifest.size

    def test_damaged(self, store: CheckpointStore) -> None:
        damage(store, "checkpoint_000020", "policies/pol1/policy_state.pkl")
        for target in ("store", "store@20", "store/checkpoint_000020"):
            found = document("verify", target, exits=5)
            assert not found["ok"]
            (bad,) = (item for item in found["checkpoints"] if not item["ok"])
            assert "policies/pol1/policy_state.pkl" in bad["problems"][0]
            assert "DAMAGED" in ckptstore("verify", target, exits=5).stdout
        ckptstore("verify", "store@30")

    def test_an_extra_file(self, store: CheckpointStore) -> None:
        Path("store/checkpoint_000020/policies/intruder").write_bytes(b"x")
        assert "not part of it: policies/intruder" in ckptstore("verify", "store@20").stdout
        assert document("verify", "store@20")["checkpoints"][0]["strays"] == ["policies/intruder"]


class TestLatest:
    def test_prints_a_url_that_works(self, store: CheckpointStore) -> None:
        url = ckptstore("latest", "store").stdout.strip()
        assert url == store.get(30).url
        assert document("info", url)["step"] == 30

    def test_verified_falls_back(self, store: CheckpointStore) -> None:
        damage(store, "checkpoint_000030", "policies/pol1/policy_state.pkl")
        assert document("latest", "store")["step"] == 30
        found = document("latest", "store", "--verified")
        assert found["step"] == 20
        assert [skip["name"] for skip in found["skipped"]] == ["checkpoint_000030"]

    def test_none(self, here: Path) -> None:
        CheckpointStore("store").save(1)
        CheckpointStore("store").delete(1)
        assert "holds no checkpoint" in complaint("latest", "store", exits=3)


class TestGet:
    def test_whole(self, store: CheckpointStore) -> None:
        found = document("get", "store@tag:champion", "copy")
        assert found["bytes"] == store.get(10).manifest.size
        assert Checkpoint.open("copy").id == store.get(10).id
        assert Checkpoint.open("copy").verify().ok

    def test_one_policy(self, store: CheckpointStore) -> None:
        document("get", "store@10", "copy", "--policy", "pol1")
        assert os.listdir("copy/policies") == ["pol1"]

    def test_into_what_is_there(self, store: CheckpointStore) -> None:
        Path("copy").mkdir()
        Path("copy/mine").write_text("mine")
        assert "isn't empty" in complaint("get", "store@10", "copy", exits=2)
        assert os.listdir("copy") == ["mine"]

    def test_a_store_is_too_much(self, store: CheckpointStore) -> None:
        assert "store@latest" in complaint("get", "store", "copy", exits=2)


class TestCp:
    def test_a_store(self, store: CheckpointStore) -> None:
        assert [item["step"] for item in document("cp", "store", "other")["copied"]] == [10, 20, 30]
        other = CheckpointStore("other", create=False)
        assert [item.id for item in other.checkpoints()] == [item.id for item in store.checkpoints()]
        assert other.tags() == store.tags()
        assert all(report.ok for report in other.verify())
        assert document("cp", "store", "other")["copied"] == []

    def test_one_checkpoint(self, store: CheckpointStore) -> None:
        document("cp", "store@tag:champion", "other")
        other = CheckpointStore("other", create=False)
        assert [item.step for item in other.checkpoints()] == [10]
        assert other.tags() == {"champion": "checkpoint_000010"}

    def test_a_copy_that_lies_by_itself(self, store: CheckpointStore) -> None:
        shutil.copytree("store/checkpoint_000020", "lone")
        assert len(document("cp", "lone", "other")["copied"]) == 1
        assert document("cp", "lone", "other")["copied"] == []
        assert CheckpointStore("other", create=False).get(20).id == store.get(20).id

    def test_not_into_a_directory_that_is_something_else(self, store: CheckpointStore) -> None:
        Path("home").mkdir()
        Path("home/letters").write_text("mine")
        assert "isn't empty" in complaint("cp", "store", "home", exits=2)
        assert os.listdir("home") == ["letters"]

    def test_another_checkpoint_of_that_step(self, store: CheckpointStore) -> None:
        CheckpointStore("other").save(20, {})
        assert "checkpoint_000020" in complaint("cp", "store@20", "other", exits=4)

    def test_a_committed_step_stays(self, store: CheckpointStore) -> None:
        complaint("cp", "store@20", "other", "--step", "5", exits=2)


class TestWhatRllibWrote:
    FROM_RAY = Path(__file__).parent / "data/rllib_1_0_ppo_multi5/checkpoint"
    IDS = ("pol0", "pol1", "pol2", "pol3", "pol4")

    @pytest.fixture(autouse=True)
    def old(self, here: Path) -> None:
        shutil.copytree(self.FROM_RAY, "old/checkpoint_000002")

    def test_info(self) -> None:
        found = document("info", "old/checkpoint_000002")
        assert (found["committed"], found["id"], found["created"]) == (False, None, None)
        assert (found["step"], found["kind"], found["version"]) == (2, "Algorithm", "1.0")
        assert [item["id"] for item in found["per_policy"]] == list(self.IDS)
        assert found["per_policy"][1]["bytes"] == 22161 + 129
        assert "no manifest" in ckptstore("info", "old/checkpoint_000002").stdout

    def test_tree(self) -> None:
        found = document("tree", "old/checkpoint_000002", "--policy", "pol1")
        assert {
            "name": "weights/_value_branch._model.0.bias",
            "dtype": "float32",
            "shape": [1],
            "bytes": 4,
        } in (found["arrays"]["pol1"])
        assert "rllib_checkpoint.json" in ckptstore("tree", "old/checkpoint_000002").stdout

    def test_verify(self) -> None:
        assert document("verify", "old/checkpoint_000002")["ok"]
        Path("old/checkpoint_000002/policies/pol1/policy_state.pkl").write_bytes(b"\x80\x04")
        assert not document("verify", "old/checkpoint_000002", exits=5)["ok"]

    def test_cp_commits_it_byte_for_byte(self) -> None:
        document("cp", "old/checkpoint_000002", "store")
        checkpoint = CheckpointStore("store", create=False).get(2)
        assert checkpoint.policy_ids == self.IDS
        assert checkpoint.verify().ok
        for path in self.FROM_RAY.rglob("*"):
            if path.is_file():
                assert Path("store/checkpoint_000002", path.relative_to(self.FROM_RAY)).read_bytes() == (
                    path.read_bytes()
                )

    def test_cp_as_another_step(self) -> None:
        document("cp", "old/checkpoint_000002", "store", "--step", "7")
        assert [item.step for item in CheckpointStore("store", create=False).checkpoints()] == [7]

    def test_get(self) -> None:
        document("get", "old/checkpoint_000002", "copy", "--policy", "pol3")
        assert os.listdir("copy/policies") == ["pol3"]
        assert Checkpoint.open("copy").policy_ids == ("pol3",)

    def test_in_the_directory_of_a_store(self) -> None:
        CheckpointStore("old").save(1, {})
        assert document("info", "old/checkpoint_000002")["committed"] is False
        complaint("info", "old@2", exits=3)


class TestTag:
    def test_make_move_list_and_delete(self, store: CheckpointStore) -> None:
        document("tag", "store", "best", "20")
        document("tag", "store", "best", "latest")
        document("tag", "store", "again", "tag:champion")
        assert document("tag", "store")["tags"] == {
            "again": "checkpoint_000010",
            "best": "checkpoint_000030",
            "champion": "checkpoint_000010",
        }
        document("tag", "store", "--delete", "best")
        assert "best" not in store.tags()
        assert "champion" in ckptstore("tag", "store").stdout

    def test_mistakes(self, store: CheckpointStore) -> None:
        complaint("tag", "store", "best", exits=2)
        complaint("tag", "store", "best", "99", exits=3)
        complaint("tag", "store", "../best", "10", exits=2)
        complaint("tag", "store", "--delete", "nobody", exits=3)
        complaint("tag", "store", "best", "--delete", "best", exits=2)
        assert store.tags() == {"champion": "checkpoint_000010"}


class TestPruneAndGc:
    def test_prune(self, store: CheckpointStore) -> None:
        assert document("prune", "store", "--keep", "1", "--dry-run") == {
            "store": store.url,
            "dry_run": True,
            "pruned": ["checkpoint_000020"],
        }
        assert (
            "would delete checkpoint_000020" in ckptstore("prune", "store", "--keep", "1", "--dry-run").stdout
        )
        assert len(store.checkpoints()) == 3
        assert "deleted checkpoint_000020" in ckptstore("prune", "store", "--keep", "1").stdout
        assert [item.step for item in store.checkpoints()] == [10, 30]  # 10 is tagged
        assert "nothing" in ckptstore("prune", "store", "--keep", "1").stdout

    def test_prune_by_rules(self, store: CheckpointStore) -> None:
        store.untag("champion")
        for step, reward in ((31, 5), (32, 9), (33, 1), (40, 3)):
            store.save(step, metrics={"score": reward})
        rules = ["--best", "score=1", "--least", "score=1", "--every", "31"]
        assert document("prune", "store", *rules, "--dry-run")["pruned"] == [
            f"checkpoint_{step:06}" for step in (10, 20, 30)
        ]
        assert document("prune", "store", "--within", "12h", "--keep", "1")["pruned"] == []
        ckptstore("prune", "store", *rules)
        assert [item.step for item in store.checkpoints()] == [31, 32, 33, 40]
        ckptstore("prune", "store", "--tagged")
        assert [item.step for item in store.checkpoints()] == [40]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--keep", "0"],
            [],
            ["--best", "reward"],
            ["--least", "=3"],
            ["--best", "reward=x"],
            ["--every", "-1"],
            ["--within", "soon"],
            ["--within", ""],
            ["--within", "99999999999d"],
        ],
    )
    def test_keep_nothing_is_a_mistake(self, store: CheckpointStore, arguments: list[str]) -> None:
        complaint("prune", "store", *arguments, exits=2)
        assert len(store.checkpoints()) == 3

    def test_gc(self, store: CheckpointStore) -> None:
        left = Path("store/.staging/dead")
        left.mkdir(parents=True)
        (left / "file").write_bytes(bytes(1000))
        found = document("gc", "store")
        assert found["removed"] == ["dead"]
        assert found["bytes"] >= 1000
        assert not left.exists()
        assert len(store.checkpoints()) == 3

    def test_gc_grace(self, store: CheckpointStore) -> None:
        Path("store/.staging/dead").mkdir(parents=True)
        assert document("gc", "store", "--grace", "3600")["removed"] == []
        ckptstore("gc", "store", "--grace", "-1", exits=2)


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            "store@10",
            "store@checkpoint_000010",
            "store@tag:champion",
            "store/checkpoint_000010",
            "store/checkpoint_000010/",
            "./store@10",
            "store/@10",
        ],
    )
    def test_spellings_of_one_checkpoint(self, store: CheckpointStore, target: str) -> None:
        assert document("info", target)["id"] == store.get(10).id

    def test_a_directory_called_like_a_selection(self, store: CheckpointStore) -> None:
        os.rename("store", "run@7")
        assert document("info", "run@7/")["checkpoint_count"] == 3
        assert document("ls", "run@7")["checkpoints"]  # where only a store will do, nothing is selected
        complaint("info", "run@7", exits=3)

    def test_inside_the_store(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("store")
        assert document("info", "checkpoint_000010")["tags"] == ["champion"]
        assert document("info", ".@10")["step"] == 10

    @pytest.mark.parametrize("command", ["info", "tree", "verify"])
    def test_nothing_there(self, here: Path, command: str) -> None:
        assert "neither a store nor a checkpoint" in complaint(command, "nowhere", exits=3)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ls", "nowhere"],
            ["latest", "nowhere"],
            ["tag", "nowhere"],
            ["tag", "nowhere", "best", "10"],
            ["prune", "nowhere", "--keep", "1"],
            ["gc", "nowhere"],
            ["verify", "nowhere@10"],
            ["cp", "nowhere", "other"],
        ],
    )
    def test_a_mistyped_store_is_not_made(self, here: Path, arguments: list[str]) -> None:
        complaint(*arguments, exits=3)
        assert os.listdir(here) == []

    def test_absent(self, store: CheckpointStore) -> None:
        for target in ("store@11", "store@tag:nobody", "store@checkpoint_000011", "store/checkpoint_000011"):
            complaint("info", target, exits=3)


class TestFailures:
    @pytest.mark.parametrize(
        "kind",
        KINDS,
        ids=lambda kind: kind.__name__,
    )
    def test_every_error_has_its_exit_code(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, kind: type[errors.CheckpointError]
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise kind("the file", "is wrong\nindeed", "Mend it")

        monkeypatch.setattr("ckptstore.cli.session.CheckpointStore", fail)
        said = complaint("ls", "store", exits=kind.exit_code)
        assert said == "ckptstore: the file: is wrong\\nindeed. Mend it\n"

    def test_advice_is_for_the_shell(self, store: CheckpointStore) -> None:
        assert "create=" not in complaint("ls", "nowhere", exits=3)
        damage(store, "checkpoint_000030", "policies/pol1/policy_state.pkl")
        assert "ckptstore latest STORE --verified" in complaint("get", "store@30", "copy", exits=5)

    def test_a_bug_is_one_line_too(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("ckptstore.cli.session.CheckpointStore", fail)
        assert "internal error: ZeroDivisionError: oops" in complaint("ls", "store", exits=1)

    def test_debug_shows_the_traceback(self, here: Path) -> None:
        result = ckptstore("ls", "nowhere", "--debug", exits=3)
        assert "Traceback" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("arguments", [[], ["ls"], ["unknown"], ["prune", "store"]])
    def test_usage(self, here: Path, arguments: list[str]) -> None:
        ckptstore(*arguments, exits=2)

    def test_interrupted(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("ckptstore.cli.session.CheckpointStore", interrupt)
        result = ckptstore("ls", "store", exits=130)
        assert result.output == ""


class TestStorageOptions:
    def test_dots_nest_and_booleans(self) -> None:
        pairs = ["anon=true", "key=12345", "a.b.c=x=y", "a.d=false", "empty="]
        assert text.parse_storage_options(pairs) == {
            "anon": True,
            "key": "12345",
            "a": {"b": {"c": "x=y"}, "d": False},
            "empty": "",
        }

    @pytest.mark.parametrize(
        "pairs", [["hush"], ["=hush"], ["a..b=hush"], ["a=hush", "a.b=hush"], ["a=hush"] * 2]
    )
    def test_mistakes_never_show_a_value(self, here: Path, pairs: list[str]) -> None:
        given = [part for pair in pairs for part in ("--storage-option", pair)]
        assert "hush" not in complaint("ls", "store", *given, exits=2)

    def test_they_arrive(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []

        def record(url: str, *, storage_options: Any, create: bool, **trusted: Any) -> None:
            seen.append((url, storage_options, create))
            raise errors.StoreNotFound(url)

        monkeypatch.setattr("ckptstore.cli.session.CheckpointStore", record)
        ckptstore("ls", "s3://b/r", "--storage-option", "client_kwargs.region_name=x", exits=3)
        assert seen == [("s3://b/r", {"client_kwargs": {"region_name": "x"}}, False)]


class TestOnS3:
    def test_the_same_in_a_bucket(self, store: CheckpointStore, moto: Server) -> None:
        url = moto.new_url()
        given = [f"{name}={moto.options[name]}" for name in ("endpoint_url", "key", "secret")]
        options = [part for pair in given for part in ("--storage-option", pair)]
        assert len(document("cp", "store", url, *options)["copied"]) == 3
        assert document("verify", url, *options)["ok"]
        assert [item["step"] for item in document("ls", url, *options)["checkpoints"]] == [10, 20, 30]
        latest = ckptstore("latest", url, *options).stdout.strip()
        assert latest == f"{url}/checkpoint_000030"
        document("get", latest, "copy", "--policy", "pol1", *options)
        assert os.listdir("copy/policies") == ["pol1"]
        assert document("tag", url, *options)["tags"] == {"champion": "checkpoint_000010"}
        assert document("prune", url, "--keep", "1", *options)["pruned"] == ["checkpoint_000020"]
        document("gc", url, *options)
        complaint("ls", moto.new_url(), *options, exits=3)
        complaint("info", f"{url}@20", *options, exits=3)

    def test_options_for_each_end(self, store: CheckpointStore, moto: Server) -> None:
        url = moto.new_url()
        given = [f"{name}={moto.options[name]}" for name in ("endpoint_url", "key", "secret")]
        to = [part for pair in given for part in ("--to-storage-option", pair)]
        assert len(document("cp", "store@10", url, "--storage-option", "anon=true", *to)["copied"]) == 1


class TestWords:
    @pytest.mark.parametrize(
        ("count", "said"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (2**20 - 1, "1.0 MiB"),
            (2**30, "1.0 GiB"),
            (2**70, "1024.0 EiB"),
        ],
    )
    def test_sizes(self, count: int, said: str) -> None:
        assert text.format_size(count) == said

    def test_nothing_reaches_the_terminal_that_it_would_obey(self, here: Path) -> None:
        hostile = "\x1b]0;owned\x07[red]\ud800\u202e\n"
        shown = clean(hostile)
        assert shown.isprintable()
        assert "[red]" in shown
        store = CheckpointStore("store")
        store.save(1, {}, metrics={"\x1b[2J": "\x1b[31mred"}, labels=["[bold]x[/bold]", "\x1b[2J"])
        printed = ckptstore("info", "store@1").stdout
        assert "\x1b" not in printed
        assert "[bold]x[/bold]" in printed

    def test_values(self) -> None:
        assert [text.format_value(item) for item in (None, True, False, 3, 0.1234567, math.inf, "a")] == [
            "", "yes", "no", "3", "0.123457", "inf", "a",
        ]  # fmt: skip

    def test_json_of_what_isnt_finite(self) -> None:
        assert text.to_json_value({"a": [math.nan, -math.inf], "b": (1.5, None)}) == {
            "a": ["nan", "-inf"],
            "b": [1.5, None],
        }


def test_verify_exits_like_the_error_class() -> None:
    assert verify.DAMAGED == errors.CheckpointCorrupt.exit_code == 5


def test_version() -> None:
    assert ckptstore("--version").stdout.split() == ["ckptstore", __version__]


def test_every_module_of_commands_holds_the_command_of_its_name() -> None:
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == root.commands.keys()


def test_every_command_has_the_common_options() -> None:
    for name, command in root.commands.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {"--json", "--storage-option", "--verbose", "--debug"} <= flags, name
        assert command.help, name


class TestDocument:
    """``docs/cli.md`` says what is so."""

    TEXT = Path(__file__).parent.parent.joinpath("docs/cli.md").read_text(encoding="utf-8")

    def test_exit_codes(self) -> None:
        for kind in KINDS:
            row = next(line for line in self.TEXT.splitlines() if line.startswith(f"| {kind.exit_code} |"))
            assert kind.__name__ in row

    def test_commands_and_options(self) -> None:
        for name, command in root.commands.items():
            assert f"| `{name}" in self.TEXT
            for parameter in command.params:
                if parameter.param_type_name == "option":
                    assert any(flag in self.TEXT for flag in parameter.opts), (name, parameter.opts)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ls", "store"],
            ["info", "store"],
            ["info", "store@20"],
            ["tree", "store"],
            ["tree", "store@10", "--policy", "pol1"],
            ["verify", "store"],
            ["latest", "store"],
            ["get", "store@10", "copy"],
            ["cp", "store", "other"],
            ["tag", "store"],
            ["tag", "store", "best", "10"],
            ["tag", "store", "--delete", "champion"],
            ["prune", "store", "--keep", "2"],
            ["gc", "store"],
        ],
        ids=" ".join,
    )
    def test_fields(self, store: CheckpointStore, arguments: list[str]) -> None:
        pending = [document(*arguments)]
        free = {"metrics", "arrays", "writer", "tags"}  # their keys are the user's
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                for key, inner in item.items():
                    assert f"`{key}`" in self.TEXT
                    pending += [] if key in free else [inner]
            elif isinstance(item, list):
                pending += item
