"""Trains tiny algorithms of RLlib with many options and keeps their truth. Run by a Python with Ray.

    python make_more.py <folder> [name]...

Runs on releases from 2.6 to 2.60. Makes ``<folder>/<release>/<case>/`` with ``checkpoint/``,
``expected.npz`` and ``expected.json``, as ``tests.rllib_formats.corpus`` reads them; what a release doesn't
have is said. ``python -m tests.compat.table`` and ``python -m tests.integrations.rllib.corpus`` look at them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import ray
import torch
from ray import tune
from ray.rllib.env.multi_agent_env import make_multi_agent

FLAT, FEW = gym.spaces.Box(-1.0, 1.0, (4,), np.float32), gym.spaces.Discrete(3)
MOVE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PAIR = gym.spaces.MultiDiscrete([2, 3])
IMAGE = gym.spaces.Box(0.0, 1.0, (10, 10, 3), np.float32)
TUPLE = gym.spaces.Tuple([FEW, MOVE])
DICT = gym.spaces.Dict(far=gym.spaces.Box(-1.0, 1.0, (3,), np.float32), kind=gym.spaces.Discrete(4))
NONE: dict[str, Any] = {}
SMALL: dict[str, Any] = {"fcnet_hiddens": [9, 7], "fcnet_activation": "relu", "vf_share_layers": False}
LSTM: dict[str, Any] = {**SMALL, "use_lstm": True, "lstm_cell_size": 5, "max_seq_len": 4}
CONV: dict[str, Any] = {"conv_filters": [[4, [5, 5], 2], [6, [5, 5], 2]], "conv_activation": "elu"}
FILTER = {"observation_filter": "MeanStdFilter"}


class Case(NamedTuple):
    """One algorithm; `stack` is old, hybrid or new."""

    algorithm: str
    stack: str
    obs: Any = FLAT
    action: Any = FEW
    model: dict[str, Any] = SMALL
    settings: dict[str, Any] = NONE
    how: str = "save"
    agents: int = 1


CASES = {
    "ppo_lstm_reward": Case("PPO", "old", model={**LSTM, "lstm_use_prev_reward": True}),
    "ppo_free_std_elu": Case(
        "PPO", "old", action=MOVE, model={**SMALL, "fcnet_activation": "elu", "free_log_std": True}
    ),
    "ppo_shared_swish": Case(
        "PPO", "old", model={**SMALL, "fcnet_activation": "swish", "vf_share_layers": True}, settings=FILTER
    ),
    "ppo_no_hiddens": Case("PPO", "old", model={**SMALL, "fcnet_hiddens": []}),
    "ppo_pair": Case("PPO", "old", action=PAIR, settings={"kl_coeff": 0.5, "entropy_coeff": 0.01}),
    "ppo_dict_obs": Case("PPO", "old", obs=DICT, action=TUPLE),
    "ppo_discrete_obs": Case("PPO", "old", obs=gym.spaces.Discrete(6)),
    "ppo_conv_elu": Case("PPO", "old", obs=IMAGE, model={**CONV, "vf_share_layers": True}),
    "ppo_two": Case("PPO", "old", agents=2, settings=FILTER),
    "ppo_policy": Case("PPO", "old", model={**SMALL, "vf_share_layers": True}, how="policy"),
    "ppo_msgpack": Case("PPO", "old", action=MOVE, how="msgpack"),
    "impala_linear": Case("IMPALA", "old", model={**SMALL, "fcnet_activation": "linear"}),
    "impala_lstm": Case("IMPALA", "old", action=MOVE, model={**LSTM, "vf_share_layers": True}),
    "appo_kl": Case("APPO", "old", action=MOVE, settings={"use_kl_loss": True}),
    "sac_deep": Case("SAC", "old", action=MOVE, settings={"twin_q": False, "tau": 0.1}),
    "sac_discrete": Case("SAC", "old", settings={"initial_alpha": 0.5, "n_step": 2}),
    "dqn_atoms_noisy": Case(
        "DQN", "old", settings={"num_atoms": 5, "v_min": -3.0, "v_max": 7.0, "noisy": True, "hiddens": [8]}
    ),
    "dqn_plain": Case(
        "DQN", "old", settings={"dueling": False, "double_q": False, "n_step": 3, "hiddens": [8, 6]}
    ),
    "dqn_two": Case("DQN", "old", agents=2, settings={"hiddens": [8]}),
    "marwil": Case("MARWIL", "old", action=MOVE, settings={"beta": 0.5}),
    "a2c": Case("A2C", "old", model={**SMALL, "vf_share_layers": True}),
    "pg": Case("PG", "old", action=MOVE),
    "simple_q": Case("SimpleQ", "old"),
    "td3": Case("TD3", "old", action=MOVE),
    "hybrid_ppo_free": Case("PPO", "hybrid", action=MOVE, model={**SMALL, "free_log_std": True}),
    "hybrid_ppo_shared": Case(
        "PPO", "hybrid", model={**SMALL, "vf_share_layers": True, "fcnet_activation": "silu"}
    ),
    "hybrid_ppo_two": Case("PPO", "hybrid", agents=2),
    "hybrid_impala": Case("IMPALA", "hybrid", model={**SMALL, "vf_share_layers": True}),
    "hybrid_appo": Case("APPO", "hybrid"),
    "new_ppo_lstm": Case("PPO", "new", action=MOVE, model=LSTM),
    "new_ppo_free": Case("PPO", "new", action=MOVE, model={**SMALL, "free_log_std": True}),
    "new_ppo_silu_shared": Case(
        "PPO", "new", model={**SMALL, "vf_share_layers": True, "fcnet_activation": "silu"}
    ),
    "new_ppo_head": Case(
        "PPO", "new", model={**SMALL, "head_fcnet_hiddens": [6], "head_fcnet_activation": "elu"}
    ),
    "new_ppo_pair": Case("PPO", "new", action=PAIR, settings={"use_kl_loss": False}),
    "new_ppo_two": Case("PPO", "new", agents=2),
    "new_ppo_layernorm": Case("PPO", "new", model={**SMALL, "fcnet_use_layernorm": True}),
    "new_ppo_clip": Case("PPO", "new", action=MOVE, model={**SMALL, "log_std_clip_param": 0.001}),
    "new_ppo_zero_bias": Case(
        "PPO", "new", model={**SMALL, "fcnet_bias_initializer": "zeros_", "fcnet_hiddens": [6]}
    ),
    "new_ppo_conv": Case("PPO", "new", obs=IMAGE, model={**CONV, "head_fcnet_hiddens": [5]}),
    "new_dqn_layernorm": Case("DQN", "new", model={**SMALL, "fcnet_use_layernorm": True}),
    "new_dqn_atoms": Case(
        "DQN", "new", settings={"num_atoms": 5, "v_min": -3.0, "v_max": 7.0, "dueling": True}
    ),
    "new_sac_layernorm": Case("SAC", "new", action=MOVE, model={**SMALL, "fcnet_use_layernorm": True}),
    "new_appo_shared": Case("APPO", "new", model={**SMALL, "vf_share_layers": True}),
    "new_impala_lstm": Case("IMPALA", "new", model={**LSTM, "vf_share_layers": True}),
    "new_sac": Case("SAC", "new", action=MOVE, settings={"initial_alpha": 0.5}),
    "new_sac_discrete": Case("SAC", "new"),
    "new_dqn_dueling": Case("DQN", "new", settings={"dueling": True, "double_q": False}),
    "new_dqn_plain": Case("DQN", "new", settings={"dueling": False, "n_step": 2}),
    "new_dqn_two": Case("DQN", "new", agents=2),
}
TRAINING: dict[str, Any] = {
    "sgd_minibatch_size": 16,
    "minibatch_size": 16,
    "num_sgd_iter": 1,
    "num_epochs": 1,
    "num_steps_sampled_before_learning_starts": 20,
}
REPLAYING = ("DQN", "SAC", "SimpleQ", "TD3")


class Noise(gym.Env):  # type: ignore[misc, unused-ignore]
    """Ten steps of noise in any spaces."""

    def __init__(self, obs: Any, action: Any) -> None:
        self.observation_space, self.action_space, self.steps = obs, action, 0

    def reset(self, **options: Any) -> Any:
        """Begin."""
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        """One more."""
        self.steps += 1
        return self.observation_space.sample(), float(self.steps % 3), self.steps > 9, False, {}


def choose(config: Any, case: Case) -> None:
    """The stack, by the words of this release."""
    learner, runner = case.stack != "old", case.stack == "new"
    if "enable_env_runner_and_connector_v2" in vars(config):
        config.api_stack(enable_rl_module_and_learner=learner, enable_env_runner_and_connector_v2=runner)
    elif runner:
        raise LookupError("it has no new stack")
    elif "_enable_new_api_stack" in vars(config):
        config.experimental(_enable_new_api_stack=learner)
    elif "_enable_rl_module_api" in vars(config):
        config.rl_module(_enable_rl_module_api=learner).training(_enable_learner_api=learner)
    elif learner:
        raise LookupError("it has no learners")
    words = inspect.signature(config.rl_module).parameters if hasattr(config, "rl_module") else {}
    word = next((word for word in ("model_config", "model_config_dict") if word in words), None)
    if learner and word:
        config.rl_module(**{word: case.model})
    elif case.algorithm == "SAC":
        config.training(q_model_config=case.model, policy_model_config={**case.model, "fcnet_hiddens": [8]})
    elif case.algorithm == "TD3":
        config.training(actor_hiddens=[9], critic_hiddens=[8])
    else:
        config.training(model=case.model)


def which(agent_id: Any, *args: Any, **kwargs: Any) -> str:
    """The policy of an agent."""
    return f"p{agent_id}"


def build(name: str, case: Case) -> Any:
    """The algorithm, not trained yet."""
    home = importlib.import_module(f"ray.rllib.algorithms.{case.algorithm.lower().replace('eq', 'e_q')}")
    names = {found.lower(): found for found in vars(home)}
    config = getattr(home, names[f"{case.algorithm.lower()}config"])()
    choose(config, case)
    if case.agents > 1:
        tune.register_env(f"my_{name}", lambda context: make_multi_agent("CartPole-v1")({"num_agents": 2}))
        config.multi_agent(policies={"p0", "p1"}, policy_mapping_fn=which)
    else:
        obs, action = case.obs, case.action
        tune.register_env(f"my_{name}", lambda context: Noise(obs, action))
    given = {key: value for key, value in TRAINING.items() if key in vars(config)}
    if "minibatch_size" in given:
        given.pop("sgd_minibatch_size", None)
        given.pop("num_sgd_iter", None)
    size = 16 if case.algorithm in REPLAYING else 64
    given["train_batch_size"] = size
    if (
        case.stack == "new"
        and "train_batch_size_per_learner" in inspect.signature(config.training).parameters
    ):
        given["train_batch_size_per_learner"] = size
    config.training(**given, **{k: v for k, v in case.settings.items() if k != "observation_filter"})
    config.environment(f"my_{name}").framework("torch").debugging(seed=3, log_level="ERROR")
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=60)
    if "replay_buffer_config" in vars(config):
        buffer = {} if case.stack == "new" else {"type": "MultiAgentPrioritizedReplayBuffer"}
        config.training(replay_buffer_config={"capacity": 200, **buffer})
    filtered = {k: v for k, v in case.settings.items() if k == "observation_filter"}
    if hasattr(config, "env_runners"):
        config.env_runners(num_env_runners=0, **filtered)
    else:
        config.rollouts(num_rollout_workers=0, **filtered)
    if case.algorithm in ("IMPALA", "APPO"):
        (config.env_runners if hasattr(config, "env_runners") else config.rollouts)(
            rollout_fragment_length=16
        )
    config.resources(num_gpus=0)
    if "num_learners" in vars(config):
        config.learners(num_learners=0)
    elif "num_learner_workers" in vars(config):
        config.resources(num_learner_workers=0)
    return config.build_algo() if hasattr(config, "build_algo") else config.build()


def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every number below `value` with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{prefix}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flat(item, f"{prefix}/{index}")
    elif value is not None:
        yield prefix, np.array(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


def zeros(state: Any) -> Any:
    """An initial state for one observation."""
    if isinstance(state, dict):
        return {key: zeros(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [zeros(value) for value in state]
    return torch.as_tensor(state)[None]


def new_logits(module: Any, obs: Any) -> Any:
    """Of a module of the learner API; Q values of DQN."""
    batch: dict[str, Any] = {"obs": torch.from_numpy(obs)}
    if module.is_stateful():
        batch = {"obs": batch["obs"][:, None], "state_in": zeros(module.get_initial_state())}
    if hasattr(module, "compute_q_values") and hasattr(module, "af"):
        return module.compute_q_values(batch)["qf_preds"]
    found = module.forward_inference(batch)["action_dist_inputs"]
    return found[:, 0] if module.is_stateful() else found


def old_logits(policy: Any, algorithm: str, obs: Any) -> Any:
    """Inputs of the distribution, or Q values."""
    model, batch = policy.model, {"obs": torch.from_numpy(obs)}
    model.eval()
    lengths = torch.ones(len(obs), dtype=torch.int32)
    if algorithm == "DQN":
        from ray.rllib.algorithms.dqn.dqn_torch_policy import compute_q_values
        from ray.rllib.policy.sample_batch import SampleBatch

        return compute_q_values(policy, model, SampleBatch(batch), explore=False, is_training=False)[0]
    state = zeros(policy.get_initial_state())
    batch["prev_rewards"] = torch.zeros(len(obs))
    out, _ = model(batch, state, lengths)
    return model.get_action_model_outputs(out)[0] if algorithm == "SAC" else out


def look(algo: Any, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """The live algorithm's arrays and numbers."""
    arrays: dict[str, Any] = {}
    ids = ["p0", "p1"] if case.agents > 1 else ["default_policy"]
    told: dict[str, Any] = {"policy_ids": ids, "probe_obs": {}, "probe_logits": {}, "global_timestep": {}}
    if case.stack == "new":
        told["counters"] = {}
        learner = algo.learner_group.get_state()["learner"]
        for name, item in learner["optimizer"].items():
            state = item if "param_groups" in item else item["state"]
            arrays.update(flat(state, f"optim/{name}"))
        module_of = algo.learner_group._learner.module.__getitem__
    else:
        told["counters"] = {key: float(value) for key, value in dict(algo._counters).items()}
        learner, module_of = {}, None
    told["iteration"] = algo.iteration
    for policy_id in ids:
        if case.stack == "new":
            arrays.update(flat(learner["rl_module"][policy_id], f"weights/{policy_id}"))
            space, module = module_of(policy_id).observation_space, module_of(policy_id)
        else:
            policy = algo.get_policy(policy_id)
            arrays.update(flat(dict(policy.get_weights()), f"weights/{policy_id}"))
            state = policy.get_state()
            told["global_timestep"][policy_id] = int(state["global_timestep"])
            if case.stack == "old":
                arrays.update(flat(state["_optimizer_variables"], f"optim/{policy_id}"))
            space, module = policy.observation_space, policy.model
        obs = np.random.default_rng(5).uniform(-1, 1, (1, *space.shape)).astype(np.float32)
        with torch.no_grad():
            try:
                if case.stack == "old":
                    found = old_logits(policy, case.algorithm, obs)
                else:
                    found = new_logits(module, obs)
            except Exception as error:  # noqa: BLE001 - a case without outputs is worth keeping
                told["probe_logits"][policy_id] = f"{type(error).__name__}: {error}"
                continue
        told["probe_obs"][policy_id] = obs[0].tolist()
        told["probe_logits"][policy_id] = np.asarray(found)[0].tolist()
    return arrays, told


