"""Make a case for `tests.rllib_formats.corpus` with whatever Ray runs it: a checkpoint and its truth.

    <python with ray> tests/rllib_formats/make_case.py <new directory> --algo PPO [--stack old|learner|new]
        [--framework torch|tf|tf2] [--env CartPole-v1|random:<space>] [--policies "red,blue"]
        [--train red] [--set '{"lr": 0.001}'] [--msgpack] [--part module|modules|learner|policy]

Runs on Python 3.8 and Ray 1.0 as on the newest, so it imports nothing of this project. Numbers come from the
live algorithm and never from the files it wrote.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import platform
import sys
import warnings
from typing import Any

import numpy as np

NEW_STACK = {"old": False, "learner": True, "new": True}


def module(*names: str) -> Any:
    """The first of several places a module was moved between."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            last = error
    raise last


def spaces() -> dict[str, tuple[Any, Any]]:
    """Observation and action spaces for environments of noise."""
    from ray.rllib.env import multi_agent_env

    s = multi_agent_env.gym.spaces if hasattr(multi_agent_env, "gym") else module("gymnasium", "gym").spaces
    box, few = s.Box(-1.0, 1.0, (3,), np.float32), s.Discrete(3)
    return {
        "dict": (s.Dict({"b": box, "a": s.Dict({"n": few, "m": s.MultiBinary(4)})}), few),
        "tuple": (s.Tuple((box, few)), s.Tuple((few, s.Box(-2.0, 2.0, (2,), np.float32)))),
        "image": (s.Box(0, 255, (42, 42, 3), np.uint8), few),
        "multi": (s.MultiDiscrete([2, 3]), s.MultiDiscrete([3, 2])),
        "box": (box, s.Box(-1.0, 1.0, (2,), np.float32)),
        "start": (box, s.Discrete(4)),
    }


def environment(name: str, policies: list[str]) -> str:
    """A registered environment; with several policies one agent for each."""
    from ray.tune.registry import register_env

    if name.startswith("random:"):
        places = ("examples.envs.classes.random_env", "examples.env.random_env")
        random_env = module(*(f"ray.rllib.{place}" for place in places))
        observation, action = spaces()[name.partition(":")[2]]
        settings = {"observation_space": observation, "action_space": action, "max_episode_len": 20}
        register_env("noise", lambda _: random_env.RandomEnv(settings))
        name = "noise"
    if policies:
        places = ("examples.envs.classes.multi_agent", "examples.env.multi_agent")
        multi = module(*(f"ray.rllib.{place}" for place in places))
        register_env("many", lambda _: multi.MultiAgentCartPole({"num_agents": len(policies)}))
        name = "many"
    return name


def configured(arguments: argparse.Namespace, trainable: Any, policies: list[str]) -> Any:
    """An algorithm, built."""
    settings = {
        "env": environment(arguments.env, policies),
        "framework": arguments.framework,
        "num_workers": 0,
        "seed": 7,
        **json.loads(arguments.set),
    }
    if policies:
        ids = list(policies)

        def mapping(agent_id: Any, *_: Any, **__: Any) -> str:
            return ids[int(agent_id) % len(ids)]

        settings["multiagent"] = {
            "policies": {name: (None, None, None, {}) for name in ids},
            "policy_mapping_fn": mapping,
            "policies_to_train": arguments.train.split(",") if arguments.train else None,
        }
    default: Any = trainable.get_default_config() if hasattr(trainable, "get_default_config") else None
    if not hasattr(default, "update_from_dict"):
        return trainable(config=settings)
    if policies and arguments.stack != "old":
        many = settings.pop("multiagent")
        many["policies"] = set(ids)
        default = default.multi_agent(**many)
    if hasattr(default, "num_env_runners"):
        settings["num_env_runners"] = settings.pop("num_workers")
    learners = "num_learners" if hasattr(default, "num_learners") else "num_learner_workers"
    for name in (learners, "min_time_s_per_iteration"):
        if name in vars(default):  # in this process, where the truth is at hand, and at once
            settings.setdefault(name, 0)
    default = stacked(default.update_from_dict(settings), arguments.stack)
    if arguments.msgpack and hasattr(default, "_use_msgpack_checkpoints"):
        default = default.experimental(_use_msgpack_checkpoints=True)
    return default.build_algo() if hasattr(default, "build_algo") else default.build()


