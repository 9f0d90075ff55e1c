"""A trainer that is killed goes on as if it had not been, bit for bit. Needs torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from tests import servers

pytest.importorskip("torch", reason="torch is not installed")
TOP = Path(__file__).parents[2]
STEPS = 12

# What a user writes: the three lines with `run` and `checkpoint`; the rest is the loop.
TRAINER = """
import json, os, sys, random
import numpy as np, torch
from ckptstore import CheckpointStore
options = json.loads(os.environ["OPTIONS"])
store = CheckpointStore(sys.argv[1], storage_options=options or None)
dtype = getattr(torch, sys.argv[2])
nn = torch.nn
net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(0.1), nn.Linear(16, 2)).to(dtype)
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=40)
run = {"net": net, "optimizer": optimizer, "scheduler": scheduler, "rng": torch.default_generator,
       "numpy": np.random.default_rng(os.getpid()), "python": random.Random(os.getpid())}
if len(sys.argv) > 4:
    torch.manual_seed(0)
    run["numpy"], run["python"] = np.random.default_rng(0), random.Random(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
checkpoint = store.latest()
if checkpoint is not None:
    checkpoint.restore(run)
for step in range(0 if checkpoint is None else checkpoint.step + 1, int(sys.argv[3])):
    batch = torch.randn(8, 6).to(dtype) * run["python"].random() + float(run["numpy"].normal())
    optimizer.zero_grad()
    loss = net(batch).float().square().mean()
    loss.backward()
    optimizer.step()
    scheduler.step()
    store.save_async(step, run) if step % 3 else store.save(step, run)
    sums = [float(parameter.double().sum()).hex() for parameter in net.parameters()]
    print(json.dumps([step, loss.item().hex(), sums]), flush=True)
store.wait()
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[servers.Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "disk":
        return str(tmp_path), {}
    server: servers.Server = request.getfixturevalue("moto")
    return f"s3://{server.new_bucket()}", dict(server.options)


def start(url: str, options: dict[str, Any], dtype: str, fresh: bool) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        TRAINER,
        url,
        dtype,
        str(STEPS),
        *(["fresh"] if fresh else []),
    ]
    env = {**os.environ, "PYTHONPATH": str(TOP), "OPTIONS": json.dumps(options)}
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_every_loss_is_that_of_the_run_that_was_not_killed(
    place: tuple[str, dict[str, Any]], dtype: str
) -> None:
    url, options = place
    with start(f"{url}/whole", options, dtype, True) as process:
        assert process.stdout is not None
        whole = {step: rest for step, *rest in map(json.loads, process.stdout)}
        assert process.wait(240) == 0
    assert list(whole) == list(range(STEPS))
    said: dict[int, Any] = {}
    for life in range(3):
        with start(f"{url}/killed", options, dtype, life == 0) as process:
            assert process.stdout is not None
            lines = map(json.loads, process.stdout)
            for count, (step, *rest) in enumerate(lines):
                assert rest == whole[step], f"life {life}, step {step}"
                said[step] = rest
                if count == 3 and life < 2:
                    process.kill()  # saving or training; what it had said stays said
            assert process.wait(240) == (0 if life == 2 else -9)
    assert said == whole
    latest = CheckpointStore(f"{url}/killed", storage_options=options or None).latest(verified=True)
    assert latest is not None
    assert latest.step == STEPS - 1
