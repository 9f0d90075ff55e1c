"""Damaged and hostile checkpoints: a typed error that names file and remedy, or the right answer."""

from __future__ import annotations

import json
import pickle
import random
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotFound,
    UnreadableFormat,
    UnsafeContent,
)
from tests.rllib_formats.trees import (
    Files,
    Recorder,
    load,
    open_files,
    read_all,
    read_everything,
    with_json,
    with_pickle,
    without,
)

CASES = [
    "v0_1/ray_2.0.1_ppo_filter",
    "rllib_1_0_ppo_multi5",
    "v1_1/ray_2.50.1_msgpack_multi",
    "v1_2/ray_2.8.0_hybrid",
    "v1_2/ray_2.35.0_learner_multi",
    "v2_0/ray_2.40.0_ppo",
    "v2_1/ray_2.42.1_msgpack_multi",
]


def essential(files: Files) -> Iterator[str]:
    """Files without which something is lost; the JSON files and marks beside them are hints only."""
    for path in files:
        name = path.rpartition("/")[2]
        if not name.startswith(".") and not name.endswith(".json"):
            yield path


def attempt(files: Files) -> tuple[CheckpointError | None, Recorder]:
    """Read everything in `files`: what was raised on purpose, and what was read until then."""
    recorder = Recorder(files)
    try:
        read_everything(recorder.open())
    except CheckpointError as error:
        return error, recorder
    return None, recorder


@pytest.mark.parametrize("case", CASES)
def test_a_missing_file_is_never_passed_over_in_silence(case: str) -> None:
    files = load(case)
    whole = read_all(files)
    for path in essential(files):
        rest = {name: data for name, data in files.items() if name != path}
        error, _ = attempt(rest)
        if error is not None:
            assert isinstance(error, (CheckpointCorrupt, UnreadableFormat)), path
            assert error.remedy, path
            continue
        foreign = read_all(rest)
        assert {note.kind for note in set(foreign.notes) - set(whole.notes)} >= {"missing"}, path
        for policy_id in whole.policy_ids:
            assert foreign.weights(policy_id).keys() == whole.weights(policy_id).keys()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_file_is_refused_by_name(case: str, keep: float) -> None:
    files = load(case)
    for path in essential(files):
        data = files[path]
        length = int(len(data) * keep) if isinstance(keep, float) else keep % len(data)
        error, recorder = attempt({**files, path: data[:length]})
        if path in recorder.paths:
            assert isinstance(error, (CheckpointCorrupt, UnsafeContent)), path
            assert isinstance(error, CheckpointCorrupt) or keep != 0
            assert error.what.startswith(path)
            assert error.remedy


@pytest.mark.parametrize("case", CASES)
def test_flipped_bits_end_in_typed_errors_or_in_data(case: str) -> None:
    files = load(case)
    chance = random.Random(case)
    paths = list(essential(files))
    begin = time.monotonic()
    for _ in range(20):
        path = chance.choice(paths)
        data = bytearray(files[path])
        for _ in range(chance.choice((1, 1, 3, 20))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        error, _ = attempt({**files, path: bytes(data)})
        assert not isinstance(error, CheckpointNotFound)
    assert time.monotonic() - begin < 30


GARBAGE = [b"\0" * 100, b"\x80\x05.", b"PK\x03\x04" + b"\xff" * 60, b"not a checkpoint", pickle.dumps([1, 2])]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:8]))
def test_garbage_in_any_file_is_a_typed_error(case: str, data: bytes) -> None:
    files = load(case)
    for path in essential(files):
        error, recorder = attempt({**files, path: data})
        if path in recorder.paths:
            assert isinstance(error, (CheckpointCorrupt, UnsafeContent, UnreadableFormat)), path


def test_a_policy_directory_that_vanished() -> None:
    files = without(load("rllib_1_0_ppo_multi5"), "policies/pol3/")
    foreign = open_files(files)
    # This release wrote no list of policies into the JSON: the algorithm's state has it.
    assert "pol3" in foreign.policy_ids
    with pytest.raises(CheckpointCorrupt, match=r"policies/pol3/policy_state.pkl"):
        foreign.weights("pol3")
    assert foreign.weights("pol2")
    newer = without(load("v1_1/ray_2.50.1_msgpack_multi"), "policies/pol1/")
    with pytest.raises(CheckpointCorrupt, match="Copy the directory again"):
        read_all(newer)


def test_policies_never_written_on_purpose() -> None:
    files = load("v1_1/ray_2.38.0_trainable_only")
    foreign = read_all(files)
    assert foreign.policy_ids == ("learner_a", "learner_c")
    assert foreign.state()["policy_ids"] == ["learner_a", "learner_c"]
    assert [note.path for note in foreign.notes if note.kind == "absent"] == ["policies/frozen_b"]
    with pytest.raises(CheckpointNotFound, match="saves only the policies it trains"):
        foreign.weights("frozen_b")
    # Other releases list all of them in the JSON.
    listed = with_json(files, "rllib_checkpoint.json", policy_ids=["frozen_b", "learner_a", "learner_c"])
    assert read_all(listed).policy_ids == foreign.policy_ids


