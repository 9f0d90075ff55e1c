"""Restoring torch's modules, optimizers, schedulers and generators in place. Needs torch."""

from __future__ import annotations

import copy
import itertools
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest, Opaque, Raw

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


class Loop:
    """A loop with all that one has: a module with dropout and statistics, AdamW, a scheduler, generators."""

    def __init__(self, dtype: Any = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2)
        ).to(dtype or torch.float32)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.generator = torch.Generator().manual_seed(seed)
        self.numpy = np.random.default_rng(seed)
        self.python = random.Random(seed)
        self.losses: list[float] = []

    @property
    def target(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "g": self.generator,
            "numpy": self.numpy,
            "python": self.python,
            "losses": self.losses,
        }

    def step(self) -> float:
        batch = torch.randn(8, 4, generator=self.generator) * self.python.random() + float(
            self.numpy.random()
        )
        torch.manual_seed(int(self.numpy.integers(10**6)))
        self.optimizer.zero_grad()
        loss = self.model(batch.to(self.model[0].weight.dtype)).float().square().mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.losses.append(float(loss))
        return float(loss)

    def restore(self, checkpoint: Checkpoint) -> None:
        self.losses = checkpoint.restore(self.target)["losses"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loop_goes_on_as_if_it_had_never_been_stopped(store: CheckpointStore, dtype: Any) -> None:
    whole = Loop(dtype)
    for _ in range(5):
        whole.step()
    store.save(5, whole.target)
    after = [whole.step() for _ in range(5)]
    resumed = Loop(dtype, seed=7)
    for _ in range(2):
        resumed.step()
    latest = CheckpointStore(store.url).latest()
    assert latest is not None
    resumed.restore(latest)
    assert [resumed.step() for _ in range(5)] == after
    assert resumed.losses == whole.losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    report = latest.report
    assert report is not None
    assert "model/0.weight" in report.loaded
    assert (report.missing, report.unexpected, report.cast, report.different) == ((), (), (), ())


def contents(loop: Loop) -> Any:
    return copy.deepcopy(
        [
            loop.model.state_dict(),
            loop.optimizer.state_dict(),
            loop.scheduler.state_dict(),
            loop.generator.get_state(),
            loop.numpy.bit_generator.state,
            loop.python.getstate(),
        ]
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(np.all(a == b))


def net(*sizes: int, **how: Any) -> Any:
    layers = [torch.nn.Linear(*pair, **how) for pair in itertools.pairwise(sizes)]
    return torch.nn.Sequential(*layers)


class Raises(torch.nn.Linear):  # type: ignore[misc,name-defined]
    def load_state_dict(self, *args: Any, **how: Any) -> Any:
        super().load_state_dict(*args, **how)  # changed already
        if not getattr(self, "calm", False):
            self.calm = True
            raise RuntimeError("by its own loader")


class Sampler:
    """The user's own."""

    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def saved(store: CheckpointStore) -> Checkpoint:
    model = net(4, 8, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return store.save(
        1,
        {
            "model": model,
            "optimizer": optimizer,
            "g": torch.Generator(),
            "n": np.random.default_rng(0),
            "sampler": Sampler(),
            "whole": Raw(net(2, 2)),
            "step": 7,
        },
        components={"ema": net(4, 8, 2)},
    )


def adam(model: Any, **how: Any) -> Any:
    return torch.optim.Adam(model.parameters(), **how)


def states(target: dict[str, Any]) -> list[Any]:
    return [value.state_dict() for value in target.values() if hasattr(value, "state_dict")]


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "another architecture": (
        lambda: {"model": net(4, 16, 2)},
        r"model/0.weight: here float32 \(16, 4\), there .* \(8, 4\)",
    ),
    "a layer more": (lambda: {"model": net(4, 8, 2, 2)}, "model/2.weight: not in the checkpoint"),
    "a layer less": (lambda: {"model": net(4, 8)}, "model/1.weight: only in the checkpoint"),
    "another dtype": (
        lambda: {"model": net(4, 8, 2, dtype=torch.float64)},
        "model/0.weight: here float64, there float32",
    ),
    "on meta": (lambda: {"model": net(4, 8, 2, device="meta")}, "to_empty"),
    "a name that is not there": (lambda: {"critic": net(4, 8, 2)}, "critic: not in the checkpoint"),
    "a component of another shape": (lambda: {"ema": net(4, 9, 2)}, "ema/0.weight"),
    "an optimizer of fewer parameters": (
        lambda: {"optimizer": adam(net(4, 8))},
        "optimizer/param_groups/0: here 2 parameters, there 4",
    ),
    "an optimizer of other shapes": (
        lambda: {"optimizer": adam(net(4, 9, 2))},
        r"optimizer/state/0/exp_avg: here \(9, 4\)",
    ),
    "another optimizer": (
        lambda: {"optimizer": torch.optim.SGD(net(4, 8, 2).parameters())},
        "another optimizer",
    ),
    "an optimizer of two groups": (
        lambda: {"optimizer": torch.optim.Adam([{"params": [p]} for p in net(4, 2).parameters()])},
        "2 groups",
    ),
    "a module for an optimizer's state": (lambda: {"optimizer": net(4, 8, 2)}, "only in the checkpoint"),
    "an optimizer for a module's state": (lambda: {"model": adam(net(4, 8, 2))}, "model: here"),
    "a generator of another kind": (
        lambda: {"n": np.random.Generator(np.random.MT19937(1))},
        "MT19937, there a Generator of PCG64",
    ),
    "a generator for a module": (lambda: {"model": torch.Generator()}, "model: here a Generator"),
    "a module saved whole": (lambda: {"whole": net(2, 2)}, "only trusted=True makes it again"),
    "a sampler for a number": (lambda: {"step": Sampler()}, "step: here a Sampler, there 7"),
    "text for a number": (lambda: {"step": "x"}, "step: here 'x', there 7"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_changes_nothing(store: CheckpointStore, name: str) -> None:
    make, message = MISFITS[name]
    checkpoint = saved(store)
    target = {"sampler": Sampler(), "g": torch.Generator().manual_seed(5), "model": net(4, 8, 2), **make()}
    target["sampler"].position = 3
    before = copy.deepcopy(states(target))
    generator = torch.Generator().manual_seed(5).get_state()
    with pytest.raises(InvalidRequest, match=message):
        checkpoint.restore(target)
    if "meta" not in name:
        assert equal(states(target), before)
    assert torch.equal(target["g"].get_state(), generator)
    assert checkpoint.report is None


def test_what_fits_is_taken_unless_strict(store: CheckpointStore) -> None:
    checkpoint = saved(store)
    model = net(4, 8, 3, 5)
    before = copy.deepcopy(model.state_dict())
    half = net(4, 8, 2, dtype=torch.float16)
    checkpoint.restore({"model": model, "critic": net(2, 2), "ema": half}, strict=False)
    report = checkpoint.report
    assert report is not None
    state = checkpoint.load(tensors="torch").state["model"]
    assert torch.equal(model[0].weight, state["0.weight"])
    assert torch.equal(model[1].weight, before["1.weight"])
    assert report.missing == ("model/2.weight", "model/2.bias", "critic")
    assert [each.path for each in report.different] == ["model/1.weight", "model/1.bias"]
    assert [each.path for each in report.cast] == [f"ema/{name}" for name in half.state_dict()]
    assert half[0].weight.dtype == torch.float16
    assert torch.equal(half[0].weight, checkpoint.load(tensors="torch").components["ema"]["0.weight"].half())
    assert {"optimizer", "g", "step"} <= set(report.unexpected)
    assert {"model/0.weight", "model/0.bias"} <= set(report.loaded)


def test_a_loader_that_raises_leaves_nothing_changed(store: CheckpointStore) -> None:
    whole = Loop()
    whole.step()
    target = {**whole.target, "raises": torch.nn.Linear(2, 2), "sampler": Sampler()}
    checkpoint = store.save(1, target)
    loop, bad = Loop(seed=3), Raises(2, 2)
    loop.step()
    before, weight = contents(loop), bad.weight.detach().clone()
    with pytest.raises(
        InvalidRequest, match=r"raises: loading it raised .*by its own loader.*Nothing is changed"
    ):
        checkpoint.restore({**loop.target, "raises": bad, "sampler": Sampler()})
    assert equal(contents(loop), before)
    assert torch.equal(bad.weight, weight)


def test_what_can_not_be_put_back_is_named(store: CheckpointStore) -> None:
    class Never(Sampler):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise RuntimeError("never")

    checkpoint = store.save(1, {"sampler": Sampler()})
    with pytest.raises(InvalidRequest, match="Not put back: sampler"):
        checkpoint.restore({"sampler": Never()})


@pytest.mark.parametrize("wrap_saved", [True, False])
@pytest.mark.parametrize(
    "wrapped", [lambda m: torch.compile(m), lambda m: torch.nn.DataParallel(m)], ids=["_orig_mod", "module"]
)
def test_names_of_wrappers_are_understood(store: CheckpointStore, wrapped: Any, wrap_saved: bool) -> None:
    plain, fresh = net(4, 8, 2), net(4, 8, 2)
    given, target = (wrapped(plain), fresh) if wrap_saved else (plain, wrapped(fresh))
    checkpoint = store.save(1, {"model": given})
    checkpoint.restore({"model": target})
    assert torch.equal(fresh[0].weight, plain[0].weight)
    again = wrapped(net(4, 8, 2))
    store.save(2, {"model": wrapped(plain)}).restore({"model": again})
    assert torch.equal(next(again.parameters()), plain[0].weight)


def test_names_of_wrappers_around_a_part_are_understood(store: CheckpointStore) -> None:
    def make(wrap: Any) -> Any:
        return torch.nn.ModuleDict({"body": wrap(net(4, 8)), "head": net(8, 2), "module": net(2, 2)})

    plain, parallel = make(lambda body: body), make(torch.nn.DataParallel)
    for given, target in ((plain, make(torch.nn.DataParallel)), (parallel, make(lambda body: body))):
        checkpoint = store.save(1, {"m": given}, if_exists="replace")
        checkpoint.restore({"m": target})
        assert equal(list(target.state_dict().values()), list(given.state_dict().values()))


def test_a_module_that_is_called_module_is_no_wrapper(store: CheckpointStore) -> None:
    class Holder(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = net(2, 2)
            self.head = net(2, 2)

    holder, fresh = Holder(), Holder()
    store.save(1, {"m": holder}).restore({"m": fresh})
    assert torch.equal(fresh.module[0].weight, holder.module[0].weight)
    assert not torch.equal(fresh.head[0].weight, holder.module[0].weight)


def test_tensors_outside_of_objects_are_made_like_the_targets(store: CheckpointStore) -> None:
    checkpoint = store.save(
        1,
        {
            "ema": {"w": torch.arange(3.0)},
            "p": torch.nn.Parameter(torch.ones(2)),
            "a": np.arange(3),
            "n": np.float32(2),
        },
    )
    target = {
        "ema": {"w": torch.zeros(3)},
        "p": torch.nn.Parameter(torch.zeros(2)),
        "a": torch.zeros(3, dtype=torch.int64),
        "n": 0.0,
    }
    made = checkpoint.restore(target)
    assert made["ema"]["w"].tolist() == [0, 1, 2]
    assert isinstance(made["p"], torch.nn.Parameter)
    assert made["a"].tolist() == [0, 1, 2]
    assert made["n"] == 2.0
    assert target["ema"]["w"].tolist() == [0, 0, 0]  # only in the tree that came back


def test_one_object(store: CheckpointStore) -> None:
    model, fresh = net(4, 2), net(4, 2)
    checkpoint = store.save(1, model)
    assert checkpoint.restore(fresh) is fresh
    assert torch.equal(fresh[0].weight, model[0].weight)
    for wrong in (None, 3, "model", torch.nn.Linear):
        with pytest.raises(InvalidRequest, match="live objects"):
            checkpoint.restore(wrong)


def test_a_hostile_state_dict_runs_nothing_and_changes_nothing(store: CheckpointStore, tmp_path: Any) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return marker.touch, ()

    state = net(4, 2).state_dict()
    checkpoint = store.save(
        1, {"model": {**state, "0.weight": Hostile()}, "opt": {"state": {}, "param_groups": Hostile()}}
    )
    model = net(4, 2)
    before = copy.deepcopy(model.state_dict())
    for target in ({"model": model}, {"opt": adam(model)}):
        with pytest.raises(InvalidRequest):
            checkpoint.restore(target)
    assert equal(model.state_dict(), before)
    assert not marker.exists()


def test_the_scaler_and_a_sampler(store: CheckpointStore) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    sampler = Sampler()
    sampler.position = 9
    fresh, other = torch.amp.GradScaler("cpu"), Sampler()
    store.save(1, {"scaler": scaler, "sampler": sampler}).restore({"scaler": fresh, "sampler": other})
    assert fresh.get_scale() == 8.0
    assert other.position == 9


def test_sizes_devices_and_types_in_state_dicts_are_torchs(store: CheckpointStore) -> None:
    """As TensorDict has them, in a dict's attribute too."""

    class Holder:
        def __init__(self) -> None:
            self.held: Any = {"data": {}, "again": None}

        def state_dict(self) -> Any:
            return self.held

        def load_state_dict(self, state: Any) -> None:
            self.held = state

    data: Any = OrderedDict(size=torch.Size([2, 3]), device=torch.device("cuda", 1), kind=torch.bfloat16)
    data._metadata = {"batch_size": torch.Size([100]), "nested": [(torch.Size([]), torch.device("cpu"))]}
    loop: list[Any] = [torch.float16]
    loop.append(loop)
    given = Holder()
    given.held = {"data": data, "again": loop}
    checkpoint = store.save(1, {"holder": given}, opaque="allow")
    made = Holder()
    checkpoint.restore({"holder": made})
    assert made.held["data"] == data
    assert made.held["data"]._metadata == data._metadata
    assert type(made.held["data"]._metadata["batch_size"]) is torch.Size
    assert type(made.held["data"]) is OrderedDict
    assert made.held["again"][0] is torch.float16
    assert made.held["again"][1] is made.held["again"]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("torch.Size", ((1, "x"),)),
        ("torch.Size", (7,)),
        ("torch.device", ("cuda:x",)),
        ("torch.device", ()),
        ("torch.load", ("x",)),
        ("torch.nn", None),
    ],
)
def test_records_that_are_no_sizes_stay_records(name: str, args: Any) -> None:
    from ckptstore.restore.values import make_torch_values

    record = Opaque(name, args)
    assert make_torch_values({"a": [record]})["a"][0] is record
