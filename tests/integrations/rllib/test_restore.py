"""RLlib's algorithms on the installed Ray, from checkpoints of every era and from our own saves."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointNotFound, InvalidRequest, UnreadableFormat
from ckptstore.integrations import rllib
from tests.integrations.rllib import corpus, training

pytestmark = pytest.mark.usefixtures("needs_ray")

DATA = Path(__file__).parents[2] / "data"
GOLDEN = corpus.algorithms(DATA)
MULTI5 = DATA / "rllib_1_0_ppo_multi5" / "checkpoint"
NEEDS_TENSORFLOW = "Ray needs a package that isn't installed here: TensorFlow"
# Ray 2.6x feeds SAC's critics through encoders of their own for observation and action.
REFUSED = {
    "ray_2.44.1_sac": "another network",
    "ray_2.54.0_tqc": "another network",
    "ray_2.2.0_marwil_tf": 'Pass config={"input_": ...}',
    "ray_2.2.0_dqn_tf2": NEEDS_TENSORFLOW,
    "ray_2.2.0_sac_tf2": NEEDS_TENSORFLOW,
}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.relative_to(DATA).as_posix())
def test_live_algorithms_equal_the_truth_and_train_on(case: Path) -> None:
    verdict = corpus.judge(case, corpus.by_ckptstore)
    why = REFUSED.get(case.name)
    if why == NEEDS_TENSORFLOW and find_spec("tensorflow") is not None:
        why = None
    if why is not None:
        assert verdict.word == "refused"
        assert why in verdict.lines[0]
    else:
        assert verdict == ("equal", [])


def test_every_era_with_algorithms_on_torch_is_tried() -> None:
    versions = {Checkpoint.open(case / "checkpoint").version for case in GOLDEN}
    assert versions == {"1.0", "1.1", "1.2", "2.0", "2.1"}


def two_of_five(**more: Any) -> Any:
    return rllib.from_checkpoint(
        MULTI5,
        config={"env": corpus.multi_cartpole(2), "env_config": {"num_agents": 2}},
        policy_ids={"pol0", "pol1"},
        policy_mapping_fn=lambda agent_id, episode, worker, **kwargs: f"pol{agent_id % 2}",
        **more,
    )


def test_two_of_five_policies_go_on_with_a_new_mapping() -> None:
    algo = two_of_five(policies_to_train=["pol0"])
    try:
        before = weights(algo, "old", "pol0"), weights(algo, "old", "pol1")
        for policy_id, found in zip(("pol0", "pol1"), before, strict=True):
            equal(Checkpoint.open(MULTI5).weights(policy_id), found)
        assert algo.get_policy("pol2") is None
        algo.train()
        after = weights(algo, "old", "pol0"), weights(algo, "old", "pol1")
        assert any(not np.array_equal(after[0][name], before[0][name]) for name in after[0])
        equal(before[1], after[1])
    finally:
        algo.stop()


def test_policies_to_train_of_the_checkpoint_hold_for_those_that_are_left() -> None:
    algo = two_of_five()
    try:
        assert algo.config.policies_to_train == ["pol0", "pol1"]
    finally:
        algo.stop()


def test_an_unknown_policy_is_an_error_that_lists_the_known() -> None:
    for call in (rllib.from_checkpoint, rllib.policy_from_checkpoint):
        with pytest.raises(CheckpointNotFound, match=r"'nope'.*'pol0', 'pol1', 'pol2', 'pol3', 'pol4'"):
            call(MULTI5, policy_ids=["pol0", "nope"])


def test_code_in_a_checkpoint_is_asked_for_by_name() -> None:
    with pytest.raises(InvalidRequest, match="policy_mapping_fn="):
        rllib.from_checkpoint(MULTI5)
    with pytest.raises(InvalidRequest, match=r'config=\{"env": \.\.\.\}'):
        rllib.from_checkpoint(MULTI5, policy_mapping_fn=lambda *args, **kwargs: "pol0")


def test_trusted_code_is_used_on_the_python_that_wrote_it(tmp_path: Path) -> None:
    config = training.ppo("old")
    config.environment(corpus.multi_cartpole(2), env_config={"num_agents": 2})
    config.multi_agent(
        policies={"a", "b"},
        policy_mapping_fn=lambda agent_id, episode, worker=None, **kwargs: "ab"[agent_id % 2],
        policies_to_train=lambda policy_id, batch=None: policy_id == "b",
    )
    algo = config.build_algo()
    ckpt = rllib.save(algo, tmp_path / "store", step=1)
    algo.stop()
    with pytest.raises(InvalidRequest, match="isn't run"):
        rllib.from_checkpoint(ckpt)
    again = rllib.from_checkpoint(ckpt, trusted=True)
    try:
        assert [again.env_runner.policy_mapping_fn(agent, None) for agent in range(3)] == ["a", "b", "a"]
        before = {name: weights(again, "old", name) for name in "ab"}
        again.train()
        equal(before["a"], weights(again, "old", "a"))
        assert any(
            not np.array_equal(value, before["b"][name]) for name, value in weights(again, "old", "b").items()
        )
    finally:
        again.stop()


def test_trusted_code_of_an_unknown_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file says which Python"):
        rllib.from_checkpoint(MULTI5, trusted=True)
    # Staged later: the manifest tells the Python that staged it, not the one that wrote it.
    store = CheckpointStore(tmp_path / "store")
    with store.stage(2) as path:
        shutil.copytree(MULTI5, path, dirs_exist_ok=True)
    with pytest.raises(InvalidRequest, match="no file says which Python"):
        rllib.from_checkpoint(store.get(2), trusted=True)
    with store.stage(3) as path:
        shutil.copytree(MULTI5, path, dirs_exist_ok=True)
        (Path(path) / "ckptstore_writer.json").write_text('{"python": "3.8.18"}')
    with pytest.raises(InvalidRequest, match=r"Python 3\.8 wrote it"):
        rllib.from_checkpoint(store.get(3), trusted=True)


def test_an_environment_named_in_a_checkpoint_is_not_imported_and_called(tmp_path: Path) -> None:
    # RLlib would call it with env_config as its arguments.
    proof = tmp_path / "proof"
    state = {
        "algorithm_class": "ray.rllib.algorithms.ppo.ppo.PPO",
        "config": {"env": "subprocess.Popen", "env_config": {"args": ["touch", str(proof)]}},
        "worker": {"policy_ids": ["default_policy"], "filters": {}},
        "counters": {},
    }
    policies = {"default_policy": {"weights": {"w": np.zeros(1, "f4")}}}
    ckpt = CheckpointStore(tmp_path / "store").save(1, state, policies)
    with pytest.raises(InvalidRequest, match=r"subprocess\.Popen"):
        rllib.from_checkpoint(ckpt)
    assert not proof.exists()


def test_only_the_policies_asked_for_are_read(tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint_000002"
    shutil.copytree(MULTI5, copy)
    for policy_id in ("pol2", "pol3", "pol4"):
        (copy / "policies" / policy_id / "policy_state.pkl").write_bytes(b"damaged")
    found = rllib.policy_from_checkpoint(copy, policy_ids={"pol0", "pol1"})
    assert sorted(found) == ["pol0", "pol1"]


@pytest.mark.parametrize("stack", ["old", "new"])
def test_what_is_saved_comes_back_and_plain_ray_opens_it_too(stack: str, tmp_path: Path) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm

    store = CheckpointStore(tmp_path / "store")
    algo = training.ppo(stack).build_algo()
    algo.train()
    ckpt = rllib.save(algo, store, metrics={"score": 1.0})
    assert (ckpt.step, ckpt.kind, ckpt.metrics["score"]) == (1, "Algorithm", 1.0)
    assert ckpt.version == {"old": "1.1", "new": "2.1"}[stack]
    assert rllib.save(algo, store).id != ckpt.id  # the same step again, as Ray does
    ours = rllib.from_checkpoint(tmp_path / "store")
    with store.get(1).as_directory() as path:
        theirs = Algorithm.from_checkpoint(str(path))
    for other in (ours, theirs):
        assert other.iteration == 1
        equal(weights(algo, stack), weights(other, stack))
    assert rllib.report(ours).dropped == {}
    for item in (algo, ours, theirs):
        item.train()
        item.stop()


def weights(algo: Any, stack: str, policy_id: str = "default_policy") -> dict[str, Any]:
    if stack == "old":
        found = algo.get_policy(policy_id).get_weights()
    else:
        found = algo.learner_group.get_weights()[policy_id]
    return {name: np.array(value) for name, value in found.items()}  # RLlib's are views of the live ones


def equal(one: dict[str, Any], other: dict[str, Any], within: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=0, atol=within, err_msg=name)


@pytest.mark.parametrize("stack", ["old", "new"])
def test_restoring_takes_an_algorithm_back_that_has_trained_further(stack: str, tmp_path: Path) -> None:
    algo = training.ppo(stack).build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path / "store")
    then = weights(algo, stack)
    runner = algo.env_runner
    algo.train()
    algo.train()
    told = rllib.restore(algo, ckpt)
    assert algo.iteration == 1
    assert told.dropped == {}
    assert rllib.report(algo) is told
    equal(then, weights(algo, stack))
    if stack == "new":
        # The env runner too, which passes over weights that it thinks it has.
        live = {name: value.detach().numpy() for name, value in runner.module.state_dict().items()}
        equal({name: then[name] for name in live}, live)
    algo.train()
    assert algo.iteration == 2
    algo.stop()


@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_new_process_goes_on_exactly_where_the_old_one_was(stack: str, tmp_path: Path) -> None:
    algo = training.ppo(stack).build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path / "store")
    uninterrupted = training.update(algo, stack)
    algo.stop()
    result = tmp_path / "result.npz"
    command = [sys.executable, "-W", "ignore", "-m", "tests.integrations.rllib.training"]
    done = subprocess.run(
        [*command, ckpt.url, stack, str(result)],
        cwd=DATA.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(result) as archive:
        resumed = dict(archive)
    equal(uninterrupted, resumed, within=1e-6)
    before = ckpt.weights()
    assert any(np.abs(uninterrupted[name] - before[name]).max() > 1e-5 for name in before)


def test_policies_by_themselves_act() -> None:
    policies = rllib.policy_from_checkpoint(MULTI5)
    assert sorted(policies) == [f"pol{number}" for number in range(5)]
    truth = json.loads((MULTI5.parent / "expected.json").read_text())
    action, _, extra = policies["pol3"].compute_single_action(
        np.array(truth["probe_obs"], "f4"), explore=False
    )
    logits = extra["action_dist_inputs"]
    np.testing.assert_allclose(logits, truth["probe_logits"]["pol3"], rtol=0, atol=corpus.LOGITS)
    assert action == int(np.argmax(logits))


def test_a_policy_is_exported_by_itself_and_comes_back(tmp_path: Path) -> None:
    policy = rllib.policy_from_checkpoint(MULTI5)["pol1"]
    ckpt = rllib.export_policy(policy, tmp_path / "store")
    assert (ckpt.kind, ckpt.step) == ("Policy", policy.global_timestep)
    again = rllib.policy_from_checkpoint(tmp_path / "store")
    equal(dict(policy.get_weights()), dict(again.get_weights()))
    obs = np.zeros(4, "f4")
    assert (
        again.compute_single_action(obs, explore=False)[0]
        == policy.compute_single_action(obs, explore=False)[0]
    )


def test_modules_of_the_new_stack_act(tmp_path: Path) -> None:
    import torch

    algo = training.ppo("new").build_algo()
    ckpt = rllib.save(algo, tmp_path / "store")
    obs = {"obs": torch.zeros(1, 4)}
    expected = algo.get_module().forward_inference(obs)["action_dist_inputs"]
    module = rllib.policy_from_checkpoint(ckpt)["default_policy"]
    np.testing.assert_allclose(
        module.forward_inference(obs)["action_dist_inputs"].detach(), expected.detach(), atol=1e-6
    )
    alone = rllib.export_policy(training.learner_of(algo).module["default_policy"], tmp_path / "module")
    assert alone.kind == "RLModule"
    again = rllib.policy_from_checkpoint(alone)
    np.testing.assert_allclose(
        again.forward_inference(obs)["action_dist_inputs"].detach(), expected.detach(), atol=1e-6
    )
    algo.stop()


def test_what_is_not_carried_is_reported_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ckptstore"):
        algo = rllib.from_checkpoint(DATA / "v2_0" / "ray_2.40.0_ppo" / "checkpoint")
    try:
        told = rllib.report(algo)
        assert "metrics" in told.dropped
        assert told.written_by == "2.40.0"
        assert any("train_batch_size_per_learner" in line for line in told.renamed)
        logged = [item for item in caplog.records if "but not: " in item.getMessage()]
        assert len(logged) == 1
        assert all(name in logged[0].getMessage() for name in told.dropped)
    finally:
        algo.stop()


def test_a_network_of_another_shape_is_refused_and_nothing_is_set() -> None:
    config = training.ppo("old")
    algo = config.build_algo()
    before = weights(algo, "old")
    with pytest.raises(UnreadableFormat, match="another network"):
        rllib.restore(algo, DATA / "v1_1" / "ray_2.10.0_filter" / "checkpoint")
    equal(before, weights(algo, "old"))
    algo.stop()


def test_a_config_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    algo = training.ppo("old").build_algo()
    ckpt = rllib.save(algo, tmp_path / "store")
    algo.stop()
    again = rllib.from_checkpoint(ckpt, config=training.ppo("old", gamma=0.5))
    assert again.config.gamma == 0.5
    equal(weights(algo, "old"), weights(again, "old"))
    again.stop()
    overridden = rllib.from_checkpoint(ckpt, config={"gamma": 0.25})
    assert overridden.config.gamma == 0.25
    overridden.stop()
    with pytest.raises(InvalidRequest, match="gama"):
        rllib.from_checkpoint(ckpt, config={"gama": 0.25})


@pytest.mark.parametrize(
    "name", ["v1_0/ray_2.1.0_tune", "v1_1/ray_2.38.0_trainable_only", "v1_1/ray_2.4.0_dqn_buffer"]
)
def test_an_old_checkpoint_goes_on_on_the_new_stack(name: str) -> None:
    import torch

    ckpt = Checkpoint.open(DATA / name / "checkpoint")
    several: dict[str, Any] = {}
    if len(ckpt.policy_ids) > 1:
        count = len(ckpt.policy_ids)
        several["config"] = {"env": corpus.multi_cartpole(count), "env_config": {"num_agents": count}}
        several["policy_mapping_fn"] = corpus.mapping(ckpt.policy_ids)
    algo = rllib.from_checkpoint(ckpt, api_stack="new", **several)
    try:
        report = rllib.report(algo)
        assert (report.api_stack, report.converted) == ("new", True)
        assert algo.config.enable_env_runner_and_connector_v2
        assert algo.iteration == json.loads((DATA / name / "expected.json").read_text())["iteration"]
        assert "optimizer" in report.carried
        obs = np.random.default_rng(0).uniform(-1, 1, (64, 4)).astype("f4")
        for policy_id, policy in rllib.policy_from_checkpoint(ckpt).items():
            found = algo.get_module(policy_id).forward_inference({"obs": torch.as_tensor(obs)})
            actions, _, extra = policy.compute_actions(obs, explore=False)
            if "action_dist_inputs" in found:
                logits = found["action_dist_inputs"].detach().numpy()
                np.testing.assert_allclose(logits, extra["action_dist_inputs"], atol=corpus.LOGITS)
                kl = training.learner_of(algo).curr_kl_coeffs_per_module[policy_id]
                assert float(kl) == pytest.approx(ckpt.policies[policy_id]["kl_coeff"])
            else:
                np.testing.assert_array_equal(found["actions"], actions)
        algo.train()
    finally:
        algo.stop()


def test_what_the_new_stack_computes_otherwise_is_refused() -> None:
    with pytest.raises(UnreadableFormat, match="another network"):
        rllib.from_checkpoint(DATA / "v1_1" / "ray_2.60.0_sac" / "checkpoint", api_stack="new")


def test_filtered_observations_are_not_taken_to_the_new_stack() -> None:
    with pytest.raises(UnreadableFormat, match="MeanStdFilter"):
        rllib.from_checkpoint(DATA / "v1_1" / "ray_2.10.0_filter" / "checkpoint", api_stack="new")


@pytest.mark.slow
def test_the_larger_corpus_beside_rays_own_reader(capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.environ.get("CKPTSTORE_CORPUS")
    if not folder:
        pytest.skip("CKPTSTORE_CORPUS names no folder of further checkpoints")
    with capsys.disabled():
        assert corpus.table([folder]) == 0


def test_targets_of_appo_have_their_names_of_today() -> None:
    case = DATA / "v1_2/ray_2.12.0_hybrid_appo"
    with np.load(case / "expected.npz") as archive:
        truth = {name.rpartition("/")[2]: archive[name] for name in archive.files if "weights/" in name}
    algo = rllib.from_checkpoint(case / "checkpoint")
    try:
        live = weights(algo, "new")
        assert {name.removeprefix("_") for name in live} >= truth.keys()
        for name, value in truth.items():
            np.testing.assert_array_equal(live[f"_{name}" if name.startswith("old_") else name], value)
        assert "optimizer" in rllib.report(algo).carried
        assert algo.iteration == json.loads((case / "live.json").read_text())["iteration"]
        algo.train()
    finally:
        algo.stop()


def test_a_policy_that_wraps_a_module_is_that_module() -> None:
    import torch

    for name in ("v1_2/ray_2.12.0_hybrid_relu", "v1_2/ray_2.8.0_hybrid"):
        case = DATA / name / "checkpoint"
        place = case if (case / "policies").is_dir() else next(case.iterdir())
        stored = Checkpoint.open(place)
        for policy_id, module in rllib.policy_from_checkpoint(place).items():
            equal(
                dict(stored.weights(policy_id)),
                {key: module.get_state()[key] for key in stored.weights(policy_id)},
            )
            size = stored.policies[policy_id]["observation_space"]["shape"]
            module.forward_inference({"obs": torch.zeros(1, *size)})
            if "relu" in name:
                assert "ReLU" in str(module)


def test_critics_that_ray_builds_otherwise_start_anew_if_that_is_asked_for() -> None:
    place = DATA / "v2_1/ray_2.44.1_sac/checkpoint"
    with pytest.raises(UnreadableFormat, match="partial=True"):
        rllib.from_checkpoint(place)
    ckpt = Checkpoint.open(place)
    algo = rllib.from_checkpoint(place, partial=True)
    try:
        stored, live = ckpt.weights(), weights(algo, "new")
        acting = [name for name in stored if name.startswith(("pi.", "pi_encoder."))]
        assert len(acting) > 4
        for name in acting:
            np.testing.assert_array_equal(live[name], stored[name])
        dropped = rllib.report(algo).dropped
        critics = {name.partition(".")[0] for name in live} - {"pi", "pi_encoder"}
        assert {name.rpartition("/")[2] for name in dropped if name.startswith("weights/")} >= critics
        assert {"optimizer/default_policy/qf", "optimizer/default_policy/qf_twin"} <= dropped.keys()
        every = algo.learner_group.get_state()["learner"]["optimizer"]
        moments = every["default_policy_policy"]["state"]["state"]
        before = ckpt.policies["default_policy"]["optimizer"]["policy"]["state"]
        assert moments.keys() == before.keys() != set()
        np.testing.assert_allclose(moments[0]["exp_avg"], before[0]["exp_avg"])
        assert algo.iteration == ckpt.state["iteration"]
        algo.train()
        rllib.restore(algo, place, partial=True)
        np.testing.assert_array_equal(weights(algo, "new")[acting[0]], stored[acting[0]])
    finally:
        algo.stop()


def test_a_policy_of_another_shape_is_refused_even_in_part(tmp_path: Path) -> None:
    algo = training.ppo("new").build_algo()
    ckpt = rllib.save(algo, tmp_path, step=0)
    algo.stop()
    other = training.ppo("new").rl_module(model_config={"fcnet_hiddens": [9]})
    with pytest.raises(UnreadableFormat, match="another network"):
        rllib.from_checkpoint(ckpt, config=other, partial=True)


@pytest.mark.parametrize("stack", ["old", "new"])
def test_policies_of_nested_spaces_act(stack: str, tmp_path: Path) -> None:
    import gymnasium.spaces as made
    import torch
    from ray import tune

    action_space = made.Tuple([made.Discrete(2), made.MultiDiscrete([3, 2])])
    observed = {"a": made.Box(-1, 1, (3,), np.float32), "b": made.Discrete(2), "c": made.MultiBinary(2)}
    space = made.Dict(observed) if stack == "old" else observed["a"]
    tune.register_env("my_nested", lambda config: corpus.make_noise(space, action_space))
    config = training.ppo(stack).environment("my_nested")
    if stack == "old":
        config.env_runners(observation_filter="NoFilter")
    algo = config.build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path)
    algo.stop()
    policy = rllib.policy_from_checkpoint(ckpt)["default_policy"]
    if stack == "old":
        equal(dict(ckpt.weights()), dict(policy.get_weights()))
        obs = np.zeros(policy.observation_space.shape, "f4")
        assert action_space.contains(policy.compute_single_action(obs, explore=False)[0])
    else:
        out = policy.forward_inference({"obs": torch.zeros(1, 3)})
        assert out["action_dist_inputs"].shape == (1, 2 + 3 + 2)