def test_the_state_knows_of_a_policy_that_json_and_directory_forgot() -> None:
    files = without(load("v1_1/ray_2.50.1_msgpack_multi"), "policies/pol1/")
    files = with_json(files, "rllib_checkpoint.json", policy_ids=["pol0"])
    foreign = open_files(files)
    assert foreign.policy_ids == ("pol0",)
    with pytest.raises(CheckpointCorrupt, match="pol1"):
        foreign.state()


def test_a_part_that_makes_it_a_checkpoint_is_asked_for_at_once() -> None:
    tree, old = load("v2_1/ray_2.42.1_msgpack_multi"), load("v1_2/ray_2.8.0_hybrid")
    broken = {
        "learner_group/": without(tree, "learner_group/"),
        "class_and_ctor_args.pkl": without(tree, "class_and_ctor_args.pkl"),
        "algorithm_state.pkl": without(old, "algorithm_state.pkl"),
        "learner/": without(old, "learner/"),
    }
    for part, files in broken.items():
        with pytest.raises(CheckpointCorrupt) as caught:
            open_files(files)
        assert caught.value.what == part
    nameless = with_json(
        broken["class_and_ctor_args.pkl"], "rllib_checkpoint.json", class_and_ctor_args_file=None
    )
    with pytest.raises(CheckpointCorrupt, match="class_and_ctor_args"):
        open_files(nameless)
    with pytest.raises(CheckpointCorrupt, match="learner_group/learner/rl_module"):
        read_all(without(tree, "learner_group/learner/rl_module/"))


def test_new_stack_without_one_trained_module() -> None:
    foreign = open_files(
        without(load("v2_1/ray_2.42.1_msgpack_multi"), "learner_group/learner/rl_module/right/")
    )
    assert foreign.policy_ids == ("left", "right")
    with pytest.raises(CheckpointCorrupt, match="rl_module/right"):
        foreign.weights("right")
    assert foreign.weights("left")


def test_the_learners_weights_are_compared_with_the_policies() -> None:
    files = load("v1_2/ray_2.8.0_hybrid")
    assert not [note for note in read_all(files).notes if note.kind == "mismatch"]
    state = "learner/module_state/{}/module_state_dir/module_state.pt"
    swapped = {**files, state.format("hare"): files[state.format("wolf #3")]}
    foreign = open_files(swapped)
    weights = foreign.weights("hare")
    mismatch = [note for note in foreign.notes if note.kind == "mismatch"]
    assert [note.path for note in mismatch] == [state.format("hare")]
    np.testing.assert_equal(weights, open_files(files).weights("hare"))


def test_a_size_that_the_bytes_do_not_have() -> None:
    files = load("rllib_1_0_ppo_multi5")
    sizes = {path: len(data) for path, data in files.items()}
    sizes["policies/pol0/policy_state.pkl"] += 1
    from ckptstore.rllib_formats.foreign import open as open_foreign

    foreign = open_foreign(sizes, files.__getitem__)
    with pytest.raises(CheckpointCorrupt, match="bytes arrived"):
        foreign.weights("pol0")


class Danger:
    """Unpickling it would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_does_not_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("danger") / "ran"
    files = load("rllib_1_0_ppo_multi5")
    danger = Danger(str(target))
    state = with_pickle(files, "algorithm_state.pkl", {"config": danger, "worker": {"policy_ids": []}})
    read_all(state)
    with pytest.raises(UnsafeContent, match="not an array"):
        read_all(with_pickle(files, "policies/pol0/policy_state.pkl", {"weights": {"w": danger}}))
    assert not target.exists()


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"weights": "text"},
        {"weights": {"w": [None]}},
        {"weights": {"w": object}},
    ],
)
def test_a_policy_without_weights_is_an_error(value: object) -> None:
    expected = UnreadableFormat if value == {} else UnsafeContent
    files = with_pickle(load("v1_1/ray_2.60.0_sac"), "policies/default_policy/policy_state.pkl", value)
    with pytest.raises(expected) as caught:
        open_files(files).weights("default_policy")
    assert "policy_state.pkl" in caught.value.what


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a": 1', b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_broken_json_names_the_file(text: bytes) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"rllib_checkpoint\.json"):
        open_files({**load("v1_1/ray_2.60.0_sac"), "rllib_checkpoint.json": text})


def test_json_is_not_believed_about_policies() -> None:
    files = load("v1_1/ray_2.60.0_sac")
    for ids in (None, 7, "default_policy", [1, None], {"a": 1}):
        assert open_files(with_json(files, "rllib_checkpoint.json", policy_ids=ids)).policy_ids == (
            "default_policy",
        )
    evil = with_json(files, "rllib_checkpoint.json", policy_ids=["../../etc/passwd"])
    with pytest.raises(CheckpointCorrupt):
        open_files(evil).weights("../../etc/passwd")
    assert json.loads(files["rllib_checkpoint.json"])["policy_ids"] == ["default_policy"]
