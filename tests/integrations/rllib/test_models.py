"""Networks of live policies as files, against what Ray's own models compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.integrations import rllib
from tests.export.truth import DATA, run_onnx, run_torchscript
from tests.integrations.rllib import training

pytestmark = pytest.mark.usefixtures("needs_ray")


def model_of(policy: Any, obs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    """Logits and new states of an old policy's own model."""
    import torch

    with torch.no_grad():
        batch = {"obs": torch.from_numpy(obs), "obs_flat": torch.from_numpy(obs)}
        lengths = torch.ones(len(obs), dtype=torch.int32)
        logits, after = policy.model(batch, [torch.from_numpy(state) for state in states], lengths)
    return logits.numpy(), [state.numpy() for state in after]


def built(**model: Any) -> Any:
    """A policy of the old stack, of random weights."""
    algo = training.ppo("old", observation_filter="NoFilter").training(model=model).build_algo()
    policy = algo.get_policy()
    algo.stop()
    return policy


@pytest.mark.parametrize("model", [{"fcnet_hiddens": [16, 8]}, {"use_lstm": True, "lstm_cell_size": 8}])
def test_onnx_of_an_old_policy(model: dict[str, Any], tmp_path: Path) -> None:
    policy = built(**model)
    made = rllib.export_model(policy, tmp_path / "models", onnx=15)
    obs = np.random.default_rng(1).standard_normal((5, 4)).astype("f4")
    states = [np.zeros((5, 8), "f4")] * 2 if "use_lstm" in model else []
    with made.as_directory() as path:
        assert sorted(os.listdir(path)) == ["_ckptstore", "model.onnx"]
        for _ in range(3):  # an LSTM's states go round
            given = dict(zip(("state_in_h", "state_in_c"), states, strict=False))
            found = run_onnx(Path(path, "model.onnx"), {"obs": obs, **given})
            logits, states = model_of(policy, obs, states)
            assert np.abs(found["action_dist_inputs"] - logits).max() < 1e-6
    with pytest.raises(InvalidRequest, match="13 to 21"):
        rllib.export_model(policy, tmp_path / "models", onnx=1, step=7)
    assert [ckpt.step for ckpt in CheckpointStore(tmp_path / "models").checkpoints()] == [made.step]


def test_what_rllib_exports_itself(tmp_path: Path) -> None:
    import torch

    policy = built(fcnet_hiddens=[8])
    made = rllib.export_model(policy, tmp_path / "models", step=3)
    obs = np.random.default_rng(1).standard_normal((5, 4)).astype("f4")
    with made.as_directory() as path:
        loaded = torch.load(Path(path, "model.pt"), weights_only=False)
    logits, _ = loaded({"obs": torch.from_numpy(obs), "obs_flat": torch.from_numpy(obs)})
    np.testing.assert_array_equal(logits.detach().numpy(), model_of(policy, obs, [])[0])
    assert made.step == 3


def test_a_model_that_rllib_cannot_export_is_not_committed(tmp_path: Path, monkeypatch: Any) -> None:
    policy = built(fcnet_hiddens=[8])
    policy.model.forget = lambda: None  # which no pickle takes
    with pytest.raises(UnreadableFormat, match="RLlib can't export"):
        rllib.export_model(policy, tmp_path / "models")
    assert CheckpointStore(tmp_path / "models").checkpoints() == []


def spaces(image: bool, actions: str) -> tuple[Any, Any]:
    import gymnasium.spaces as gym

    obs = gym.Box(-1, 1, (42, 42, 2) if image else (6,), np.float32)
    return obs, gym.Discrete(3) if actions == "discrete" else gym.Box(-1, 1, (2,), np.float32)


