"""Small rules of the layouts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.layouts.base import owner
from ckptstore.rllib_formats.paths import children
from ckptstore.rllib_formats.weight_files import module_files
from tests.rllib_formats.trees import DATA, Recorder, load, open_files, read_all, with_pickle


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pol_default_optimizer", "pol"),
        ("pol_1_default_optimizer", "pol_1"),
        ("pol_1", "pol_1"),
        ("pol", "pol"),
        ("pol_10_x", "pol"),
        ("other_x", None),
        ("", None),
    ],
)
def test_an_optimizer_belongs_to_the_longest_id_that_fits(name: str, expected: str | None) -> None:
    assert owner(name, ["pol", "pol_1", "zzz"]) == expected
    assert owner(name, ["zzz", "pol_1", "pol"]) == expected


def test_directories_and_the_modules_in_them() -> None:
    paths = ["a/b/c", "a/d", "ab/c", "e"]
    assert children(paths, "") == ["a", "ab"]
    assert children(paths, "a") == ["b"]
    files = {
        "m/x/module_state.pkl": 1,
        "m/x/module_state.pt": 1,
        "m/y/module_state_dir/module_state.pt": 1,
        "m/z/f": 1,
    }
    assert module_files(files, "m", "2.0") == {
        "x": "m/x/module_state.pt",
        "y": "m/y/module_state_dir/module_state.pt",
    }
    assert module_files(files, "m", "2.1")["x"] == "m/x/module_state.pkl"


def test_each_policy_gets_its_own_optimizer() -> None:
    foreign = open_files(load("v1_2/ray_2.8.0_hybrid"))
    moments = []
    for policy_id in foreign.policy_ids:
        optimizer = foreign.policy(policy_id)["optimizer"]
        assert list(optimizer) == ["default_optimizer"]
        moments += [entry["exp_avg"].tobytes() for entry in optimizer["default_optimizer"]["state"].values()]
    assert len(set(moments)) == len(moments) > 0  # one of the three policies is not trained and has none


def test_a_module_without_an_optimizer_is_told() -> None:
    files = load("v2_0/ray_2.40.0_ppo")
    foreign = open_files(
        with_pickle(files, "learner_group/learner/state.pkl", {"optimizer": {"other_adam": {}}})
    )
    assert foreign.policy("default_policy")["optimizer"] == {}
    assert [note.path for note in foreign.notes if note.kind == "missing"] == ["optimizer"]


def test_the_config_of_the_oldest_releases_is_in_the_last_result() -> None:
    foreign = open_files(load("v0_1/ray_1.13.0_multi"))
    config = foreign.state()["config"]
    assert config["train_batch_size"] == 120
    assert foreign.state()["policies_to_train"] == ["cat"]
    assert foreign.policy("dog")["config"] == config


def test_the_state_of_the_tune_of_old_is_found_by_its_older_name() -> None:
    files = load("v0_1/ray_2.0.1_ppo_filter")
    renamed = {
        ("checkpoint-2" + path if path == ".tune_metadata" else path): data for path, data in files.items()
    }
    assert open_files(renamed).state()["iteration"] == 2
    assert open_files(renamed).ray_version == "2.0.1"
    gone = {path: data for path, data in files.items() if path != ".tune_metadata"}
    foreign = open_files(gone)
    assert foreign.state()["iteration"] is None
    assert foreign.state()["counters"] == {}
    assert foreign.ray_version == ""


def test_one_file_is_read_once() -> None:
    recorder = Recorder(load("v0_1/ray_2.0.1_ppo_filter"))
    foreign = recorder.open()
    foreign.state()
    for _ in range(3):
        foreign.weights("default_policy")
    assert sorted(recorder.paths) == [".tune_metadata", "checkpoint-2"]


def test_a_policy_with_rules_of_its_own_has_no_weights() -> None:
    """RLlib asked it for weights and got None; everything else about it is there."""
    foreign = read_all(load("heuristic"))  # of Ray 2.6.3; no live algorithm can be compared with the whole
    assert foreign.policy_ids == ("h", "learned", "r")
    assert [len(foreign.weights(name)) for name in foreign.policy_ids] == [0, 8, 0]
    with np.load(DATA / "heuristic" / "truth.npz") as truth:
        for name, array in foreign.weights("learned").items():
            np.testing.assert_array_equal(array, truth[f"weights/learned/{name}"])
    assert foreign.policy("h")["observation_space"]["shape"] == (4,)


@pytest.mark.parametrize("other", ["one", 1, "7"])
def test_numbers_as_ids_are_spelled_as_text(other: object) -> None:
    ones = {"weights": {"w": np.ones(1)}, "global_timestep": 5}
    worker = {
        "state": {7: ones, other: {"weights": {"w": np.zeros(1)}}},
        "filters": {7: "x"},
        "policy_specs": {},
    }
    files = {"checkpoint-3": pickle.dumps({"worker": pickle.dumps(worker)})}
    if other == "7":
        with pytest.raises(UnreadableFormat):
            open_files(files).policy_ids  # noqa: B018
        return
    foreign = read_all(files)
    assert foreign.policy_ids == tuple(sorted(("7", str(other))))
    assert foreign.weights("7") == {"w": 1}
    assert foreign.policy("7")["global_timestep"] == 5
    assert foreign.state()["filters"] == {"7": "x"}


def test_a_module_that_only_tensorflow_reads_is_an_error() -> None:
    files = load("v1_2/ray_2.20.0_no_policies")
    [path] = [path for path in files if path.endswith("module_state.pt")]
    files[path + ".index"] = files.pop(path)
    foreign = open_files(files)
    assert foreign.policy_ids == ("default_policy",)
    with pytest.raises(UnreadableFormat, match="TensorFlow"):
        foreign.weights("default_policy")
