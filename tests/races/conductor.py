"""Starts processes that race, kills them at random, stops them for longer than the grace, and judges."""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.races.history import Event, Violation, judge
from tests.races.worker import Racer, last_look, work

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.races.worker"])
READS = ("latest", "get", "list", "load", "read-tag")


@dataclass
class Race:
    """What happened."""

    events: list[Event]
    kills: int
    stops: int
    violations: list[Violation] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How much was done, by what."""
        done = collections.Counter(event.op for event in self.events)
        outcomes = collections.Counter(event.outcome for event in self.events if event.op == "save")
        return {
            "operations": len(self.events),
            "reads checked": sum(done[op] for op in READS),
            "saves acknowledged": outcomes["ok"],
            "saves refused, sealed or fenced off": sum(outcomes.values())
            - outcomes["ok"]
            - outcomes["killed"],
            "processes killed": self.kills,
            "processes stopped for longer than the grace": self.stops,
        }


@dataclass
class Plan:
    """How long and how rough."""

    seconds: float
    processes: int = 5
    seed: int = 0
    grace: float | None = 2.0
    """What gc is told; None where a lock tells who is alive."""
    stopped: float = 4.5
    """Seconds for which a process is stopped; stores tell times to the second: much longer than `grace`."""
    calm: float = 0.6
    """Seconds between two kills or stops, on the average."""
    mutant: str | None = None
    fast: bool = False
    alone: bool = False
    """Whether each process saves steps of its own, so that nobody else has a reason to end its saves."""


class _Running:
    def __init__(self, racer: Racer) -> None:
        self.racer = racer
        self.process: ForkServerProcess = CONTEXT.Process(target=work, args=(racer,), daemon=True)
        self.process.start()
        self.resumes = 0.0
        self.died: float | None = None

    def saves(self) -> bool:
        """Whether it is in the middle of a save: the most telling moment to hit it."""
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and self.process.is_alive():
            with contextlib.suppress(OSError, ValueError, IndexError), open(self.racer.log, "rb") as log:
                log.seek(-min(2048, os.path.getsize(self.racer.log)), os.SEEK_END)
                last = Event.from_fields(json.loads(log.read().splitlines()[-1]))
                if (last.op, last.outcome) == ("save", "killed"):
                    return True
            time.sleep(0.002)
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # its time is over
            os.kill(self.process.pid, number)


def race(url: str, options: Mapping[str, Any], peek: Callable[[str], bytes | None], plan: Plan) -> Race:
    """Let processes race on the store at `url`, and judge what they tell."""
    with tempfile.TemporaryDirectory(prefix="race-") as logs:
        return _race(url, options, peek, plan, Path(logs))


def _race(
    url: str, options: Mapping[str, Any], peek: Callable[[str], bytes | None], plan: Plan, logs: Path
) -> Race:
    dice = random.Random(plan.seed)
    until = time.monotonic() + plan.seconds
    everybody: list[_Running] = []

    def start() -> _Running:
        number = len(everybody)
        who = f"p{number}"
        racer = Racer(
            who, url, options, plan.seed * 1000 + number, until, str(logs / who), plan.grace,
            plan.fast and number % 2 == 1, plan.mutant, number if plan.alone else 0,
        )  # fmt: skip
        everybody.append(_Running(racer))
        return everybody[-1]

    try:
        kills, stops = _run(start, plan, dice, until)
        last = Racer("last look", url, options, plan.seed, 0, str(logs / "last"), 0.0)
        last_look(last, peek)
    finally:
        for running in everybody:
            if running.process.is_alive():
                _kill(running)
    events = [event for running in everybody for event in read_log(running.racer.log, running.died)]
    events += read_log(last.log, None)
    return Race(events, kills, stops, judge(events))


def _run(start: Callable[[], _Running], plan: Plan, dice: random.Random, until: float) -> tuple[int, int]:
    """The race itself, until every process has ended; how many were killed and stopped."""
    live = [start() for _ in range(plan.processes)]
    kills = stops = 0
    while time.monotonic() < until:
        time.sleep(dice.uniform(0.5, 1.5) * plan.calm)
        for running in live:
            if running.resumes and time.monotonic() > running.resumes:
                running.signal(signal.SIGCONT)
                running.resumes = 0.0
        victim = dice.choice(live)
        if victim.resumes or not victim.process.is_alive():
            continue
        if dice.random() < 0.7 and victim.saves():
            time.sleep(dice.uniform(0, plan.calm / 4))
        if dice.random() < 0.5:
            _kill(victim)
            live[live.index(victim)] = start()
            kills += 1
        elif sum(bool(running.resumes) for running in live) < 2:
            victim.signal(signal.SIGSTOP)
            victim.resumes = time.monotonic() + plan.stopped
            stops += 1
    for running in live:
        if running.resumes:
            time.sleep(max(0.0, running.resumes - time.monotonic()))
            running.signal(signal.SIGCONT)
        running.process.join(120)
        assert running.process.exitcode is not None, f"{running.racer.who} runs two minutes after the end"
        assert running.process.exitcode == 0, f"{running.racer.who} ended with {running.process.exitcode}"
        running.died = time.monotonic()
    return kills, stops


def _kill(running: _Running) -> None:
    running.signal(signal.SIGKILL)
    running.process.join(30)
    running.died = time.monotonic()


def read_log(path: str, died: float | None) -> list[Event]:
    """The events of one process; what it had begun when it died ended, if at all, by then."""
    if not os.path.exists(path):
        return []
    events: dict[float, Event] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # else it died while it wrote
                event = Event.from_fields(json.loads(line))
                events[event.begin] = event
    return [
        replace(event, end=died) if event.end == float("inf") and died is not None else event
        for event in events.values()
    ]