MODULES: dict[str, tuple[str, bool, str, dict[str, Any]]] = {
    "shared": ("PPO", False, "discrete", {"fcnet_hiddens": [8, 8], "vf_share_layers": True}),
    "apart": (
        "PPO",
        False,
        "box",
        {"fcnet_hiddens": [8], "vf_share_layers": False, "fcnet_activation": "elu"},
    ),
    "heads": ("PPO", False, "box", {"head_fcnet_hiddens": [8], "head_fcnet_activation": "silu"}),
    "free": ("PPO", False, "box", {"free_log_std": True, "fcnet_activation": "linear"}),
    "images": ("PPO", True, "discrete", {"conv_filters": [[4, 4, 2], [8, [3, 5], [2, 3], "valid"]]}),
    "lstm": ("PPO", False, "box", {"use_lstm": True, "lstm_cell_size": 8, "vf_share_layers": True}),
    "two lstms": (
        "PPO",
        False,
        "discrete",
        {"use_lstm": True, "lstm_cell_size": 8, "vf_share_layers": False},
    ),
    "lstm on images": (
        "PPO",
        True,
        "discrete",
        {
            "conv_filters": [[4, 4, 4], [8, 4, 4]],
            "use_lstm": True,
            "lstm_cell_size": 8,
            "vf_share_layers": True,
        },
    ),
    "dqn": ("DQN", False, "discrete", {"fcnet_hiddens": [8], "head_fcnet_hiddens": [8]}),
    "sac": ("SAC", False, "box", {"fcnet_hiddens": [8]}),
    "discrete sac": ("SAC", False, "discrete", {"fcnet_hiddens": [8]}),
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_of_the_new_stack(kind: str, tmp_path: Path) -> None:
    import torch
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.algorithms.sac import SACConfig

    algorithm, image, actions, settings = MODULES[kind]
    config = {"DQN": DQNConfig, "PPO": PPOConfig, "SAC": SACConfig}[algorithm]()
    config.api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
    spec = config.get_default_rl_module_spec()
    spec.observation_space, spec.action_space = spaces(image, actions)
    spec.model_config = {**config.model_config, **settings}
    torch.manual_seed(3)
    module = spec.build()
    if hasattr(module, "make_target_networks"):
        module.make_target_networks()
    obs = np.random.default_rng(1).standard_normal((5, *spec.observation_space.shape)).astype("f4")
    onnx, script = (
        rllib.export_model(module, tmp_path / str(kind), onnx, step=1)
        for kind, onnx in enumerate((True, None))
    )
    batch: dict[str, Any] = {"obs": torch.from_numpy(obs)}
    states = module.get_initial_state() if settings.get("use_lstm") else {}
    batch["state_in"] = {
        role: {part: torch.zeros(5, *value.shape) for part, value in inner.items()}
        if isinstance(inner, dict)
        else torch.zeros(5, *inner.shape)
        for role, inner in states.items()
    }
    with onnx.as_directory() as first, script.as_directory() as second:
        for _ in range(3):
            given = {"obs": obs, **flat(batch["state_in"])}
            found = [
                run_onnx(Path(first, "model.onnx"), given),
                run_torchscript(Path(second, "model.pt"), given),
            ]
            with torch.no_grad():
                if states:
                    batch["obs"] = torch.from_numpy(obs)[:, None]
                made = (
                    module.compute_q_values(batch) if algorithm == "DQN" else module.forward_inference(batch)
                )
            for one in found:
                name = next(iter(one))
                truth = made[name].numpy()
                assert np.abs(one[name] - (truth[:, 0] if states else truth)).max() < 1e-5
            batch["state_in"] = made.get("state_out", {})


def flat(states: Any, prefix: str = "state_in") -> dict[str, Any]:
    """Under the names that files have: without what RLlib's layers are told by."""
    found: dict[str, Any] = {}
    for role, value in states.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}_{role}")
        else:
            found[f"{prefix}_{role}"] = value[:, 0].numpy() if value.ndim == 3 else value.numpy()
    return found


def test_a_filter_of_a_live_policy_is_inside(tmp_path: Path) -> None:
    algo = training.ppo("old").build_algo()
    algo.train()
    policy = algo.get_policy()
    saved = rllib.save(algo, tmp_path / "runs")
    made = rllib.export_model(policy, tmp_path / "models", onnx=True)
    saved.export(tmp_path / "stored.onnx")
    obs = np.random.default_rng(1).standard_normal((5, 4)).astype("f4")
    filtered = np.stack([algo.env_runner.filters["default_policy"](row, update=False) for row in obs])
    algo.stop()
    assert np.abs(filtered - obs).max() > 0.1
    truth, _ = model_of(policy, filtered.astype("f4"), [])
    with made.as_directory() as path:
        for file in (Path(path, "model.onnx"), tmp_path / "stored.onnx"):
            found = run_onnx(file, {"obs": obs})["action_dist_inputs"]
            assert np.abs(found - truth).max() < 1e-6


