"""Restoring jax's arrays and keys, optax's states, flax's train states and NNX. Needs jax, optax and flax."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore, InvalidRequest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
jnp = jax.numpy


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


def same(a: Any, b: Any) -> bool:
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        np.array_equal(_data(x), _data(y)) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0)
        for x, y in zip(leaves, others, strict=True)
    )


def _data(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "scheduled": lambda: optax.adam(optax.linear_schedule(1e-3, 0, 100)),
    "a chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "noise": lambda: optax.add_noise(0.1, 0.5, 3),
    "sgd with momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "masked": lambda: optax.masked(optax.adam(1e-3), {"w": True, "b": False}),
    "several": lambda: optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
}  # fmt: skip


def params(dtype: Any = None) -> Any:
    return {"w": jnp.ones((3, 2), dtype), "b": jnp.zeros(2, dtype)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optax(store: CheckpointStore, name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    given = params()
    state = optimizer.init(given)
    grads = jax.tree.map(lambda leaf: leaf + 0.5, given)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, given)
        given = optax.apply_updates(given, updates)
    checkpoint = store.save(1, {"params": given, "opt": state})
    made = checkpoint.restore({"params": params(), "opt": optimizer.init(params())})
    assert same(made["opt"], state)
    assert same(optimizer.update(grads, made["opt"], made["params"]), optimizer.update(grads, state, given))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(made["opt"]) if hasattr(leaf, "dtype"))
    trusted = checkpoint.load(trusted=True).state
    assert jax.tree.structure(trusted["opt"]) == jax.tree.structure(state)


def test_another_optimizer_is_named(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"opt": optax.adam(1e-3).init(params())})
    with pytest.raises(InvalidRequest, match=r"opt/0: here EmptyState of 0, there ScaleByAdamState of 3"):
        checkpoint.restore({"opt": optax.sgd(0.1).init(params())})
    with pytest.raises(InvalidRequest, match=r"opt/0/mu/w: here float32 \(9, 2\), there float32 \(3, 2\)"):
        checkpoint.restore({"opt": optax.adam(1e-3).init({"w": jnp.ones((9, 2)), "b": jnp.zeros(2)})})
    with pytest.raises(InvalidRequest, match="opt/0/mu/w: here bfloat16, there float32"):
        checkpoint.restore({"opt": optax.adam(1e-3).init(params(jnp.bfloat16))})
    made = checkpoint.restore({"opt": optax.adam(1e-3).init(params(jnp.bfloat16))}, strict=False)
    assert made["opt"][0].mu["w"].dtype == jnp.bfloat16
    assert checkpoint.report is not None
    assert "opt/0/mu/w" in [each.path for each in checkpoint.report.cast]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys(store: CheckpointStore, impl: str) -> None:
    key = jax.random.key(7, impl=impl)
    keys = jax.random.split(key, 4)
    checkpoint = store.save(1, {"key": key, "keys": keys, "old": jax.random.PRNGKey(3)})
    fresh = jax.random.key(0, impl=impl)
    made = checkpoint.restore(
        {"key": fresh, "keys": jax.random.split(fresh, 4), "old": jax.random.PRNGKey(0)}
    )
    trusted = checkpoint.load(trusted=True).state
    for found in (made, trusted):
        assert float(jax.random.uniform(found["key"])) == float(jax.random.uniform(key))
        assert float(jax.random.uniform(found["keys"][2])) == float(jax.random.uniform(keys[2]))
    assert made["old"].tolist() == [0, 3]
    other = jax.random.key(0, impl="rbg" if impl == "threefry2x32" else "threefry2x32")
    for wrong in (other, jax.random.split(fresh, 3), jnp.zeros(2, "uint32")):
        with pytest.raises(InvalidRequest, match="key: here"):
            checkpoint.restore({"key": wrong})
    with checkpoint.as_directory() as directory, open(f"{directory}/algorithm_state.pkl", "rb") as file:
        assert float(jax.random.uniform(pickle.load(file)["key"])) == float(jax.random.uniform(key))


def test_arrays_go_to_the_sharding_of_the_target(store: CheckpointStore) -> None:
    if len(jax.devices()) < 2:
        pytest.skip("jax was imported with one device")
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    value = jnp.arange(16.0).reshape(8, 2)
    checkpoint = store.save(1, {"w": jax.device_put(value, sharding), "half": value.astype(jnp.bfloat16)})
    target = {"w": jax.device_put(jnp.zeros((8, 2)), sharding), "half": jnp.zeros((8, 2), jnp.bfloat16)}
    made = checkpoint.restore(target)
    assert made["w"].sharding == sharding
    assert made["w"].tolist() == value.tolist()
    assert made["half"].dtype == jnp.bfloat16
    shapes = jax.eval_shape(lambda: {"w": jnp.zeros((8, 2))})
    assert checkpoint.restore(shapes)["w"].tolist() == value.tolist()


def test_the_train_state_of_flax(store: CheckpointStore) -> None:
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")
    TrainState = pytest.importorskip("flax.training.train_state").TrainState

    model = linen.Dense(2)

    def fresh(seed: int) -> Any:
        variables = model.init(jax.random.key(seed), jnp.ones((1, 3)))
        return TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.adam(0.1))

    def step(state: Any) -> Any:
        def loss(given: Any) -> Any:
            return jnp.square(state.apply_fn({"params": given}, jnp.ones((4, 3)))).mean()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    state = step(step(fresh(0)))
    checkpoint = store.save(1, {"train": state, "key": jax.random.key(3)})
    target = fresh(9)
    made = checkpoint.restore({"train": target, "key": jax.random.key(0)})["train"]
    assert made.step == 2
    assert made.apply_fn is target.apply_fn
    assert jax.tree.leaves(step(made).params)[0].tolist() == jax.tree.leaves(step(state).params)[0].tolist()
    assert checkpoint.report is not None
    assert any(path.startswith("train/apply_fn") for path in checkpoint.report.kept)


def test_a_module_of_nnx(store: CheckpointStore) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    net, other = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    _, state = nnx.split(net)
    _, target = nnx.split(other)
    nnx.update(other, store.save(1, {"net": state}).restore({"net": target})["net"])
    assert np.array_equal(other(jnp.ones((1, 3))), net(jnp.ones((1, 3))))


def test_the_page_for_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its example goes on where it ended, as if it had never been stopped."""
    page = (Path(__file__).parents[2] / "docs/trainers/jax.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    weights = []
    for run, lengths in (("stopped", (3, 3)), ("whole", (6,))):
        (tmp_path / run).mkdir()
        monkeypatch.chdir(tmp_path / run)
        for length in lengths:
            names: dict[str, Any] = {}
            exec(example.replace("first_step + 3", f"first_step + {length}"), names)
        weights.append(names["run"]["params"]["w"].tolist())
    assert weights[0] == weights[1]


@dataclasses.dataclass
class Mine:
    w: Any
    step: int
    name: str = "x"


def test_dataclasses_and_named_tuples(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"mine": Mine(jnp.ones(3), 4, "y")})
    made = checkpoint.restore({"mine": Mine(jnp.zeros(3), 0)})["mine"]
    assert (type(made), made.step, made.name, made.w.tolist()) == (Mine, 4, "y", [1, 1, 1])
