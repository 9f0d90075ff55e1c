"""Save while Stable-Baselines3 trains, and resume: `docs/trainers/stable-baselines3.md`.

from ckptstore.integrations.stable_baselines3 import CheckpointCallback

model.learn(1_000_000, callback=CheckpointCallback("s3://bucket/runs/sac", every=10_000, keep=3))
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np

from ckptstore.checkpointer import Checkpointer
from ckptstore.format import names
from ckptstore.integrations._shared import find_base
from ckptstore.integrations.rng import GlobalRNG
from ckptstore.retention import Keep
from ckptstore.store import CheckpointStore

__all__ = ["AlgorithmState", "CheckpointCallback"]

_PROGRESS = (
    "num_timesteps", "_episode_num", "_n_updates", "_n_calls", "_current_progress_remaining",
    "exploration_rate",
)  # fmt: skip
_EPISODE = ("_last_obs", "_last_episode_starts", "_last_original_obs")
"""Of the episodes in progress: nothing to go on with where the environments have begun new ones."""
_HOLDERS = ("running_mean_std", "stacked_observations", "noise")
"""Modules of SB3 whose objects hold numbers for others."""


class CheckpointCallback(
    find_base("stable-baselines3", "stable_baselines3.common.callbacks", "BaseCallback")  # type: ignore[misc]
):
    """Saves everything that training goes on with, every so many steps, and resumes from it by itself.

    That is: networks, optimizers, counters, the replay buffer, the statistics of `VecNormalize`, action
    noise, and random generators; and the environments, if they have `state_dict` and `load_state_dict`, else
    they begin new episodes. `learn` takes the newest whole checkpoint in the store, if there is one, and
    goes on to its `total_timesteps`; hyperparameters are those of the new model. Nothing is unpickled.

    It saves between two rollouts, in the background. On SIGTERM it saves there, and the signal ends the
    process. The last step is saved when `learn` ends. A failure comes up at the next save or at the end.

    Args:
        store: where to, a `CheckpointStore` or its URL.
        every: how many steps of the environments there are at least between two saves.
        keep: what `CheckpointStore.prune` takes; None keeps everything.
        resume: whether to begin with what is in the store.
        replay_buffer: whether to save it.

    Raises:
        InvalidRequest: from `learn`, where the store holds another model's checkpoint; nothing is changed.
        ModuleNotFoundError: Stable-Baselines3 isn't installed.
    """

    def __init__(
        self,
        store: CheckpointStore | str | os.PathLike[str],
        *,
        every: int,
        keep: Keep | None = None,
        resume: bool = True,
        replay_buffer: bool = True,
    ) -> None:
        super().__init__()
        names.check_positive("every", every, "Pass a number of steps")
        self.store = store if isinstance(store, CheckpointStore) else CheckpointStore(store)
        self._every, self._keep, self._resume, self._buffer = every, keep, resume, replay_buffer
        self._run: Checkpointer | None = None

    def _init_callback(self) -> None:
        self.close()  # of a `learn` that raised
        state = AlgorithmState(self.model, replay_buffer=self._buffer)
        self._run = Checkpointer(self.store, {"sb3": state}, every=self._every, keep=self._keep)
        if self._resume:
            self._run.resume()
            self._resume = False  # another `learn` goes on with the model that it has

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        assert self._run is not None
        if self.model.num_timesteps > 0:
            self._run.step(self.model.num_timesteps, self._metrics())

    def _on_training_end(self) -> None:
        assert self._run is not None
        self._run.step(self.model.num_timesteps, self._metrics())
        self._run.close()
        self._run = None

    def close(self) -> None:
        """After a `learn` that raised: let what is in flight land, and give SIGTERM back."""
        if self._run is not None:
            self._run.__exit__(BaseException)
            self._run = None

    def _metrics(self) -> dict[str, float]:
        found = self.model.ep_info_buffer or ()
        if not found:
            return {}
        return {
            "rollout/ep_rew_mean": float(np.mean([each["r"] for each in found])),
            "rollout/ep_len_mean": float(np.mean([each["l"] for each in found])),
        }


class AlgorithmState:
    """All of a model of Stable-Baselines3 that training goes on with, as one object with a state dict.

    What `CheckpointCallback` saves; a `Checkpointer` of your own takes it, too.

    Example:
        >>> checkpoint.restore({"sb3": AlgorithmState(model)})
    """

    def __init__(self, model: Any, *, replay_buffer: bool = True) -> None:
        self._model = model
        self._buffer: Any = getattr(model, "replay_buffer", None) if replay_buffer else None
        self._wrappers: list[Any] = []
        env = model.env
        while hasattr(env, "venv"):
            self._wrappers.append(env)
            env = env.venv
        self._stateful = env is not None and env.has_attr("state_dict") and env.has_attr("load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        """Plain data, arrays and tensors; the arrays of the buffer are its own."""
        model = self._model
        held: tuple[str, ...] = _PROGRESS + (_EPISODE if self._stateful else ())
        return {
            "parameters": model.get_parameters(),
            "variables": {name: getattr(model, name).detach() for name in model._get_torch_save_params()[1]},
            "progress": {name: getattr(model, name) for name in held if hasattr(model, name)},
            "episodes": [list(model.ep_info_buffer or ()), list(model.ep_success_buffer or ())],
            "noise": _data_of(model.action_noise),
            "buffer": _data_of(self._buffer),
            "wrappers": [_data_of(each, whole=False) for each in self._wrappers],
            "environments": model.env.env_method("state_dict") if self._stateful else None,
            "actions": model.action_space.np_random,
            "rng": GlobalRNG().state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the model, its buffer and its environments to what `state_dict` gave.

        Raises ValueError for another kind of model, or a buffer of another size.
        """
        model = self._model
        if self._buffer is not None and state["buffer"] is not None:
            _fill(self._buffer, state["buffer"], "the replay buffer")
        model.set_parameters(state["parameters"], device=model.device)
        for name, value in state["variables"].items():
            getattr(model, name).data.copy_(value)
        resumed = self._stateful and state["environments"] is not None
        for name, value in state["progress"].items():
            if resumed or name not in _EPISODE:
                setattr(model, name, value)
        for name, found in zip(("ep_info_buffer", "ep_success_buffer"), state["episodes"], strict=True):
            setattr(model, name, deque(found, maxlen=model._stats_window_size))
        _fill(model.action_noise, state["noise"], "the action noise")
        for wrapper, data in zip(self._wrappers, state["wrappers"], strict=True):
            kept = data if resumed else {name: each for name, each in data.items() if isinstance(each, dict)}
            _fill(wrapper, kept, type(wrapper).__name__)
        if resumed:
            for number, each in enumerate(state["environments"]):
                model.env.env_method("load_state_dict", each, indices=number)
        elif hasattr(self._buffer, "truncate_last_trajectory"):
            self._buffer.truncate_last_trajectory()
        model.action_space.np_random.bit_generator.state = state["actions"].bit_generator.state
        GlobalRNG().load_state_dict(state["rng"])