def test_an_old_sac_from_the_collection(tmp_path: Path) -> None:
    old = Checkpoint.open(DATA / "v1_1/ray_2.60.0_sac/checkpoint")
    policy = rllib.policy_from_checkpoint(old)["default_policy"]
    old.export(tmp_path / "sac.onnx")
    old.export(tmp_path / "sac.pt")
    import torch

    obs = np.random.default_rng(1).standard_normal((50, 3)).astype("f4")
    with torch.no_grad():
        tensor = torch.from_numpy(obs)
        out, _ = policy.model({"obs": tensor, "obs_flat": tensor}, [], None)
        truth = policy.model.get_action_model_outputs(out)[0].numpy()
    for found in (
        run_onnx(tmp_path / "sac.onnx", {"obs": obs}),
        run_torchscript(tmp_path / "sac.pt", {"obs": obs}),
    ):
        assert np.abs(found["action_dist_inputs"] - truth).max() < 1e-6


def test_files_that_rllib_exported_travel_with_the_checkpoint(tmp_path: Path) -> None:
    import torch

    algo = training.ppo("old", export_native_model_files=True).build_algo()
    saved = rllib.save(algo, tmp_path / "runs")
    policy = algo.get_policy()
    algo.stop()
    [path] = [path for path in saved.listing() if path.endswith("model/model.pt")]
    data = saved.read(path)
    other = CheckpointStore(tmp_path / "other")
    CheckpointStore(tmp_path / "runs").copy_to(other)
    copied = other.latest()
    assert copied is not None
    assert copied.read(path) == data
    with copied.as_directory(policy_ids=["default_policy"]) as directory:
        loaded = torch.load(Path(directory, path), weights_only=False)
    obs = torch.ones(2, 4)
    logits, _ = loaded({"obs": obs, "obs_flat": obs})
    np.testing.assert_array_equal(logits.detach().numpy(), model_of(policy, obs.numpy(), [])[0])
    again = rllib.from_checkpoint(copied)
    again.stop()


def test_a_filter_among_connectors_is_the_first_step(tmp_path: Path) -> None:
    import torch
    from ray.rllib.connectors.env_to_module import MeanStdFilter

    config = training.ppo("new")
    config.env_runners(env_to_module_connector=lambda *args, **kwargs: MeanStdFilter())
    algo = config.build_algo()
    algo.train()
    saved = rllib.save(algo, tmp_path / "runs")
    connector = algo.env_runner._env_to_module.connectors[0]
    obs = np.random.default_rng(3).standard_normal((9, 4)).astype("f4")
    filtered = np.stack([connector._filters[None](item, update=False) for item in obs]).astype("f4")
    module = training.learner_of(algo).module["default_policy"]
    truth = (
        module.forward_inference({"obs": torch.from_numpy(filtered)})["action_dist_inputs"].detach().numpy()
    )
    algo.stop()
    saved.export(tmp_path / "x.onnx")
    found = run_onnx(tmp_path / "x.onnx", {"obs": obs})["action_dist_inputs"]
    assert np.abs(found - truth).max() < 1e-5


@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_policy_that_computes_otherwise_than_it_says_is_refused(stack: str, tmp_path: Path) -> None:
    """The file and what checks it come from the config; the live policy has the last word."""
    store = CheckpointStore(tmp_path / "models")
    algo = training.ppo(stack).build_algo()
    try:
        policy = algo.get_policy() if stack == "old" else training.learner_of(algo).module["default_policy"]
        rllib.export_model(policy, store, onnx=True)
        if stack == "old":
            policy.config["model"]["fcnet_activation"] = "relu"
        else:
            policy._ctor_kwargs = None
            policy.model_config["fcnet_activation"] = "relu"
        with pytest.raises(UnreadableFormat, match="doesn't compute what the weights do"):
            rllib.export_model(policy, store, onnx=True, step=1)
    finally:
        algo.stop()
    assert [ckpt.step for ckpt in store.checkpoints()] == [0]


def test_a_file_for_torch_of_a_module_is_compared_with_the_module(tmp_path: Path) -> None:
    algo = training.ppo("new").build_algo()
    module = training.learner_of(algo).module["default_policy"]
    asked = []
    forward = module.forward_inference

    def listen(batch: Any) -> Any:
        asked.append(batch)
        return forward(batch)

    module.forward_inference = listen
    rllib.export_model(module, tmp_path / "models")
    algo.stop()
    assert [len(batch["obs"]) for batch in asked] == [1, 7, 64]
