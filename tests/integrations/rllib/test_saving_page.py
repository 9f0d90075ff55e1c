"""RLlib's page on saving and loading, block by block, with a store where the page has a path.

The old stack's page is the one on "algos and policies", the new stack's the one on checkpoints. What a block
asserts is asserted here; and what comes back computes the same for a thousand observations.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.integrations import rllib
from tests.export.truth import run_onnx, run_torchscript
from tests.integrations.rllib import corpus, training
from tests.servers import Server

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(600), pytest.mark.slow]

FRAMEWORK = os.environ.get("CKPTSTORE_RLLIB_FRAMEWORK", "torch")
"""Of the old stack: "tf2" and "tf" need TensorFlow, tf_keras and ``TF_USE_LEGACY_KERAS=1``."""
torch_only = pytest.mark.skipif(FRAMEWORK != "torch", reason="it is about torch")
TOLERANCE = 0 if FRAMEWORK == "torch" else 1e-6

CARTPOLE, PENDULUM = 4, 3
MODEL = "model/model.pt" if FRAMEWORK == "torch" else "model/saved_model.pb"


def observations(size: int) -> Any:
    return np.random.default_rng(5).standard_normal((1000, size)).astype("f4")


def outputs(policy: Any, size: int = CARTPOLE) -> dict[str, Any]:
    """What a policy or a module makes of a thousand observations."""
    if hasattr(policy, "compute_actions"):
        actions, _, more = policy.compute_actions(observations(size), explore=False)
        return {"actions": actions, **{name: more[name] for name in ("action_dist_inputs", "vf_preds")}}
    import torch

    with torch.no_grad():
        made = policy.forward_inference({"obs": torch.from_numpy(observations(size))})
    return {"action_dist_inputs": made["action_dist_inputs"].numpy()}


def assert_equal(found: dict[str, Any], truth: dict[str, Any]) -> None:
    assert found.keys() == truth.keys() != set()
    for name, value in truth.items():
        assert len(value) == 1000
        assert np.asarray(value).std() > 0, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)


def policy_of(algo: Any, policy_id: str = "default_policy") -> Any:
    """A policy of the old stack, a module of the new one."""
    if algo.config.enable_rl_module_and_learner:
        return training.learner_of(algo).module[policy_id]
    return algo.get_policy(policy_id)


def agents(count: int) -> dict[str, Any]:
    """The multi-agent CartPole, as the page's."""
    return {"env": corpus.multi_cartpole(count), "env_config": {"num_agents": count}}


def with_policies(config: Any, ids: list[str], trained: list[str] | None = None) -> Any:
    config.environment(**agents(len(ids)))
    return config.multi_agent(
        policies=set(ids),
        policy_mapping_fn=lambda agent_id, episode, *args, **kwargs: ids[int(agent_id)],
        policies_to_train=trained,
    )


def ppo(stack: str) -> Any:
    if stack == "new":
        return training.ppo(stack)
    return training.ppo(stack, observation_filter="NoFilter").framework(FRAMEWORK)


class Trained:
    """The algorithms of the page, each trained for one iteration when a block first needs it."""

    def __init__(self) -> None:
        self._algos: dict[tuple[str, str], Any] = {}

    def get(self, kind: str, stack: str) -> Any:
        if (kind, stack) not in self._algos:
            config = ppo(stack)
            if kind == "native":
                config.environment("Pendulum-v1").checkpointing(export_native_model_files=True)
            elif kind == "two":
                with_policies(config, ["pol1", "pol2"], ["pol1", "pol2"])
            elif kind == "five":
                with_policies(config, [f"pol{index}" for index in range(5)])
            algo = self._algos[kind, stack] = config.build_algo()
            algo.train()
        return self._algos[kind, stack]

    def stop(self) -> None:
        for algo in self._algos.values():
            algo.stop()


@pytest.fixture(scope="module")
def trained(needs_ray: None) -> Iterator[Trained]:
    made = Trained()
    yield made
    made.stop()