def stacked(config: Any, stack: str) -> Any:
    """The API stack chosen, as the release at hand spells it."""
    new = NEW_STACK[stack]
    if hasattr(config, "api_stack"):
        runner = {"enable_env_runner_and_connector_v2": stack == "new"}
        return config.api_stack(enable_rl_module_and_learner=new, **runner)
    if hasattr(config, "_enable_new_api_stack"):
        return config.experimental(_enable_new_api_stack=new)
    if hasattr(config, "_enable_learner_api"):
        return config.training(_enable_learner_api=new).rl_module(_enable_rl_module_api=new)
    return config


def flat(value: Any, prefix: str, into: dict[str, Any]) -> None:
    """Every number and array below `value`, by its path."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, dict):
        for key, item in value.items():
            flat(item, f"{prefix}/{key}", into)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            flat(item, f"{prefix}/{index}", into)
    elif isinstance(value, (np.ndarray, np.generic, int, float)) and not isinstance(value, bool):
        into[prefix] = np.asarray(value)


def learner_of(algo: Any) -> Any:
    """The learner in this process; None on the old stack."""
    return getattr(getattr(algo, "learner_group", None), "_learner", None)


def truth(algo: Any) -> tuple[dict[str, Any], list[str], dict[str, int]]:
    """Arrays by path, the ids, and each policy's own timestep."""
    arrays: dict[str, Any] = {}
    steps: dict[str, int] = {}
    workers: Any = getattr(algo, "env_runner_group", None) or getattr(algo, "workers", None)
    local = getattr(workers, "local_env_runner", None) or workers.local_worker
    worker = local() if callable(local) else local
    learner = learner_of(algo)
    policies = dict(worker.policy_map.items()) if hasattr(worker, "policy_map") else {}
    for name, policy in policies.items():
        flat(policy.get_weights(), f"weights/{name}", arrays)
        steps[name] = int(policy.global_timestep)
        state = policy.get_state()
        flat((state if isinstance(state, dict) else {}).get("_optimizer_variables"), f"optim/{name}", arrays)
    if learner is not None:
        for name in learner.module.keys():  # noqa: SIM118 - it is no dict
            if name not in policies:
                flat(dict(learner.module[name].state_dict()), f"weights/{name}", arrays)
        for name, optimizer in getattr(learner, "_named_optimizers", {}).items():
            flat(optimizer.state_dict(), f"optim/{name}/state", arrays)
    return arrays, sorted(policies or learner.module.keys()), steps


def save(algo: Any, directory: str, part: str) -> None:
    """Write the checkpoint, or the part of it that was asked for."""
    pathlib.Path(directory).mkdir(parents=True)
    if part == "policy":
        algo.get_policy(next(iter(algo.config.policies))).export_checkpoint(directory)
    elif part:
        group = algo.learner_group
        inner = learner_of(algo).module
        only = next(iter(inner.keys()))
        {"learner": group, "modules": inner, "module": inner[only]}[part].save_to_path(directory)
    else:
        algo.save(directory)


def main() -> None:
    """Train twice, save, and write down what is true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--algo", default="PPO")
    parser.add_argument("--stack", choices=sorted(NEW_STACK), default="old")
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--policies", default="")
    parser.add_argument("--train", default="")
    parser.add_argument("--set", default="{}")
    parser.add_argument("--msgpack", action="store_true")
    parser.add_argument("--part", default="")
    parser.add_argument("--iterations", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import ray
    import ray.rllib
    from ray.tune.registry import get_trainable_cls

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    trainable = get_trainable_cls(arguments.algo)
    algo = configured(arguments, trainable, [name for name in arguments.policies.split(",") if name])
    for _ in range(arguments.iterations):
        algo.train()
    checkpoint = os.path.join(arguments.directory, "checkpoint")
    arrays, ids, steps = truth(algo)
    save(algo, checkpoint, arguments.part)
    if arguments.msgpack and arguments.stack != "new":
        packed = os.path.join(arguments.directory, "packed")
        tool = importlib.import_module("ray.rllib.utils.checkpoints")
        pathlib.Path(packed).mkdir()
        tool.convert_to_msgpack_checkpoint(checkpoint, packed)
    np.savez(os.path.join(arguments.directory, "expected.npz"), **arrays)
    expected = {
        "ray_version": ray.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "arguments": sys.argv[2:],
        "iteration": int(algo.iteration),
        "policy_ids": ids,
        "global_timestep": steps,
    }
    pathlib.Path(arguments.directory, "expected.json").write_text(json.dumps(expected, indent=1))
    print(f"{arguments.directory}: {len(arrays)} arrays, policies {ids}")
    ray.shutdown()


if __name__ == "__main__":
    main()