def _is_holder(value: Any) -> bool:
    module = type(value).__module__
    return module.startswith("stable_baselines3.") and module.rpartition(".")[2] in _HOLDERS


def _is_data(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return all(map(_is_data, value.values() if isinstance(value, dict) else value))
    return _is_holder(value) or isinstance(value, (bool, int, float, np.ndarray, np.generic))


def _data(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _data(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_data(each) for each in value]
    return _data_of(value) if _is_holder(value) else value


def _data_of(target: Any, whole: bool = True) -> dict[str, Any] | None:
    """The fields of an object that are arrays and numbers; unless `whole`, without those that set it up."""
    if target is None:
        return None
    found = {name: _data(value) for name, value in vars(target).items() if _is_data(value)}
    return {name: each for name, each in found.items() if whole or isinstance(each, (dict, np.ndarray))}


def _fill(target: Any, data: dict[str, Any] | None, what: str) -> None:
    """Put `data` into the object's fields, arrays in place."""
    for name, value in (data or {}).items():
        setattr(target, name, _fill_value(vars(target).get(name), value, f"{name} of {what}"))


def _fill_value(held: Any, value: Any, what: str) -> Any:
    if isinstance(held, np.ndarray) and held.size and isinstance(value, np.ndarray):
        if held.shape != value.shape or held.dtype != value.dtype:
            raise ValueError(f"{what}: here {held.dtype} {held.shape}, there {value.dtype} {value.shape}")
        held[...] = value
        return held
    if _is_holder(held):
        _fill(held, value, what)
        return held
    if isinstance(held, dict) and isinstance(value, dict):
        return {name: _fill_value(held.get(name), each, f"{what}/{name}") for name, each in value.items()}
    if isinstance(held, list) and any(map(_is_holder, held)):
        return [_fill_value(mine, each, what) for mine, each in zip(held, value, strict=True)]
    return value