@pytest.fixture(params=["disk", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def new_store(
    request: pytest.FixtureRequest, start_server: Callable[[str], Server], tmp_path: Path
) -> Callable[[], CheckpointStore]:
    """Makes a store, on disk or in a bucket, that nothing was ever saved to."""
    if request.param == "disk":
        numbers = itertools.count()
        return lambda: CheckpointStore(tmp_path / f"store{next(numbers)}")
    server = start_server(request.param)
    return lambda: CheckpointStore(server.new_url(), storage_options=server.options)


def of_both_stacks(test: Any, *slow: Any) -> Any:
    stacks = ["old", pytest.param("new", marks=[torch_only, *slow])]
    return pytest.mark.parametrize("stack", stacks)(test)


def of_both_slowly(test: Any) -> Any:
    """The new stack's part is left to the long runs."""
    return of_both_stacks(test, pytest.mark.slow)


NewStore = Callable[[], CheckpointStore]

# Algorithm checkpoints.


@of_both_stacks
def test_save_and_from_checkpoint(stack: str, trained: Trained, new_store: NewStore) -> None:
    algo, store = trained.get("one", stack), new_store()
    saved = rllib.save(algo, store)
    files = set(saved.listing())
    home = "policies" if stack == "old" else "learner_group/learner/rl_module"
    state = "policy_state.pkl" if stack == "old" else "module_state.pkl"
    assert {"rllib_checkpoint.json", "algorithm_state.pkl", f"{home}/default_policy/{state}"} <= files
    assert saved.kind == "Algorithm"
    assert json.loads(saved.read("rllib_checkpoint.json"))["checkpoint_version"] == saved.version
    truth = outputs(policy_of(algo))
    again = rllib.from_checkpoint(store)
    try:
        assert again.config.env == "CartPole-v1"
        assert again.iteration == saved.step == 1
        assert_equal(outputs(policy_of(again)), truth)
        again.train()
        assert again.iteration == 2
    finally:
        again.stop()


@of_both_stacks
def test_restore_into_an_algorithm_of_the_same_config(
    stack: str, trained: Trained, new_store: NewStore
) -> None:
    algo, store = trained.get("one", stack), new_store()
    saved = rllib.save(algo, store)
    again = ppo(stack).build_algo()
    try:
        for source in (saved, store):
            rllib.restore(again, source)
            assert again.iteration == 1
            assert_equal(outputs(policy_of(again)), outputs(policy_of(algo)))
            again.train()
    finally:
        again.stop()


@of_both_slowly
def test_rllib_writes_and_reads_where_the_page_has_a_directory(
    stack: str, trained: Trained, new_store: NewStore
) -> None:
    """`save`, `save_checkpoint` and `save_to_path` take the path of a stage as it is."""
    from ray.rllib.algorithms.algorithm import Algorithm

    algo, store = trained.get("one", stack), new_store()
    ways = [algo.save, algo.save_checkpoint] + ([algo.save_to_path] if stack == "new" else [])
    for step, save in enumerate(ways, start=1):
        with store.stage(step) as path:
            save(path)
        assert store.get(step).kind == "Algorithm"
        assert store.get(step).verify().ok
    truth = outputs(policy_of(algo))
    with store.get(1).as_directory() as path:
        theirs = Algorithm.from_checkpoint(path)
    try:
        assert_equal(outputs(policy_of(theirs)), truth)
        if stack == "new":
            with store.get(3).as_directory() as path:
                theirs.restore_from_path(path)
            assert_equal(outputs(policy_of(theirs)), truth)
    finally:
        theirs.stop()
    ours = rllib.from_checkpoint(store.get(len(ways)))
    assert_equal(outputs(policy_of(ours)), truth)
    ours.stop()


def test_conversion_to_msgpack(trained: Trained, new_store: NewStore) -> None:
    pytest.importorskip("msgpack_numpy")  # the converter is RLlib's, and needs it
    from ray.rllib.utils.checkpoints import convert_to_msgpack_checkpoint

    algo, store = trained.get("one", "old"), new_store()
    saved = rllib.save(algo, store)
    try:
        with saved.as_directory() as path, store.stage(2) as converted:
            convert_to_msgpack_checkpoint(path, converted)
    except TypeError:  # Ray 2.60's own converter fails on a class in the state
        assert [ckpt.step for ckpt in store.checkpoints()] == [1]
        return
    again = rllib.from_checkpoint(store.get(2))
    assert_equal(outputs(policy_of(again)), outputs(policy_of(algo)))
    again.stop()


# Several policies.


@of_both_slowly
def test_an_algorithm_of_two_policies_is_made_again(
    stack: str, trained: Trained, new_store: NewStore
) -> None:
    """The page's environment and mapping are code: asked for, by names that work."""
    algo, store = trained.get("two", stack), new_store()
    saved = rllib.save(algo, store)
    assert saved.policy_ids == ("pol1", "pol2")
    with pytest.raises(InvalidRequest, match=r"Pass policy_mapping_fn=, or trusted=True"):
        rllib.from_checkpoint(store)
    for given in (
        {"trusted": True},
        {"config": agents(2), "policy_mapping_fn": corpus.mapping(("pol1", "pol2"))},
    ):
        clone = rllib.from_checkpoint(store, **given)
        try:
            for policy_id in ("pol1", "pol2"):
                assert_equal(outputs(policy_of(clone, policy_id)), outputs(policy_of(algo, policy_id)))
            assert sorted(clone.config.policies_to_train) == ["pol1", "pol2"]
            clone.train()
        finally:
            clone.stop()


@of_both_stacks
def test_a_subset_of_the_policies(stack: str, trained: Trained, new_store: NewStore) -> None:
    algo, store = trained.get("two", stack), new_store()
    rllib.save(algo, store)
    only = rllib.from_checkpoint(
        store,
        config=agents(2),
        policy_ids=["pol1"],
        policy_mapping_fn=lambda agent_id, episode, *args, **kwargs: "pol1",
        policies_to_train=["pol1"],
    )
    try:
        assert (only.get_policy if stack == "old" else only.get_module)("pol2") is None
        assert_equal(outputs(policy_of(only, "pol1")), outputs(policy_of(algo, "pol1")))
        only.train()
        assert only.iteration == 2
    finally:
        only.stop()


@of_both_slowly
def test_five_policies_become_two(stack: str, trained: Trained, new_store: NewStore) -> None:
    algo, store = trained.get("five", stack), new_store()
    saved = rllib.save(algo, store)
    assert len(saved.policy_ids) == 5

    def new_policy_mapping_fn(agent_id: Any, episode: Any, *args: Any, **kwargs: Any) -> str:
        return "pol0" if agent_id in (0, 1) else "pol1"

    two = rllib.from_checkpoint(
        store, config=agents(5), policy_ids={"pol0", "pol1"}, policy_mapping_fn=new_policy_mapping_fn
    )
    try:
        for policy_id in ("pol0", "pol1"):
            assert_equal(outputs(policy_of(two, policy_id)), outputs(policy_of(algo, policy_id)))
        two.train()
        assert two.iteration == 2
    finally:
        two.stop()


# Policies and modules by themselves.


@of_both_stacks
def test_a_policy_by_itself(stack: str, trained: Trained, new_store: NewStore) -> None:
    """Its own checkpoint, by `export_policy` and by RLlib into a stage, and the algorithm's."""
    algo, store, whole = trained.get("two", stack), new_store(), new_store()
    policy = policy_of(algo, "pol1")
    rllib.export_policy(policy, store)
    rllib.save(algo, whole)
    newest = store.latest()
    assert newest is not None
    with store.stage(newest.step + 1) as path:
        (policy.export_checkpoint if stack == "old" else policy.save_to_path)(path)
    truth = outputs(policy)
    for source in (newest, store):
        assert_equal(outputs(rllib.policy_from_checkpoint(source)), truth)
    found = rllib.policy_from_checkpoint(whole)
    assert found.keys() == {"pol1", "pol2"}
    assert_equal(outputs(found["pol1"]), truth)
    obs = np.array([0.0, 0.1, 0.2, 0.3])
    if stack == "old":
        served = rllib.policy_from_checkpoint(store)
        action, _, more = served.compute_single_action(obs, explore=False)
        expected, _, told = policy.compute_single_action(obs, explore=False)
        assert action == expected
        np.testing.assert_array_equal(more["action_dist_inputs"], told["action_dist_inputs"])
    with newest.as_directory() as path:
        assert_equal(outputs(rllibs_own(stack).from_checkpoint(path)), truth)


def rllibs_own(stack: str) -> Any:
    if stack == "old":
        from ray.rllib.policy.policy import Policy

        return Policy
    from ray.rllib.core.rl_module.rl_module import RLModule

    return RLModule


@torch_only
def test_a_module_below_an_algorithms_checkpoint(trained: Trained, new_store: NewStore) -> None:
    """By the path that the page builds, below the checkpoint's URL as below its directory."""
    algo, store = trained.get("two", "new"), new_store()
    saved = rllib.save(algo, store)
    truth = outputs(policy_of(algo, "pol1"))
    below = "learner_group/learner/rl_module/pol1"
    with saved.as_directory() as path:
        assert_equal(outputs(rllibs_own("new").from_checkpoint(Path(path) / below)), truth)
    if saved.url.startswith("file://"):
        assert_equal(outputs(rllib.policy_from_checkpoint(f"{saved.url}/{below}")), truth)
    [only] = rllib.policy_from_checkpoint(store, policy_ids=["pol1"]).values()
    assert_equal(outputs(only), truth)


@torch_only
def test_one_module_is_swapped_while_training(trained: Trained, new_store: NewStore) -> None:
    """RLlib's `restore_from_path` with a component, from what a store gives as a directory."""
    champion, store = trained.get("two", "new"), new_store()
    rllib.export_policy(policy_of(champion, "pol1"), store, step=1)
    algo = with_policies(ppo("new"), ["pol1", "pol2"]).build_algo()
    try:
        algo.train()
        other = outputs(policy_of(algo, "pol2"))
        swapped = store.latest()
        assert swapped is not None
        with swapped.as_directory() as path:
            algo.restore_from_path(path, component="learner_group/learner/rl_module/pol1")
        assert_equal(outputs(policy_of(algo, "pol1")), outputs(policy_of(champion, "pol1")))
        assert_equal(outputs(policy_of(algo, "pol2")), other)
        algo.train()
    finally:
        algo.stop()


def test_what_holds_no_policy_is_not_an_empty_dict(trained: Trained, new_store: NewStore) -> None:
    """A policy one directory too deep, an exported network, an env runner, and a trainer's own state."""
    algo, store = trained.get("one", "old"), new_store()
    policy = policy_of(algo)
    with store.stage(1) as path:
        policy.export_checkpoint(os.path.join(path, "pol"))
    rllib.export_model(policy, store, step=2)
    store.save(3, {"a": 1})
    if FRAMEWORK == "torch":
        with store.stage(4) as path:
            trained.get("one", "new").env_runner.save_to_path(path)
    for saved in store.checkpoints():
        with pytest.raises(UnreadableFormat):
            rllib.policy_from_checkpoint(saved)


# Networks in files of their own.


def native_outputs(path: Path) -> Any:
    """What the page does with such a file, for a thousand observations."""
    obs = observations(PENDULUM)
    if FRAMEWORK == "torch":
        import torch

        model = torch.load(path / "model.pt", weights_only=False)  # a class of RLlib's
        logits, _ = model(
            input_dict={"obs": torch.from_numpy(obs)}, state=[torch.tensor(0)], seq_lens=torch.tensor(0)
        )
        return logits.detach().numpy()
    with tempfile.TemporaryDirectory() as scratch:  # static graphs turn eager execution off in this process
        np.save(f"{scratch}/obs.npy", obs)
        program = [sys.executable, "-c", LOAD, str(path), f"{scratch}/obs.npy", f"{scratch}/made.npy"]
        subprocess.run(program, check=True, capture_output=True)
        return np.load(f"{scratch}/made.npy")


LOAD = """
import sys
import numpy as np
import tensorflow as tf
made = tf.saved_model.load(sys.argv[1])(tf.convert_to_tensor(np.load(sys.argv[2])))
np.save(sys.argv[3], (made[0] if isinstance(made, (list, tuple)) else made).numpy())
"""


def assert_computes(path: Path, policy: Any) -> None:
    truth = outputs(policy, PENDULUM)["action_dist_inputs"]
    np.testing.assert_allclose(native_outputs(path), truth, rtol=0, atol=TOLERANCE or 1e-6)


def test_a_native_model(trained: Trained, new_store: NewStore) -> None:
    """By `export_model`; in a policy's checkpoint; and in an algorithm's."""
    algo = trained.get("native", "old")
    policy = policy_of(algo)
    for onnx in (None, False):
        made = rllib.export_model(policy, new_store(), onnx=onnx)
        with made.as_directory() as path:
            assert_computes(Path(path), policy)
    if FRAMEWORK != "tf":  # RLlib by itself exports weights of static graphs that were never trained
        store = new_store()
        with store.stage(1) as path:
            policy.export_model(path)
        with store.get(1).as_directory() as path:
            assert_computes(Path(path), policy)
    alone = rllib.export_policy(policy, new_store())
    assert MODEL in alone.listing()
    with alone.as_directory() as path:
        assert_computes(Path(path, "model"), policy)
    assert_equal(outputs(rllib.policy_from_checkpoint(alone), PENDULUM), outputs(policy, PENDULUM))
    saved = rllib.save(algo, new_store())
    with saved.as_directory() as path:
        assert_computes(Path(path, "policies/default_policy/model"), policy)


def test_native_models_travel(trained: Trained, new_store: NewStore, tmp_path: Path) -> None:
    """Copied, downloaded, handed out with a policy, saved again by a restored algorithm, and adopted."""
    algo, store, other = trained.get("native", "old"), new_store(), new_store()
    policy = policy_of(algo)
    saved = rllib.save(algo, store)
    path = f"policies/default_policy/{MODEL}"
    assert path in saved.files_of("default_policy")
    store.copy_to(other)
    copied = other.latest()
    assert copied is not None
    assert copied.read(path) == saved.read(path)
    with copied.as_directory(policy_ids=["default_policy"]) as directory:
        assert_computes(Path(directory, "policies/default_policy/model"), policy)
    copied.download(tmp_path / "down" / copied.name)
    assert_computes(tmp_path / "down" / copied.name / "policies/default_policy/model", policy)
    adopted = CheckpointStore(tmp_path / "down").latest()
    assert adopted is not None
    assert adopted.verify().ok
    again = rllib.from_checkpoint(copied)
    try:
        assert again.config.export_native_model_files
        again.train()
        later = rllib.save(again, other)
        assert later.read(path) != saved.read(path)
        with later.as_directory() as directory:
            assert_computes(Path(directory, "policies/default_policy/model"), policy_of(again))
    finally:
        again.stop()


@torch_only
@of_both_stacks
def test_onnx(stack: str, trained: Trained, new_store: NewStore) -> None:
    algo = trained.get("native", stack)
    policy = policy_of(algo)
    truth = outputs(policy, PENDULUM)["action_dist_inputs"]
    for opset in (True, 17):
        made = rllib.export_model(policy, new_store(), onnx=opset)
        with made.as_directory() as path:
            found = run_onnx(Path(path, "model.onnx"), {"obs": observations(PENDULUM)})
        assert np.abs(found["action_dist_inputs"] - truth).max() < 1e-5
    saved = rllib.save(algo, new_store())
    assert [path for path in saved.listing() if "/model/" in path] == (
        [f"policies/default_policy/{MODEL}"] if stack == "old" else []  # RLlib writes none on the new stack
    )
    if stack == "new":
        made = rllib.export_model(policy, new_store())
        with made.as_directory() as path:
            found = run_torchscript(Path(path, "model.pt"), {"obs": observations(PENDULUM)})
        assert np.abs(found["action_dist_inputs"] - truth).max() < 1e-5


# Our own page on it.


@torch_only
def test_the_examples_of_the_document(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs/rllib.md").read_text(encoding="utf-8")
    section = text.partition("\n## Instead of a path\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    algo = trained.get("two", "new")
    truth = outputs(policy_of(algo, "pol1"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"algo": algo, "rllib": rllib, "CheckpointStore": CheckpointStore}
    for block in blocks:
        exec(block, found)
    assert_equal(outputs(policy_of(algo, "pol1")), truth)
    assert_equal(outputs(found["champion"]), truth)
    assert [ckpt.step for ckpt in CheckpointStore("runs/champions").checkpoints()] == [0, 1]


# Under Tune.


@pytest.mark.slow
@torch_only
def test_a_tune_run_goes_on_from_a_checkpoint(
    trained: Trained, new_store: NewStore, start_server: Callable[[str], Server], tmp_path: Path
) -> None:
    """The page's callback; the trial's process opens the store anew, as pickles hold no credentials."""
    from ray import tune

    url = rllib.save(trained.get("one", "new"), new_store()).url.rpartition("/")[0]
    options = start_server("seaweedfs").options if url.startswith("s3://") else {}
    truth = outputs(policy_of(trained.get("one", "new")))["action_dist_inputs"]
    seen = tmp_path / "seen.npy"

    def restore(algorithm: Any, **more: Any) -> None:
        rllib.restore(algorithm, CheckpointStore(url, storage_options=options))
        np.save(seen, outputs(policy_of(algorithm))["action_dist_inputs"])

    config = ppo("new").callbacks(on_algorithm_init=restore)
    results = tune.Tuner(
        config.algo_class,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "tune"), stop={"training_iteration": 3}, verbose=0
        ),
    ).fit()
    assert results[0].error is None
    assert results[0].metrics["training_iteration"] == 3
    np.testing.assert_allclose(np.load(seen), truth, rtol=0, atol=TOLERANCE)
