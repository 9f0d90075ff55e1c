"""The lines around a training loop: every, keep, resume, SIGTERM, ranks."""

from __future__ import annotations

import datetime
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpointer, CheckpointStore, EveryNSteps, InvalidRequest, LatestN

TOP = Path(__file__).parent.parent


class Model:
    def __init__(self) -> None:
        self.weight = 0

    def state_dict(self) -> dict[str, Any]:
        return {"weight": np.full(1000, self.weight)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = int(state["weight"][0])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def train(run: Checkpointer, model: Model, until: int) -> None:
    for step in range(run.resume(), until):
        model.weight += 1
        run.step(step, {"weight": model.weight})


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.checkpoints()]


def test_a_loop_saves_prunes_and_resumes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    model = Model()
    with Checkpointer(store, {"model": model, "rng": random.Random(3)}, every=3, keep=2) as run:
        assert run.resume() == 0
        saved = [step for step in range(10) if run.step(step, {"step": step})]
    assert saved == [2, 5, 8]
    assert steps(store) == [8, 9]  # and the last
    assert store.get(9).metrics == {"step": 9}
    model.weight = 7
    store.save(20, {"model": model, "rng": random.Random(4)})
    fresh, rng = Model(), random.Random(0)
    with Checkpointer(str(tmp_path / "run"), {"model": fresh, "rng": rng}, every=5) as run:
        assert run.resume() == 21
        assert fresh.weight == 7
        assert rng.random() == random.Random(4).random()
        assert [step for step in range(21, 31) if run.step(step)] == [24, 29]  # as if in one piece
    assert steps(store)[-1] == 30


def test_what_is_put_into_the_dict_is_saved(tmp_path: Path) -> None:
    mine: dict[str, Any] = {"model": Model(), "epoch": 0, "history": [0]}
    with Checkpointer(tmp_path, mine, every=1) as run:
        for step in range(3):
            mine["epoch"] = step
            mine["history"].append(step)
            run.step(step)
    again: dict[str, Any] = {"model": Model(), "epoch": 0, "history": [0]}
    with Checkpointer(tmp_path, again, every=1) as run:
        assert run.resume() == 3
        assert (again["epoch"], again["history"]) == (2, [0, 0, 1, 2])
        again["history"].append(3)
        run.step(3)
    assert run.store.get(3).state["history"] == [0, 0, 1, 2, 3]


def test_milestones_are_counted_in_steps_done(tmp_path: Path) -> None:
    keep = LatestN(1) | EveryNSteps(20)
    for until in (37, 95):
        with Checkpointer(tmp_path, {"model": Model()}, every=10, keep=keep) as run:
            for step in range(run.resume(), until):
                run.step(step)
    assert steps(run.store) == [19, 36, 39, 59, 79, 94]  # 36 is what this process resumed from


def test_what_another_run_saved_is_not_replaced_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "is replaced" in record.getMessage()]
        caplog.clear()
        return found

    for _ in range(2):  # the second one forgets to resume
        with Checkpointer(tmp_path, {"model": Model()}, every=10) as forgetful:
            for step in range(30):
                forgetful.step(step)
    (text,) = told()
    assert "step 9 of another run" in text
    assert "Call resume()" in text
    with Checkpointer(tmp_path, {"model": Model()}, every=10) as run:
        first = run.resume()
        forgetful.store.save(39, {"model": Model()})
        for step in range(first, 50):
            run.step(step)
    assert "step 39 of another run" in told()[0]
    with Checkpointer(tmp_path, {"model": Model()}, every=10) as run:  # its own past, trained again
        assert run.resume() == 50
        run.step(45)
    assert told() == []


def test_what_is_not_saved_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupted() -> None:
        with Checkpointer(tmp_path, {"model": Model()}, every=100) as run:
            run.step(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "step 7 isn't saved: the loop ended with KeyboardInterrupt" in caplog.text
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_changed_in_place_is_in_objects(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, {"losses": [], "model": Model()}, every=1) as run:
        run.objects["losses"].append(0.5)
        run.step(run.resume())
    with Checkpointer(tmp_path, {"losses": [], "model": Model()}, every=1) as run:
        run.resume()
        assert run.objects["losses"] == [0.5]


def test_every_so_often(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "a", {"m": Model()}, every=datetime.timedelta(0)) as run:
        assert [run.step(step) for step in range(3)] == [True, True, True]
    with Checkpointer(tmp_path / "b", {"m": Model()}, every=datetime.timedelta(days=1)) as run:
        assert [run.step(step) for step in range(3)] == [False, False, False]
    assert steps(run.store) == [2]


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    store, model = CheckpointStore(tmp_path), Model()
    for step in (1, 2):
        model.weight = step
        store.save(step, {"m": model})
    path = tmp_path / "checkpoint_000002/algorithm_state.pkl"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    fresh = Model()
    with Checkpointer(store, {"m": fresh}, every=1) as run:
        assert run.resume() == 2
        assert fresh.weight == 1
        run.step(2)
    assert store.latest(verified=True) == store.get(2)


def test_a_loop_that_raises_is_not_saved(tmp_path: Path) -> None:
    def fail(run: Checkpointer) -> None:
        with run:
            for step in range(3):
                run.step(step)
            raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    run = Checkpointer(tmp_path, {"m": Model()}, every=2)
    with pytest.raises(ZeroDivisionError):
        fail(run)
    assert steps(run.store) == [1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_save_that_failed_is_raised(tmp_path: Path) -> None:
    class Broken(Model):
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("not now")

    with (
        pytest.raises(InvalidRequest, match="not now"),
        Checkpointer(tmp_path, {"m": Broken()}, every=1) as run,
    ):
        run.step(0)


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "10", None])
def test_every_must_make_sense(tmp_path: Path, every: Any) -> None:
    with pytest.raises(InvalidRequest, match="every"):
        Checkpointer(tmp_path, {"m": Model()}, every=every)
    with pytest.raises(InvalidRequest, match="objects"):
        Checkpointer(tmp_path, [Model()], every=1)  # type: ignore[arg-type]