def save(algo: Any, case: Case, place: Path) -> None:
    """As this release does it."""
    if case.how == "policy":
        algo.get_policy().export_checkpoint(str(place))
        return
    with tempfile.TemporaryDirectory() as scratch:
        algo.save(scratch)
        inside = sorted(Path(scratch).glob("checkpoint_*"))
        source = inside[0] if inside else Path(scratch)
        if case.how == "msgpack":
            home = importlib.import_module("ray.rllib.utils.checkpoints")
            place.mkdir()
            home.convert_to_msgpack_checkpoint(str(source), str(place))
        else:
            shutil.copytree(source, place)


def make(name: str, case: Case, folder: Path) -> None:
    """Build, train once, save, look."""
    shutil.rmtree(folder, ignore_errors=True)
    algo = build(name, case)
    algo.train()
    if thread := getattr(algo, "_learner_thread", None):
        thread.stopped = True  # else it trains on between saving and looking
        thread.join()
    folder.mkdir(parents=True)
    save(algo, case, folder / "checkpoint")
    arrays, told = look(algo, case)
    np.savez_compressed(folder / "expected.npz", **arrays)
    told.update(case=name, ray_version=ray.__version__, config_framework="torch", api_stack=case.stack)
    (folder / "expected.json").write_text(json.dumps(told, indent=1))
    algo.stop()


def main(folder: Path, names: list[str]) -> None:
    """All of them, or the named ones."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    for name, case in CASES.items():
        if names and name not in names:
            continue
        place = folder / ray.__version__ / name
        try:
            make(name, case, place)
            print(f"made {ray.__version__}/{name}", flush=True)
        except Exception as error:  # noqa: BLE001 - says what this release doesn't have
            shutil.rmtree(place, ignore_errors=True)
            print(f"no {ray.__version__}/{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
