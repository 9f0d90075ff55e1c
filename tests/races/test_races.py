"""Processes that do everything at once to one store, killed and stopped at random, on each kind of place.

They are judged by what they were told (:mod:`tests.races.history`), and the store by a last look.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.figures import Figures
from tests.races.conductor import Plan, Race, race
from tests.races.worker import local_peek
from tests.servers import Server

SECONDS = float(os.environ.get("CKPTSTORE_RACE_SECONDS", "60"))
"""For which the long races last."""
SEED = int(os.environ.get("CKPTSTORE_SEED", "1"))
SUMMED = {
    "reads checked": "reads checked",
    "processes killed": "processes killed or stopped",
    "processes stopped for longer than the grace": "processes killed or stopped",
}


@pytest.fixture
def directory() -> Iterator[str]:
    """In memory, where there is any to be had: more operations meet each other in a second."""
    path = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield os.path.join(path, "store")
    shutil.rmtree(path)


def report(where: str, done: Race, figures: Figures) -> None:
    counts = done.counts()
    print(f"{where}: {counts}, {len(done.violations)} broken rules")
    figures.add("races run: rounds of processes killed and stopped at random", 1, "races run")
    for what, count in counts.items():
        figures.add(f"    {what}", count, SUMMED.get(what))
    figures.add("    lost, wrong, untyped, false-empty and every other broken rule", len(done.violations))
    figures.judge(violation.rule for violation in done.violations)
    assert not done.violations, "\n".join(f"{rule}: {text}" for rule, text in done.violations[:10])
    assert counts["operations"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [4, pytest.param(SECONDS, marks=pytest.mark.slow)])
def test_on_a_local_disk(directory: str, figures: Figures, seconds: float) -> None:
    plan = Plan(seconds, processes=4, seed=SEED, grace=None, stopped=2.0, calm=0.4)
    report("local disk", race(directory, {}, local_peek, plan), figures)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("moto", 8),
        pytest.param("moto", SECONDS, marks=pytest.mark.slow),
        pytest.param("seaweedfs", SECONDS, marks=pytest.mark.slow),
        pytest.param("fake-gcs", SECONDS, marks=pytest.mark.slow),
    ],
)
def test_on_a_bucket(
    start_server: Callable[[str], Server], figures: Figures, name: str, seconds: float
) -> None:
    server = start_server(name)
    plan = Plan(seconds, seed=SEED, calm=1.2, fast=server.scheme == "s3")
    report(name, race(server.new_url(), server.options, server.peek, plan), figures)


LOCAL = {
    "listing trusted": {"stale", "false empty", "missed"},
    "gc ignores locks": {"aborted without a reason"},
    "the step is not looked up under the lock": {"two winners"},
    "payload removed before the name": {"damaged read"},
}
"""Rules of :mod:`tests.mutants.races` that are broken on a local disk, and what they must be noticed by."""
BUCKET = {
    "listing trusted": {"stale", "false empty", "missed"},
    "a sweep that doesn't seal": {"damaged read"},
    "a sweep without grace": {"aborted without a reason"},
}


def noticed(rules: set[str], once: Callable[[int], Race]) -> str:
    """How the broken rule showed; some need luck, so another race is run where the first says nothing."""
    for seed in range(12):
        for violation in once(seed).violations:
            if violation.rule in rules:
                return f"{violation.rule} in race {seed}"
    pytest.fail("it was not noticed")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "listing trusted" else pytest.mark.slow) for name in LOCAL],
)
def test_a_broken_rule_is_noticed(directory: str, figures: Figures, name: str) -> None:
    def once(seed: int) -> Race:
        plan = Plan(3 + 3 * seed, processes=4, seed=seed, grace=None, stopped=1.0, mutant=name)
        return race(f"{directory}{seed}", {}, local_peek, plan)

    print(f"{name}: {noticed(LOCAL[name], once)}")
    figures.add("broken rules that the races noticed", 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BUCKET)
def test_a_broken_rule_of_buckets_is_noticed(fake_gcs: Server, figures: Figures, name: str) -> None:
    grace = 30.0 if name == "a sweep without grace" else 0.0  # where it counts, no save may meet it

    def once(seed: int) -> Race:
        plan = Plan(10 + 5 * seed, seed=seed, calm=2.0, grace=grace, mutant=name, alone=grace > 0)
        return race(fake_gcs.new_url(), fake_gcs.options, fake_gcs.peek, plan)

    print(f"{name} on fake-gcs: {noticed(BUCKET[name], once)}")
    figures.add("broken rules that the races noticed", 1)
