"""Stable-Baselines3, killed and resumed. `make trainers` brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore, InvalidRequest
from tests.integrations.trainers.lives import check_lives

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 isn't installed: `make trainers` has it")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

PROGRAM = """
import gymnasium
from ckptstore import CheckpointStore
from ckptstore.integrations.stable_baselines3 import CheckpointCallback
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
import numpy as np, torch

url, kind, stateful = sys.argv[1], sys.argv[2], sys.argv[3] == "stateful"
store = CheckpointStore(url, storage_options=OPTIONS)

class Resumable(gymnasium.Wrapper):
    def state_dict(self):
        return {"state": self.unwrapped.state, "rng": self.np_random.bit_generator.state,
                "steps": self.env._elapsed_steps,
                "beyond": getattr(self.unwrapped, "steps_beyond_terminated", None)}
    def load_state_dict(self, state):
        self.reset()
        self.unwrapped.state, self.np_random.bit_generator.state = state["state"], state["rng"]
        self.env._elapsed_steps = state["steps"]
        self.unwrapped.steps_beyond_terminated = state["beyond"]

def make():
    env = gymnasium.make("Pendulum-v1" if kind in ("SAC", "TD3") else "CartPole-v1", disable_env_checker=True)
    return Resumable(env) if stateful else env

class Say(BaseCallback):
    def _on_step(self):
        return True
    def _on_rollout_start(self):
        model = self.model
        if model.num_timesteps % 16:
            return
        norm = model.get_vec_normalize_env()
        say(model.num_timesteps, model.policy.state_dict(),
            [each.state_dict() for each in (getattr(model, "critic", model.policy).optimizer,)],
            model._last_obs if stateful else 0, [norm.obs_rms.mean, norm.obs_rms.var, norm.ret_rms.var],
            model._n_updates)
    _on_training_end = _on_rollout_start

env = VecNormalize(DummyVecEnv([make, make]))
if kind == "PPO":
    env = VecFrameStack(env, 2)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=2, seed=None)
elif kind == "DQN":
    model = DQN("MlpPolicy", env, learning_starts=20, buffer_size=200, batch_size=8,
        target_update_interval=30)
else:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.1)) if kind == "TD3" else None
    model = (TD3 if kind == "TD3" else SAC)("MlpPolicy", env, learning_starts=20, buffer_size=200,
        batch_size=8, action_noise=noise, policy_kwargs={"net_arch": [16]})
if store.latest() is None:  # the runs to compare begin alike; one that goes on does not
    torch.manual_seed(5)
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if hasattr(model, "critic_target"):
        model.critic_target.load_state_dict(model.critic.state_dict())
    model.set_random_seed(3)
callback = CheckpointCallback(store, every=int(sys.argv[4]), keep=2)
model.learn(int(sys.argv[5]), callback=[callback, Say()])
"""


@pytest.mark.parametrize(
    ("kind", "every", "total", "kills"), [("PPO", 64, 640, (5, 4)), ("SAC", 40, 320, (9, 7))]
)
def test_it_goes_on_bit_for_bit(
    bucket: tuple[str, dict[str, Any]],
    tmp_path: Path,
    kind: str,
    every: int,
    total: int,
    kills: tuple[int, ...],
) -> None:
    url, options = bucket
    begun = check_lives(PROGRAM, url, options, tmp_path, kind, "stateful", every, total, kills=kills)
    store = CheckpointStore(f"{url}/killed", storage_options=options)
    assert len(store.checkpoints()) == 3  # the last two, and what the last life went on from
    assert all(report.ok for report in store.verify())
    print(f"{kind} went on at {begun}")


@pytest.mark.parametrize(("kind", "every", "total"), [("DQN", 40, 320), ("TD3", 40, 320)])
def test_others_go_on_too(tmp_path: Path, kind: str, every: int, total: int) -> None:
    check_lives(PROGRAM, str(tmp_path / "s"), None, tmp_path, kind, "stateful", every, total, kills=(9,))


def make_model(store: CheckpointStore, width: int = 16, size: int = 100, **options: Any) -> tuple[Any, Any]:
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from ckptstore.integrations.stable_baselines3 import CheckpointCallback

    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2))
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [width]}, buffer_size=size, learning_starts=10,
                batch_size=4, verbose=0)  # fmt: skip
    return model, CheckpointCallback(store, every=20, **options)


def test_an_environment_that_can_not_be_saved_begins_anew(tmp_path: Path) -> None:
    import numpy as np

    store = CheckpointStore(tmp_path)
    first, callback = make_model(store)
    first.learn(60, callback=callback)
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [20, 40, 60]
    second, callback = make_model(store)
    with_state = second.get_parameters()["policy"]
    second.learn(60, callback=callback)  # there is nothing to do but to resume
    assert second.num_timesteps == 60
    assert second._n_updates == first._n_updates
    assert second.replay_buffer.pos == first.replay_buffer.pos == 30
    for name in ("observations", "actions", "rewards"):
        assert np.array_equal(getattr(second.replay_buffer, name), getattr(first.replay_buffer, name))
    assert np.array_equal(
        second.get_vec_normalize_env().obs_rms.var, first.get_vec_normalize_env().obs_rms.var
    )
    assert not np.array_equal(second._last_obs, first._last_obs)  # it begins new episodes
    for name, value in first.get_parameters()["policy"].items():
        assert second.get_parameters()["policy"][name].equal(value)
    assert with_state
    second.learn(60, callback=callback, reset_num_timesteps=False)  # the same model goes on, from where it is
    assert store.latest().step == 120  # type: ignore[union-attr]


@pytest.mark.parametrize(("width", "size", "why"), [(8, 100, "size mismatch"), (16, 50, "replay buffer")])
def test_another_model_is_refused_and_as_it_was(tmp_path: Path, width: int, size: int, why: str) -> None:
    import copy
    import signal

    store = CheckpointStore(tmp_path)
    model, callback = make_model(store)
    model.learn(20, callback=callback)
    other, callback = make_model(store, width, size)
    before = copy.deepcopy(other.get_parameters())
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InvalidRequest, match=why):
        other.learn(40, callback=callback)
    callback.close()
    assert signal.getsignal(signal.SIGTERM) == handler
    for name, value in before["policy"].items():
        assert other.get_parameters()["policy"][name].equal(value)
    assert not other.replay_buffer.observations.any()
    fresh, callback = make_model(store, width, size, resume=False)
    fresh.learn(20, callback=callback)
    assert fresh.num_timesteps == 20


def test_it_opens_without_running_code(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    model, callback = make_model(store, replay_buffer=False)
    model.learn(40, callback=callback)
    checkpoint = store.latest()
    assert checkpoint is not None
    assert checkpoint.state["sb3"]["buffer"] is None
    assert checkpoint.metrics == {}  # no episode has ended
    kernel = checkpoint.state["sb3"]["parameters"]["policy"]["actor.mu.weight"]
    assert kernel.tolist() == model.actor.mu.weight.tolist()
