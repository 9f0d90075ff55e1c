"""The programs of `docs/trainers` run as they stand, are killed, and go on. See `make trainers`."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.trainers.lives import TOP, check_lives, live

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
PAGES = TOP / "docs/trainers"

# What a page needs, and the names in it whose values are compared after every step.
KILLED = {
    "accelerate": ("torch accelerate", "model optimizer scheduler loss"),
    "cleanrl": ("torch gymnasium", "agent optimizer loss"),
    "gymnasium": ("gymnasium", "env observation reward"),
    "jax": ("jax optax", "run"),
    "keras": ("keras jax", "weights"),
    "orbax": ("orbax jax optax", "tree"),
    "pettingzoo": ("torch pettingzoo", "agents optimizer loss"),
    "skrl": ("skrl", "objects"),
    "tianshou": ("tianshou gymnasium", "algorithm"),
    "torchrl": ("torchrl", "loss_module optimizer loss"),
}
# These have tests of their own, where they are killed.
ONCE = {
    "huggingface": "transformers accelerate torch",
    "lightning": "lightning",
    "pytorch": "torch",
    "ray-train": "ray",
    "stable-baselines3": "stable_baselines3",
}

# Runs a page with its store at another place, and says what it holds whenever it saves.
DRIVER = """
import random, re
import numpy as np
from tests.integrations.trainers.test_pages import read_page, state_of
page, url, names = sys.argv[2], sys.argv[1], sys.argv[3].split()
import ckptstore
from ckptstore import Checkpointer, CheckpointStore
if OPTIONS:
    os.environ |= {"AWS_ACCESS_KEY_ID": OPTIONS["key"], "AWS_SECRET_ACCESS_KEY": OPTIONS["secret"],
        "AWS_ENDPOINT_URL": OPTIONS["endpoint_url"], "AWS_DEFAULT_REGION": "us-east-1"}
store = CheckpointStore(url)
seed = 5 if store.latest() is None else os.getpid()  # what goes on must not depend on how it begins
random.seed(seed), np.random.seed(seed)
if "torch" in read_page(page):
    import torch
    torch.manual_seed(seed)
space = {"__name__": "__main__"}
def watch(kind, method):
    original = getattr(kind, method)
    def watched(self, step, *rest, **more):
        say(step, *[state_of(space[name]) for name in names if name in space])
        return original(self, step, *rest, **more)
    setattr(kind, method, watched)
watch(Checkpointer, "step")
if "import Checkpointer\\n" not in read_page(page):
    watch(CheckpointStore, "save"), watch(CheckpointStore, "stage")
source = re.sub(r'"runs/[^"]*"', repr(url), read_page(page))
source = re.sub(r"(seed[(=])\\d+", r"\\g<1>" + str(seed), source)
exec(compile(source, page, "exec"), space)
"""


def read_page(name: str) -> str:
    """Its programs, one after another."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def state_of(value: Any) -> Any:
    """What can be compared of what a page has under a name."""
    if hasattr(type(value), "state_dict"):
        return state_of(value.state_dict())
    if isinstance(value, dict):
        return {key: state_of(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [state_of(each) for each in value]
    if str(getattr(value, "dtype", "")).startswith("key<"):
        return sys.modules["jax"].random.key_data(value)
    return value


def need(packages: str) -> None:
    for package in packages.split():
        if find_spec(package) is None:
            pytest.skip(f"{package} isn't installed: `make trainers` has it")


@pytest.mark.parametrize("page", KILLED)
def test_a_program_that_is_killed_goes_on_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, page: str
) -> None:
    packages, names = KILLED[page]
    need(packages)
    url, options = request.getfixturevalue("bucket")
    begun = check_lives(
        DRIVER, url, options, tmp_path, page, names, kills=(30 if page == "skrl" else 14,)
    )  # by then one is committed
    print(f"{page} went on at {begun}")


@pytest.mark.parametrize("page", ONCE)
def test_a_program_runs_and_runs_again(tmp_path: Path, page: str) -> None:
    need(ONCE[page])
    for _ in range(1 if page == "pytorch" else 2):  # that page shows several ways, one after another
        live(read_page(page), cwd=tmp_path)


def test_every_page_is_run() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == KILLED.keys() | ONCE.keys()


@pytest.mark.parametrize("page", KILLED)
def test_it_takes_ten_lines(page: str) -> None:
    """From the first line that names something of ours to the last, without the imports."""
    lines = [line for line in read_page(page).splitlines() if line.strip() and "import" not in line]
    ours = [
        number for number, line in enumerate(lines) if re.search(r"Checkpointer|checkpoint|store|run\.", line)
    ]
    assert ours
    assert len(ours) <= 10