# ---- ranks


def test_only_rank_0_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with Checkpointer(tmp_path, {"m": Model()}, every=1, keep=LatestN(1)) as run:
            assert run.rank == int(rank)
            assert run.step(0) is (rank == "0")
        assert steps(run.store) == ([0] if rank == "0" else [])
    assert [record.getMessage() for record in caplog.records] == ["this process has rank 1: rank 0 saves"]
    with Checkpointer(tmp_path, {"m": Model()}, every=1, rank=3) as run:
        assert run.save(9) is None


def test_a_rank_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidRequest, match="RANK isn't set"):
        Checkpointer(tmp_path, {"m": Model()}, every=1)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InvalidRequest, match="RANK is 'first'"):
        Checkpointer(tmp_path, {"m": Model()}, every=1)


DDP = """
import datetime, os, sys, torch, torch.distributed as dist
from ckptstore import Checkpointer
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
torch.manual_seed(dist.get_rank())
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
optimizer = torch.optim.Adam(model.parameters())
with Checkpointer(sys.argv[1], {"model": model, "optimizer": optimizer}, every=2, keep=2) as run:
    first = run.resume()
    for step in range(first, first + 4):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        run.step(step)
    dist.barrier()
print(run.rank, first, model.module.weight.sum().item())
dist.destroy_process_group()
"""


def test_two_processes_of_ddp(tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed", reason="torch is not installed")
    script = tmp_path / "script.py"
    script.write_text(DDP)
    said = []
    for turn in range(2):
        port = str(29500 + os.getpid() % 1000 + turn)
        base = {
            **os.environ,
            "PYTHONPATH": str(TOP),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", script, tmp_path / "run"],
                env={**base, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        outs = [process.communicate(timeout=240) for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], outs
        said.append([out.split() for out, _ in outs])
    assert [[rank, first] for rank, first, _ in said[0]] == [["0", "0"], ["1", "0"]]
    assert [[rank, first] for rank, first, _ in said[1]] == [["0", "4"], ["1", "4"]]
    assert said[1][0][2] == said[1][1][2]
    assert steps(CheckpointStore(tmp_path / "run")) == [3, 5, 7]  # what was resumed from stays


def test_shards_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("torch.distributed.tensor")
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.Linear(4, 4)
        mesh = init_device_mesh("cpu", (1,))
        model.weight = torch.nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(InvalidRequest, match="DTensor"):
            Checkpointer(tmp_path, {"model": model}, every=1)
    finally:
        dist.destroy_process_group()


# ---- SIGTERM

LOOP = """
import sys, signal
from ckptstore import Checkpointer
class Model:
    n = 0
    def state_dict(self): return {"n": self.n}
    def load_state_dict(self, state): self.n = state["n"]
if len(sys.argv) > 2:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
model = Model()
with Checkpointer(sys.argv[1], {"model": model}, every=10**9) as run:
    step = run.resume()
    while True:
        model.n = step
        run.step(step)
        print(step, flush=True)
        step += 1
"""


@pytest.mark.parametrize("handler", [False, True], ids=["none", "the program's"])
def test_sigterm_saves_the_step(tmp_path: Path, handler: bool) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path / "run"), *(["own"] if handler else [])]
    begun = 0
    for _ in range(2):
        env = {**os.environ, "PYTHONPATH": str(TOP)}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == begun
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read().split()
            assert process.wait(120) == (77 if handler else -signal.SIGTERM)
        latest = CheckpointStore(tmp_path / "run").latest()
        assert latest is not None
        assert latest.state["model"]["n"] == latest.step >= int(rest[-1] if rest else begun)
        begun = latest.step + 1


def test_sigterm_at_the_end_is_not_lost(tmp_path: Path) -> None:
    code = "\n".join(
        [*LOOP.splitlines()[:10], "import os", "run = Checkpointer(sys.argv[1], {'m': model}, every=9)"]
    )
    code += "\nrun.step(0)\nos.kill(os.getpid(), signal.SIGTERM)\nrun.close()\nprint('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"], env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
    assert steps(CheckpointStore(tmp_path / "run")) == [0]
