"""Which files are one policy's alone, in every layout that a release has written."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ckptstore.errors import CheckpointError
from tests.rllib_formats import corpus
from tests.rllib_formats.trees import DATA, Files, Recorder, load, open_files, without

CHECKPOINTS = sorted(
    {root for case in corpus.cases(DATA) for root in corpus.roots(case)}
    | set(DATA.glob("old_stack/*/checkpoint"))
    | {DATA / "heuristic" / "checkpoint"}
)
PARTS = [("v1_2/ray_2.5.1_learner", "learner"), ("v1_2/ray_2.8.0_hybrid", "learner")]
PARTS += [("v1_2/ray_2.8.0_hybrid", "learner/module_state"), ("v1_2/ray_2.35.0_learner_multi", "learner")]
PARTS += [
    ("v2_1/ray_2.42.1_msgpack_multi", "learner_group"),
    ("v2_1/ray_2.60.0_dqn", "learner_group/learner"),
]
PARTS += [
    ("v2_1/ray_2.42.1_msgpack_multi", "learner_group/learner/rl_module"),
    ("v2_1/ray_2.60.0_dqn", "env_runner"),
]
PARTS += [
    ("v1_2/ray_2.8.0_hybrid", "learner/module_state/hare"),
    ("v1_1/ray_2.60.0_sac", "policies/default_policy"),
]


def read(root: Path) -> Files:
    return {path: (root / path).read_bytes() for path in corpus.listing(root)}


TREES = [pytest.param(read(root), id=root.relative_to(DATA).as_posix()) for root in CHECKPOINTS]
TREES += [pytest.param(load(case, part), id=f"{case}/{part}") for case, part in PARTS]


@pytest.mark.parametrize("files", TREES)
def test_every_file_belongs_to_one_policy_or_to_none(files: Files) -> None:
    recorder = Recorder(files)
    foreign = recorder.open()
    ids = foreign.policy_ids
    before = list(recorder.paths)
    found = {policy_id: foreign.files_of(policy_id) for policy_id in ids}
    assert recorder.paths == before  # by names alone
    for policy_id, paths in found.items():
        assert paths == sorted(set(paths) & files.keys())
        assert foreign.version == "0.1" or foreign.path_of(policy_id) in paths
        assert foreign.version != "0.1" or paths == []
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    if foreign.kind in ("Policy", "RLModule"):
        assert found == {"default_policy": sorted(files)}
    else:
        top = {path for path in files if "/" not in path}
        assert top.isdisjoint(set().union(*found.values()))


@pytest.mark.parametrize("files", TREES)
def test_a_policy_needs_the_files_of_no_other(files: Files) -> None:
    whole = open_files(files)
    for policy_id in whole.policy_ids:
        others = {path for other in whole.policy_ids if other != policy_id for path in whole.files_of(other)}
        alone = open_files({path: data for path, data in files.items() if path not in others})
        np.testing.assert_equal(alone.policy(policy_id), whole.policy(policy_id))
        np.testing.assert_equal(alone.weights(policy_id), whole.weights(policy_id))


@pytest.mark.parametrize("files", TREES)
def test_without_its_files_a_policy_is_gone_and_the_others_are_not(files: Files) -> None:
    whole = open_files(files)
    if whole.version == "0.1" or whole.kind in ("Policy", "RLModule"):
        return  # nothing is taken away, or nothing would be left
    if whole.kind == "MultiRLModule" and len(whole.policy_ids) == 1:
        return  # what would be left is like one module without parameters
    for policy_id in whole.policy_ids:
        mine = set(whole.files_of(policy_id))
        rest = {path: data for path, data in files.items() if path not in mine}
        with pytest.raises(CheckpointError):
            open_files(rest).weights(policy_id)
        for other in set(whole.policy_ids) - {policy_id}:
            np.testing.assert_equal(open_files(rest).weights(other), whole.weights(other))


def test_exports_and_whatever_else_is_in_its_directory_belong_to_a_policy() -> None:
    files = load("rllib_1_0_ppo_multi5")
    more = {
        "policies/pol1/model/model.pt": b"x",
        "policies/pol1/a/b": b"x",
        "policies/pol10/policy_state.pkl": b"x",
    }
    foreign = open_files({**files, **more})
    assert foreign.files_of("pol1") == [
        "policies/pol1/a/b",
        "policies/pol1/model/model.pt",
        "policies/pol1/policy_state.pkl",
        "policies/pol1/rllib_checkpoint.json",
    ]
    assert foreign.files_of("pol10") == ["policies/pol10/policy_state.pkl"]
    assert foreign.files_of("nope") == foreign.files_of("") == []


def test_beside_a_learner_a_policy_has_a_module_and_optimizers() -> None:
    assert open_files(load("v1_2/ray_2.8.0_hybrid")).files_of("wolf #3") == [
        "learner/module_state/wolf #3/module_state_dir/module_state.pt",
        "learner/module_state/wolf #3/rl_module_metadata.json",
        "learner/optimizer_state/wolf #3_default_optimizer.pt",
        "policies/wolf #3/policy_state.pkl",
        "policies/wolf #3/rllib_checkpoint.json",
    ]
    assert open_files(load("v1_2/ray_2.35.0_learner_multi")).files_of("pol0") == [
        *(
            f"learner/learner/rl_module/pol0/{name}"
            for name in ("class_and_ctor_args.pkl", "metadata.json", "module_state.pt")
        ),
        "policies/pol0/policy_state.pkl",
        "policies/pol0/rllib_checkpoint.json",
    ]
    assert open_files(load("v2_1/ray_2.42.1_msgpack_multi")).files_of("left") == [
        f"learner_group/learner/rl_module/left/{name}"
        for name in ("class_and_ctor_args.pkl", "metadata.json", "module_state.msgpack")
    ]


def test_components_are_no_policys() -> None:
    files = {**load("rllib_1_0_ppo_multi5"), "components/pol1.pkl": pickle.dumps(1)}
    assert "components/pol1.pkl" not in open_files(files).files_of("pol1")
    runner = open_files(load("v2_1/ray_2.60.0_dqn", "env_runner"))
    assert runner.policy_ids == ()
    assert runner.files_of("default_policy") == []


def test_a_policy_whose_state_is_missing_keeps_what_is_there() -> None:
    files = without(load("v1_1/ray_2.60.0_sac"), "policies/default_policy/policy_state")
    foreign = open_files(files)
    assert foreign.policy_ids == ("default_policy",)
    assert foreign.files_of("default_policy") == ["policies/default_policy/rllib_checkpoint.json"]
