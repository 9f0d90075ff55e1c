"""The same for every checkpoint below a URL: what is found, done once, taken up again and told."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root
from ckptstore.errors import CheckpointNotFound
from ckptstore.find import directories as finding
from ckptstore.read.files import UnverifiedFiles
from tests.servers import Server
from tests.stores import tree_bytes, unlinked

DATA = Path(__file__).parent / "data"
POLICY = DATA / "v1_1" / "ray_2.35.0_policy_msgpack" / "checkpoint"
OLD = DATA / "rllib_1_0_ppo_multi5" / "checkpoint"


def grow(tree: Path) -> Path:
    """Two trials as Ray leaves them, a store of ours with a replaced step, and what is none."""
    for trial in ("a/trial0", "b/trial1"):
        for step in (5, 10):
            shutil.copytree(POLICY, tree / trial / f"checkpoint_{step:06d}")
        (tree / trial / "result.json").write_text("{}")
    shutil.copytree(OLD, tree / "a/trial0/checkpoint_20")  # as Ray 1.x spelled it
    shutil.copytree(OLD, tree / "final")
    store = CheckpointStore(tree / "ours")
    store.save(1, {"x": 1}, {"pol": {"weights": {"w": np.ones(3)}}})
    store.save(1, {"x": 2}, {"pol": {"weights": {"w": np.ones(4)}}}, if_exists="replace")
    (tree / "notes").mkdir()
    (tree / "notes" / "checkpoint-readme").write_text("no checkpoint")
    return tree


PATHS = [
    "a/trial0/checkpoint_000005",
    "a/trial0/checkpoint_000010",
    "a/trial0/checkpoint_20",
    "b/trial1/checkpoint_000005",
    "b/trial1/checkpoint_000010",
    "final",
    "ours/checkpoint_000001-r1",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return grow(tmp_path / "tree")


@pytest.fixture(params=["local", "memory", "moto"])
def place(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Iterator[tuple[str, str, Any]]:
    """The tree, an empty place for copies, and how to reach them."""
    if request.param == "local":
        yield str(tree), str(tmp_path / "copies"), None
        return
    if request.param == "memory":
        base, options = f"memory://{uuid.uuid4().hex}", None
    else:
        server: Server = request.getfixturevalue("moto")
        base, options = server.new_url(), server.options
    backend = open_backend(f"{base}/tree", options)
    for path, data in tree_bytes(tree).items():
        backend.replace(path, data)
    yield f"{base}/tree", f"{base}/copies", options


def outcomes(task: Any, found: list[bulk.Found]) -> dict[str, bulk.Outcome[Any]]:
    with ThreadPoolExecutor(4) as pool:
        return {outcome.found.path: outcome for outcome in bulk.run(task, found, pool)}


def verbs(task: Any, found: list[bulk.Found]) -> dict[str, str]:
    return {
        path: outcome.result.verb if outcome.result else type(outcome.error).__name__
        for path, outcome in outcomes(task, found).items()
    }


def test_each_is_found_once(place: tuple[str, str, Any]) -> None:
    url, _, options = place
    found = bulk.find(url, storage_options=options)
    assert [item.path for item in found] == PATHS
    assert [item.path for item in found if item.committed] == ["ours/checkpoint_000001-r1"]
    opened = {path: outcome.result for path, outcome in outcomes(policies_of, found).items()}
    assert opened["ours/checkpoint_000001-r1"] == ("pol",)
    assert len(opened["final"] or ()) == 5


def test_migrated_once_however_often(place: tuple[str, str, Any]) -> None:
    url, copies, options = place
    found = bulk.find(url, storage_options=options)
    mirror = bulk.Mirror(copies, options)
    assert set(verbs(functools.partial(mirror.migrate, dry_run=True), found).values()) == {
        "would be migrated"
    }
    with pytest.raises(CheckpointNotFound):
        bulk.find(copies, storage_options=options)
    assert set(verbs(bulk.Mirror(copies, options).migrate, found[:3]).values()) == {"migrated"}
    second = verbs(bulk.Mirror(copies, options).migrate, found)
    assert list(second.values()).count("there already") == 3
    assert {path for path, verb in second.items() if verb == "there already"} == set(PATHS[:3])
    assert set(verbs(bulk.Mirror(copies, options).migrate, found).values()) == {"there already"}
    made = bulk.find(copies, storage_options=options)
    assert [item.path for item in made] == sorted(
        [
            *PATHS[:2],
            "a/trial0/checkpoint_000020",
            *PATHS[3:5],
            "final/checkpoint_000002",
            "ours/checkpoint_000001",
        ]
    )
    assert all(item.committed for item in made)
    before, after = found[5].open(), made[5].open()
    assert before.policy_ids == after.policy_ids
    for policy_id in before.policy_ids:
        for name, array in before.weights(policy_id).items():
            np.testing.assert_array_equal(after.weights(policy_id)[name], array)


def test_what_came_from_elsewhere_is_not_taken_for_ones_own(tree: Path, tmp_path: Path) -> None:
    mirror = bulk.Mirror(tmp_path / "copies")
    found = bulk.find(tree)
    assert set(verbs(mirror.migrate, found).values()) == {"migrated"}
    assert set(verbs(bulk.Mirror(tmp_path / "copies", None).copy, found[:1]).values()) == {"CheckpointExists"}
    (tree / PATHS[0] / "more.txt").write_text("another run has been here")
    told = verbs(bulk.Mirror(tmp_path / "copies").migrate, bulk.find(tree))
    assert told.pop(PATHS[0]) == "CheckpointExists"
    assert set(told.values()) == {"there already"}


def test_adopted_meanwhile_is_still_the_same_source(tree: Path, tmp_path: Path) -> None:
    found = bulk.find(tree)[3:5]
    assert set(verbs(bulk.Mirror(tmp_path / "copies").migrate, found).values()) == {"migrated"}
    assert set(verbs(bulk.Adopter(tree).adopt, found).values()) == {"adopted"}
    again = bulk.find(tree)[3:5]
    assert all(item.committed for item in again)
    assert set(verbs(bulk.Mirror(tmp_path / "copies").migrate, again).values()) == {"there already"}


def train_anew(tree: Path) -> None:
    """Other bytes in every file of the trials' last checkpoints and of our store; names and sizes stay."""
    for path in (tree / "a/trial0/checkpoint_000010", tree / "final", tree / "b/trial1/checkpoint_000005"):
        source = max(path.rglob("*.*"), key=lambda each: each.stat().st_size if each.is_file() else 0)
        data = bytearray(source.read_bytes())
        at = data.rindex(b"\x00\x00\x00", 0, len(data) // 2)
        data[at] ^= 1
        source.write_bytes(data)


ANEW = {"a/trial0/checkpoint_000010", "final", "b/trial1/checkpoint_000005"}


@pytest.mark.parametrize("verb", ["copy", "migrate"])
def test_a_run_trained_anew_replaces_its_copy(tree: Path, tmp_path: Path, verb: str) -> None:
    copies = tmp_path / "copies"
    mirror = bulk.Mirror(copies)
    verbs(getattr(mirror, verb), bulk.find(tree))
    before = {item.path: item.open().id for item in bulk.find(copies)}
    train_anew(tree)
    for again in (mirror, bulk.Mirror(copies), mirror):  # also by the one that made them
        told = verbs(getattr(again, verb), bulk.find(tree))
        done = {path for path, result in told.items() if result == "replaced"}
        assert set(told.values()) <= {"replaced", "there already"}, told
        assert done == (ANEW if again is mirror and before else set()), told
        if not before:
            continue
        made = {item.path.removesuffix("-r1"): item for item in bulk.find(copies)}
        assert made.keys() == {path.removesuffix("-r1") for path in before}
        changed = {path for path, item in made.items() if item.open().id not in before.values()}
        assert len(changed) == len(ANEW)
        before = {}
    for source in bulk.find(tree):
        if verb == "copy" and source.path in ANEW:
            [copy] = [
                item for item in bulk.find(copies) if item.home == source.home or source.path in item.path
            ]
            theirs = copy.open()
            theirs.verify()
            for path in theirs.manifest.files:
                assert theirs.read(path.path) == source.open().read(path.path)


@pytest.mark.parametrize("verb", ["copy", "migrate"])
def test_a_second_run_reads_each_byte_once_at_most(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    found = bulk.find(tree)
    verbs(getattr(bulk.Mirror(tmp_path / "copies"), verb), found)
    read: dict[str, int] = {}
    real = UnverifiedFiles.stream

    def stream(self: UnverifiedFiles, path: str) -> Iterator[bytes]:
        for data in real(self, path):
            key = f"{self.label}/{path}"
            read[key] = read.get(key, 0) + len(data)
            yield data

    monkeypatch.setattr(UnverifiedFiles, "stream", stream)
    again = verbs(getattr(bulk.Mirror(tmp_path / "copies"), verb), found)
    assert set(again.values()) == {"there already"}
    loose = [item for item in found if not item.committed]
    assert sum(read.values()) == sum(sum(item.open().listing().values()) for item in loose)
    bulk_adopted = bulk.find(tree)[:2]
    verbs(bulk.Adopter(tree).adopt, bulk_adopted)
    read.clear()
    assert set(verbs(getattr(bulk.Mirror(tmp_path / "copies"), verb), bulk.find(tree)[:2]).values()) == {
        "there already"
    }
    assert read == {}, "the digests are in the manifest"


def test_a_step_of_a_store_that_was_saved_anew_replaces_its_copy(tree: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    ours = [item for item in bulk.find(tree) if item.path.startswith("ours")]
    assert set(verbs(bulk.Mirror(copies).copy, ours).values()) == {"copied"}
    shutil.rmtree(tree / "ours")
    CheckpointStore(tree / "ours").save(1, {"x": 3}, {"pol": {"weights": {"w": np.ones(4)}}})
    ours = [item for item in bulk.find(tree) if item.path.startswith("ours")]
    assert set(verbs(bulk.Mirror(copies).copy, ours).values()) == {"replaced"}
    assert [item.state for item in CheckpointStore(copies / "ours").checkpoints()] == [{"x": 3}]
    CheckpointStore(tree / "ours").save(1, {"other": "size"}, {}, if_exists="replace")
    ours = [item for item in bulk.find(tree) if item.path.startswith("ours")]
    assert set(verbs(bulk.Mirror(copies).copy, ours).values()) == {"CheckpointExists"}
    assert [item.state for item in CheckpointStore(copies / "ours").checkpoints()] == [{"x": 3}]


def test_what_fails_makes_no_store(tree: Path, tmp_path: Path) -> None:
    (tree / "final/algorithm_state.pkl").write_bytes(b"garbage.")
    [found] = [item for item in bulk.find(tree) if item.path == "final"]
    assert verbs(bulk.Mirror(tmp_path / "copies").migrate, [found])["final"] not in (
        "migrated",
        "there already",
    )
    assert not (tmp_path / "copies").exists()


def test_a_name_is_the_last_of_the_path(tree: Path) -> None:
    opened = bulk.find(tree)[0].open()
    assert (opened.name, opened.step) == ("checkpoint_000005", 5)
    assert opened.url.endswith(PATHS[0])


def test_copied_once_however_often(place: tuple[str, str, Any]) -> None:
    url, copies, options = place
    found = bulk.find(url, storage_options=options)
    assert set(verbs(bulk.Mirror(copies, options).copy, found).values()) == {"copied"}
    assert set(verbs(bulk.Mirror(copies, options).copy, found).values()) == {"there already"}
    [ours] = CheckpointStore(f"{copies}/ours", storage_options=options).checkpoints()
    assert ours.id == found[-1].open().id
    assert ours.state == {"x": 2}


def test_adopted_where_they_lie(place: tuple[str, str, Any]) -> None:
    url, _, options = place
    adopter = bulk.Adopter(url, options)
    found = bulk.find(url, storage_options=options)
    told = verbs(adopter.adopt, found)
    assert told == {
        **dict.fromkeys(PATHS, "adopted"),
        "a/trial0/checkpoint_20": "InvalidRequest",
        "final": "InvalidRequest",
        "ours/checkpoint_000001-r1": "there already",
    }
    again = bulk.find(url, storage_options=options)
    assert [item.path for item in again] == PATHS
    assert [item.path for item in again if not item.committed] == ["a/trial0/checkpoint_20", "final"]
    assert "adopted" not in verbs(bulk.Adopter(url, options).adopt, again).values()
    store = CheckpointStore(f"{url}/b/trial1", storage_options=options, create=False)
    assert [item.step for item in store.checkpoints()] == [5, 10]
    assert all(report.ok for report in store.verify())


def test_processes_and_no_executor_do_the_same(tree: Path, tmp_path: Path) -> None:
    found = bulk.find(tree)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as pool:
        told = {item.found.path: item.result for item in bulk.run(policies_of, found, pool)}
    assert told == {item.found.path: item.result for item in bulk.run(policies_of, found)}
    assert len(told) == len(PATHS)


def policies_of(found: bulk.Found) -> tuple[str, ...]:
    return found.open().policy_ids


def test_one_that_fails_stops_nobody(tree: Path) -> None:
    def task(item: bulk.Found) -> str:
        if item.path == "final":
            raise ZeroDivisionError
        return item.path

    told = outcomes(task, bulk.find(tree))
    assert isinstance(told.pop("final").error, ZeroDivisionError)
    assert [outcome.result for outcome in told.values()] == list(told)


def test_leaving_early_cancels_the_rest(tree: Path) -> None:
    began: list[bulk.Found] = []
    gate = threading.Event()

    def task(item: bulk.Found) -> None:
        began.append(item)
        if len(began) > 1:
            gate.wait(60)

    found = bulk.find(tree) * 500
    with ThreadPoolExecutor(1) as pool:
        running = bulk.run(task, found, pool)
        next(running)
        running.close()
        gate.set()
    assert len(began) <= 2


def test_what_counts() -> None:
    state = {
        "t/checkpoint_000001/algorithm_state.pkl": 9,
        "t/checkpoint_000001/policies/p/policy_state.pkl": 9,
    }
    assert [place.path for place in finding.find(state)] == ["t/checkpoint_000001"]
    dead = {"s/_ckptstore/store.json": 99, "s/checkpoint_000002/algorithm_state.pkl": 9}
    claimed = {**dead, "s/checkpoint_000002/_ckptstore/claim.json": 60}
    assert finding.find(dead) == [finding.Place("s/checkpoint_000002", False)]
    assert finding.find(claimed) == []
    assert finding.find({**claimed, "s/checkpoint_000002/_ckptstore/manifest.json": 60}) == []
    assert finding.find({**claimed, "s/checkpoint_000002/_ckptstore/manifest.json": 2000}) == [
        finding.Place("s/checkpoint_000002", True)
    ]
    assert finding.find({"s/.trash/checkpoint_000002.ff/algorithm_state.pkl": 9}) == []
    assert finding.find({"s/.staging/ff/algorithm_state.pkl": 9}) == []
    assert finding.find({"algorithm_state.pkl": 9}) == [finding.Place("", False)]
    # Without its store.json nothing tells that one replaces the other.
    pair = {f"s/checkpoint_000002{end}/_ckptstore/manifest.json": 2000 for end in ("", "-r1")}
    assert len(finding.find(pair)) == 2
    assert [place.path for place in finding.find({**pair, "s/_ckptstore/store.json": 99})] == [
        "s/checkpoint_000002-r1"
    ]


def run(*arguments: str, exits: int = 0) -> Result:
    done = CliRunner().invoke(root, arguments)
    assert done.exit_code == exits, (done.output, done.exception)
    return done


def lines(*arguments: str, exits: int = 0) -> dict[str, Any]:
    """What ``--json`` prints, by what the URL ends in."""
    found = map(json.loads, run(*arguments, "--json", exits=exits).stdout.splitlines())
    return {next(path for path in PATHS if item["url"].endswith(f"/{path}")): item for item in found}


def test_on_the_command_line(tree: Path, tmp_path: Path) -> None:
    copies = str(tmp_path / "copies")
    told = lines("info", f"{tree}/**")
    assert told["final"]["version"] == "1.0"
    assert told["ours/checkpoint_000001-r1"]["committed"]
    shown = run("info", f"{tree}/**", "--workers", "1").stdout
    assert [line.split()[0] for line in shown.splitlines()[1 : 1 + len(PATHS)]] == PATHS
    assert "7 checkpoints: 6 no manifest, 1 committed" in shown
    assert {item["ok"] for item in lines("verify", f"{tree}/**").values()} == {True}
    assert lines("scan", f"{tree}/**")["ours/checkpoint_000001-r1"]["worst"] == "data"
    run("scan", f"{tree}/**", "--strict", exits=6)
    dry = lines("migrate", f"{tree}/**", copies, "--dry-run")
    assert not os.path.exists(copies)
    assert dry["final"]["dry_run"]
    assert dry["final"]["policies"]
    wet = lines("migrate", f"{tree}/**", copies)
    assert {item["result"] for item in wet.values()} == {"migrated"}
    assert wet["final"]["policies"] == dry["final"]["policies"]
    shown = run("migrate", f"{tree}/**", copies).stdout
    assert "7 checkpoints: 7 there already" in shown
    again = lines("cp", f"{tree}/**", str(tmp_path / "plain"))
    assert {item["result"] for item in again.values()} == {"copied"}
    refused = run("adopt", f"{tree}/**", exits=2)
    assert refused.stderr.count("\n") == 2
    assert "4 adopted, 2 failed, 1 there already" in refused.stdout
    run("cp", f"{tree}/**", f"{tree}/copies", exits=2)
    run("cp", f"{tree}/**", copies, "--step", "3", exits=2)
    run("migrate", f"{tree}/**", copies, "--step", "3", exits=2)
    run("info", f"{tmp_path}/nothing/**", exits=3)


def test_the_worst_exit_code_counts(tree: Path) -> None:
    run("adopt", f"{tree}/b/**")
    path = tree / "b/trial1/checkpoint_000005/policy_state.msgpck"
    data = bytearray(unlinked(path))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told = lines("verify", f"{tree}/**", exits=5)
    assert [path for path, item in told.items() if item["result"] == "damaged"] == [PATHS[3]]
    assert "policy_state.msgpck" in told[PATHS[3]]["problems"][0]
    (tree / "final/rllib_checkpoint.json").write_text("{")
    assert lines("info", f"{tree}/**", exits=5)["final"]["error"] == "CheckpointCorrupt"


def test_adopting_one(tree: Path) -> None:
    one = tree / "a/trial0/checkpoint_000005"
    told = json.loads(run("adopt", str(one), "--json").stdout)
    assert told["adopted"]["committed"]
    assert Checkpoint.open(one).manifest.origin == "adopt"
    run("adopt", str(tree / "final"), exits=2)


def test_here_and_everything_below(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for pattern in ("**", "./**"):
        assert sorted(lines("verify", pattern)) == PATHS
