"""What is recognised, what it is called, how much is read for it."""

from __future__ import annotations

import numpy as np
import pytest

from ckptstore.errors import CheckpointNotFound, InvalidRequest, UnreadableFormat
from tests.rllib_formats.trees import Recorder, load, open_files, read_all, with_json, without

KINDS = [
    ("v0_1/ray_2.0.1_ppo_filter", "", "Algorithm", "0.1", "2.0.1"),
    ("rllib_1_0_ppo_multi5", "", "Algorithm", "1.0", "2.1.0"),
    ("v1_0/ray_2.1.0_policy", "", "Policy", "1.0", "2.1.0"),
    ("v1_1/ray_2.60.0_sac", "", "Algorithm", "1.1", "2.60.0"),
    ("v1_1/ray_2.60.0_sac", "policies/default_policy", "Policy", "1.1", "2.60.0"),
    ("v1_1/ray_2.35.0_policy_msgpack", "", "Policy", "1.1", "2.35.0"),
    ("v1_2/ray_2.5.1_learner", "", "Algorithm", "1.2", "2.5.1"),
    ("v1_2/ray_2.5.1_learner", "learner", "LearnerGroup", "1.2", "2.5.1"),
    ("v1_2/ray_2.8.0_hybrid", "learner/module_state", "MultiRLModule", "1.2", "2.8.0"),
    ("v1_2/ray_2.8.0_hybrid", "learner/module_state/hare", "RLModule", "1.2", "2.8.0"),
    ("v1_2/ray_2.35.0_learner_multi", "learner", "LearnerGroup", "2.0", "2.35.0"),
    ("v2_0/ray_2.40.0_ppo", "", "Algorithm", "2.0", "2.40.0"),
    ("v2_0/ray_2.35.0_modules", "rl_module", "RLModule", "2.0", "2.35.0"),
    ("v2_0/ray_2.35.0_modules", "multi_rl_module", "MultiRLModule", "2.0", "2.35.0"),
    ("v2_1/ray_2.60.0_modules", "learner_group", "LearnerGroup", "2.1", "2.60.0"),
    ("v2_1/ray_2.60.0_dqn", "learner_group/learner", "Learner", "2.1", "2.60.0"),
    ("v2_1/ray_2.60.0_dqn", "env_runner", "Checkpointable", "2.1", "2.60.0"),
]


@pytest.mark.parametrize(("case", "directory", "kind", "version", "ray"), KINDS)
def test_kind_version_and_ray_are_told(case: str, directory: str, kind: str, version: str, ray: str) -> None:
    foreign = read_all(load(case, directory))
    assert (foreign.kind, foreign.version, foreign.ray_version) == (kind, version, ray)
    if kind != "Checkpointable":
        assert all(foreign.weights(policy_id) for policy_id in foreign.policy_ids)
        assert foreign.policy_ids


@pytest.mark.parametrize(
    "case",
    [
        "rllib_1_0_ppo_multi5",
        "v1_1/ray_2.60.0_sac",
        "v1_2/ray_2.8.0_hybrid",
        "v2_0/ray_2.40.0_ppo",
        "v2_1/ray_2.60.0_dqn",
    ],
)
def test_the_json_is_a_hint_and_nothing_more(case: str) -> None:
    files = load(case)
    whole = open_files(files)
    poor = open_files(without(files, "rllib_checkpoint.json"))
    odd = open_files(
        with_json(
            files,
            "rllib_checkpoint.json",
            type=None,
            format="wrong",
            state_file="/home/somebody/else/algorithm_state.pkl",
        )
    )
    for other in (poor, odd):
        assert other.policy_ids == whole.policy_ids
        assert other.kind == "Algorithm"
        for policy_id in whole.policy_ids:
            for name, value in whole.weights(policy_id).items():
                np.testing.assert_array_equal(other.weights(policy_id)[name], value)
    assert any(note.kind == "inferred" for note in poor.notes)


def test_opening_reads_the_json_only_and_a_policy_reads_itself() -> None:
    files = load("rllib_1_0_ppo_multi5")
    one = files["policies/pol0/policy_state.pkl"]
    info = files["policies/pol0/rllib_checkpoint.json"]
    many = {f"pol{number:02}": one for number in range(100)}
    files = {
        **without(files, "policies/"),
        **{f"policies/{name}/policy_state.pkl": data for name, data in many.items()},
        **{f"policies/{name}/rllib_checkpoint.json": info for name in many},
    }
    listed = with_json(files, "rllib_checkpoint.json", policy_ids=sorted(many))
    for tree in (files, listed):  # without and with the list of policies that newer releases write
        recorder = Recorder(tree)
        foreign = recorder.open()
        assert recorder.paths == ["rllib_checkpoint.json"]
        assert foreign.weights("pol42")
        assert foreign.policy("pol42")
        assert recorder.paths[1:] == ["policies/pol42/policy_state.pkl"] * 2
        assert recorder.amount / 2 < 0.03 * sum(map(len, tree.values()))
    assert len(foreign.policy_ids) == 100
    assert len(recorder.paths) == 3


