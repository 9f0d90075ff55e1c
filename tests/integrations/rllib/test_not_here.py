"""What the installed Ray or this process doesn't have is named, with what works without it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.integrations import rllib
from tests.integrations.rllib import corpus, training
from tests.integrations.rllib.test_restore import equal, weights

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(300)]

NET = {"fc1.weight": np.arange(7, dtype="f4")}
# What Ray 2.x has taken out, with the state of a policy as it wrote it.
GONE: dict[str, dict[str, Any]] = {
    "QMix": {"model": NET, "target_model": NET, "mixer": NET, "target_mixer": NET, "cur_epsilon": 0.5},
    "DDPG": {"weights": NET, "global_timestep": 3},
    "BanditLinUCB": {"weights": NET, "global_timestep": 3},
    "A3C": {"weights": NET, "global_timestep": 3},
}


def written(root: Path, algorithm: str, policy: dict[str, Any]) -> Checkpoint:
    """An algorithm as Ray 2.1 to 2.3 wrote it."""
    place = root / "policies" / "default_policy"
    place.mkdir(parents=True)
    worker = {"policy_ids": ["default_policy"], "filters": {}}
    kind = f"ray.rllib.algorithms.{algorithm.lower()}.{algorithm}"
    state = {"algorithm_class": kind, "config": {}, "worker": worker, "counters": {}}
    (root / "algorithm_state.pkl").write_bytes(pickle.dumps(state))
    info = {"type": "Algorithm", "checkpoint_version": "1.0", "ray_version": "2.2.0"}
    (root / "rllib_checkpoint.json").write_text(json.dumps(info))
    (place / "policy_state.pkl").write_bytes(pickle.dumps(policy))
    return Checkpoint.open(root)


@pytest.mark.parametrize("algorithm", GONE)
def test_an_algorithm_that_ray_has_no_more(algorithm: str, tmp_path: Path) -> None:
    """The error says what works all the same, and it does."""
    ckpt = written(tmp_path / "old", algorithm, GONE[algorithm])
    with pytest.raises(UnreadableFormat, match=rf"'{algorithm}'\. load\(\), weights\(\) and migrate\(\)"):
        rllib.from_checkpoint(ckpt)
    assert all(np.array_equal(value, NET["fc1.weight"]) for value in ckpt.weights().values())
    assert ckpt.load().policies.keys() == {"default_policy"}
    migrated = ckpt.migrate(tmp_path / "new", to="1.1").checkpoint
    assert migrated is not None
    equal(ckpt.weights(), migrated.weights())
    built = training.ppo("old").build_algo()  # some other algorithm
    before = weights(built, "old")
    with pytest.raises(UnreadableFormat):
        rllib.restore(built, ckpt)
    equal(before, weights(built, "old"))
    built.stop()


@pytest.mark.parametrize("kind", ["old", "new", "several"])
def test_an_environment_that_is_not_registered(kind: str, tmp_path: Path) -> None:
    """Ray and gymnasium have errors of their own for it, which name no argument."""
    import gymnasium
    from ray import tune

    stack = "old" if kind == "old" else "new"
    there, name = f"here_{kind}_{os.getpid()}", f"elsewhere_{kind}"
    make = corpus.multi_cartpole(2) if kind == "several" else lambda _: gymnasium.make("CartPole-v1")
    tune.register_env(there, make)
    config = training.ppo(stack).environment(there, env_config={"num_agents": 2} if kind == "several" else {})
    if kind == "several":
        config.multi_agent(policies={"a", "b"}, policy_mapping_fn=corpus.mapping(("a", "b")))
    algo = config.build_algo()
    algo.config._is_frozen = False
    algo.config.env = name  # as in the process that wrote it
    ckpt = rllib.save(algo, tmp_path / "store")
    algo.stop()
    more: dict[str, Any] = {"policy_mapping_fn": corpus.mapping(("a", "b"))} if kind == "several" else {}
    with pytest.raises(InvalidRequest, match=rf"{name}.*register_env.*config=\{{\"env\""):
        rllib.from_checkpoint(ckpt, **more)
    rllib.from_checkpoint(ckpt, config={"env": there}, **more).stop()
    tune.register_env(name, make)
    rllib.from_checkpoint(ckpt, **more).stop()


def marked() -> Any:
    """A connector of an algorithm's own, which its config puts in unasked, as DreamerV3's does."""
    from ray.rllib.connectors.connector_v2 import ConnectorV2

    class Marked(ConnectorV2):  # type: ignore[misc, unused-ignore]
        def __call__(self, *, batch: Any, **more: Any) -> Any:
            return batch

    Marked.__module__ = "ray.rllib.algorithms.ppo.ppo"
    Marked.__qualname__ = "Marked"
    return Marked


def test_a_connector_that_the_algorithm_puts_in_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither asked for, nor left out in silence by a Ray that doesn't."""
    from ray.rllib.algorithms.ppo import PPOConfig, ppo

    kind, build = marked(), PPOConfig.build_env_to_module_connector

    def with_mark(self: Any, env: Any = None, spaces: Any = None, device: Any = None) -> Any:
        pipeline = build(self, env, spaces, device)
        pipeline.prepend(kind())
        return pipeline

    with monkeypatch.context() as patched:
        patched.setattr(ppo, "Marked", kind, raising=False)
        patched.setattr(PPOConfig, "build_env_to_module_connector", with_mark)
        algo = training.ppo("new").build_algo()
        ckpt = rllib.save(algo, CheckpointStore(tmp_path))
        algo.stop()
        again = rllib.from_checkpoint(ckpt)
        assert [type(each) for each in again.env_runner._env_to_module.connectors].count(kind) == 1
        again.train()
        again.stop()
    with pytest.raises(InvalidRequest, match=r"through ray\.rllib\.\S+\.Marked, .*env_to_module_connector"):
        rllib.from_checkpoint(ckpt)
    plain = training.ppo("new").build_algo()
    with pytest.raises(InvalidRequest, match="Marked"):
        rllib.restore(plain, ckpt)
    plain.stop()
    given = rllib.from_checkpoint(ckpt, config={"env_to_module_connector": lambda *args, **more: kind()})
    given.train()
    given.stop()


UNBUILDABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    # numpy's numbers of today's spaces, in layers that count with them
    "previous action": ("old", {"model": {"use_lstm": True, "lstm_use_prev_action": True}}, "TypeError"),
    "no hidden layers": ("new", {"_model_config": {"fcnet_hiddens": []}}, "IndexError"),
    "no layers under an LSTM": (
        "new",
        {"_model_config": {"fcnet_hiddens": [], "use_lstm": True}},
        "IndexError",
    ),
    "a number for layers": ("new", {"_model_config": {"fcnet_hiddens": 8}}, "TypeError"),
}


@pytest.mark.parametrize("kind", UNBUILDABLE)
def test_a_network_that_the_installed_ray_cannot_build(kind: str, tmp_path: Path) -> None:
    """Older releases could, or the user asked for it: not by an error of Ray's or torch's own."""
    stack, config, said = UNBUILDABLE[kind]
    algo = training.ppo(stack).build_algo()
    ckpt = rllib.save(algo, tmp_path / "store")
    algo.stop()
    with pytest.raises(UnreadableFormat, match=f"can't build its network: {said}") as caught:
        rllib.from_checkpoint(ckpt, config=config)
    assert type(caught.value.__cause__).__name__ == said


def test_an_error_of_a_users_model_is_the_users(tmp_path: Path) -> None:
    from ray.rllib.models import ModelCatalog
    from ray.rllib.models.torch.fcnet import FullyConnectedNetwork

    class Broken(FullyConnectedNetwork):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise TypeError("mine")

    ModelCatalog.register_custom_model("broken_net", Broken)
    algo = training.ppo("old").build_algo()
    ckpt = rllib.save(algo, tmp_path / "store")
    algo.stop()
    with pytest.raises(TypeError, match="mine"):
        rllib.from_checkpoint(ckpt, config={"model": {"custom_model": "broken_net"}})