def test_weights_of_the_new_stack_leave_the_optimizers_alone() -> None:
    recorder = Recorder(load("v2_1/ray_2.60.0_dqn"))
    foreign = recorder.open()
    assert foreign.weights("default_policy")
    module = "learner_group/learner/rl_module/default_policy"
    assert recorder.paths == ["rllib_checkpoint.json", f"{module}/module_state.pkl"]
    assert foreign.policy("default_policy", optimizer=False)["optimizer"] == {}
    assert "learner_group/learner/state.pkl" not in recorder.paths
    assert foreign.policy("default_policy")["optimizer"].keys() == {"default_optimizer"}


@pytest.mark.parametrize(
    "case", ["v0_1/ray_2.0.1_ppo_filter", "rllib_1_0_ppo_multi5", "v2_1/ray_2.42.1_msgpack_multi"]
)
def test_an_unknown_policy_is_answered_with_the_known_ones(case: str) -> None:
    foreign = open_files(load(case))
    with pytest.raises(CheckpointNotFound) as caught:
        foreign.weights("nope")
    assert all(repr(policy_id) in str(caught.value) for policy_id in foreign.policy_ids)
    with pytest.raises(CheckpointNotFound):
        foreign.component("nope")


@pytest.mark.parametrize("version", ["1.3", "2.2", "3.0", "10.0"])
def test_a_newer_layout_is_refused(version: str) -> None:
    with pytest.raises(UnreadableFormat, match="Upgrade ckptstore"):
        open_files(
            with_json(load("v2_1/ray_2.60.0_dqn"), "rllib_checkpoint.json", checkpoint_version=version)
        )


@pytest.mark.parametrize("version", ["0.0", "latest", "", "1", [1], True, "1.0.0.0"])
def test_a_version_that_never_was_is_refused(version: object) -> None:
    with pytest.raises(UnreadableFormat):
        open_files(
            with_json(load("rllib_1_0_ppo_multi5"), "rllib_checkpoint.json", checkpoint_version=version)
        )


def test_what_is_no_checkpoint_says_what_to_do() -> None:
    with pytest.raises(UnreadableFormat, match="empty"):
        open_files({})
    with pytest.raises(UnreadableFormat, match="one checkpoint"):
        open_files({"README.md": b"x", "src/main.py": b"x"})
    inner = {f"checkpoint_000002/{path}": data for path, data in load("rllib_1_0_ppo_multi5").items()}
    with pytest.raises(UnreadableFormat, match="Did you mean checkpoint_000002"):
        open_files({**inner, "params.json": b"{}"})
    with pytest.raises(UnreadableFormat, match="several"):
        open_files({"checkpoint-1": b"x", "checkpoint-2": b"x"})
    assert not issubclass(UnreadableFormat, InvalidRequest)


def test_strays_do_not_become_policies() -> None:
    files = load("rllib_1_0_ppo_multi5")
    strays = {"policies/.DS_Store": b"\0", "policies/tmp/part": b"x", ".DS_Store": b"x", "checkpoint-7": b"x"}
    foreign = read_all({**files, **strays})
    assert foreign.policy_ids == open_files(files).policy_ids
    assert any(note.path == "policies/tmp" and note.kind == "skipped" for note in foreign.notes)


def test_a_module_may_be_called_like_a_component() -> None:
    files = load("v2_0/ray_2.35.0_modules", "multi_rl_module")
    renamed = {path.replace("default_policy/", "learner/"): data for path, data in files.items()}
    foreign = open_files(renamed)
    assert foreign.kind == "MultiRLModule"
    assert "learner" in foreign.policy_ids
    assert foreign.weights("learner").keys() == open_files(files).weights("default_policy").keys()


def test_two_copies_of_the_state_are_told() -> None:
    files = load("v1_1/ray_2.60.0_sac")
    foreign = read_all({**files, "algorithm_state.msgpck": b"\x80"})
    assert [note.path for note in foreign.notes if note.kind == "skipped"] == ["algorithm_state.msgpck"]
    assert foreign.state()["iteration"] == 2


def test_components_are_read_when_asked_for() -> None:
    recorder = Recorder(load("v2_1/ray_2.60.0_dqn"))
    foreign = recorder.open()
    assert foreign.components == ("env_runner", "learner")
    before = len(recorder.paths)
    assert "weights_seq_no" in foreign.component("learner")
    assert recorder.paths[before:] == ["learner_group/learner/state.pkl"]
