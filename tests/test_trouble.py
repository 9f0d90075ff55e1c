"""A bucket on a bad day: trouble that lasts through many operations, and what they may say meanwhile.

Single faults are tried by ``test_fault_matrix``. Here an outage, throttling, slowness, a wrong clock or
requests that arrive late or twice go on while a small training saves, replaces, loads, deletes, prunes
and sweeps. Every error has to be typed; what was acknowledged has to be there in the end and nothing
else may be, whatever arrived late.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import botocore.auth
import botocore.compat
import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.commit import open_catalog
from ckptstore.commit.objects import probe
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointGone,
    CheckpointNotFound,
    SaveAborted,
    StoreDenied,
    StoreUnavailable,
)
from ckptstore.format.names import MANIFEST, CheckpointName
from tests.faults import Act, FaultProxy, Seen, Trouble, fault_proxy
from tests.figures import Figures
from tests.inside import backend_of
from tests.servers import Server
from tests.stores import assert_same

SEED = int(os.environ.get("CKPTSTORE_SEED", "1"))
TIMEOUT = 5.0
"""Seconds for which the store tries each request."""
Plan = Callable[[int, Seen], Act | Trouble | None]


def outage(seconds: float) -> Callable[[], Plan]:
    """No answer to anything for so long, again and again with as much time between."""

    def begin() -> Plan:
        began = time.monotonic()

        def plan(index: int, seen: Seen) -> Act | None:
            return "cut before" if (time.monotonic() - began) % (2 * seconds) < seconds else None

        return plan

    return begin


def some(act: Act | Trouble, share: float, writes: bool = False) -> Callable[[], Plan]:
    """That share of the requests, or of those that change something, suffers."""

    def begin() -> Plan:
        dice = random.Random(SEED)

        def plan(index: int, seen: Seen) -> Act | Trouble | None:
            hit = dice.random() < share and (not writes or seen.method not in ("GET", "HEAD"))
            return act if hit else None

        return plan

    return begin


TROUBLES: dict[str, Callable[[], Plan]] = {
    "outages shorter than the deadline": outage(2.0),
    "outages longer than the deadline": outage(2.5 * TIMEOUT),
    "throttled, 30 %": some("503", 0.3),
    "throttled, 60 %": some("503", 0.6),
    "throttled, 90 %": some("503", 0.9),
    "slow, in drips": some("slow", 1.0),
    "writes arrive again, late": some("again late", 1.0, writes=True),
    "writes are lost, and arrive late": some("lost and late", 0.3, writes=True),
    "a clock 20 minutes ahead": some("ahead", 1.0),
    "a clock 20 minutes behind": some("behind", 1.0),
}
QUICK = {"throttled, 30 %", "writes are lost, and arrive late", "writes arrive again, late"}
"""On moto, briefly, with every change; the rest takes minutes."""


@pytest.fixture(scope="module")
def behind(start_server: Callable[[str], Server]) -> Iterator[Callable[[str], tuple[Server, FaultProxy]]]:
    """The server of that name, and a proxy in front of it."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> tuple[Server, FaultProxy]:
            server = start_server(name)
            return server, stack.enter_context(fault_proxy(server.endpoint))

        yield start


def content(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"token": token}, {"old": {"w": np.arange(9_000.0)}, "new": {"w": np.full(2_000, len(token))}}


IF_EXISTS: tuple[Literal["error", "replace"], ...] = ("error", "replace")


class Life:
    """A training on a bad day, and what may be true of its store: for each step, any one of a set.

    None in the set: perhaps nothing is there.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.may: dict[int, set[str | None]] = {}
        self.wrong: list[str] = []
        self.counts = dict.fromkeys(("operations", "of which ended in a typed error"), 0)
        self.compared = 0
        """Loads whose content was compared."""
        self.longest = 0.0
        """Seconds until the slowest error."""

    def attempt(self, what: str, operate: Callable[[], Any]) -> Any:
        """The result, or the typed error."""
        self.counts["operations"] += 1
        began = time.monotonic()
        try:
            return operate()
        except CheckpointError as error:
            self.counts["of which ended in a typed error"] += 1
            self.longest = max(self.longest, time.monotonic() - began)
            if isinstance(error, CheckpointCorrupt):
                self.wrong.append(f"wrong: {what}: {error!r}")
            return error
        except Exception as error:  # noqa: BLE001 - to be told, with what else went wrong
            self.wrong.append(f"untyped: {what}: {error!r}")
            return error

    def surely(self) -> list[int]:
        return [step for step, may in self.may.items() if None not in may]

    def save(self, step: int) -> None:
        """As a trainer does: tried again once, in another's place if need be."""
        for number, if_exists in enumerate(IF_EXISTS):
            token = f"{step}{'x' * (number + 1)}"
            operate = partial(self.store.save, step, *content(token), if_exists=if_exists)
            saved = self.attempt(f"save {token}", operate)
            if not isinstance(saved, Exception):
                self.may[step] = {token}
                return
            before = self.may.get(step, {None})
            if not isinstance(saved, (StoreUnavailable, SaveAborted)) and before == {None}:
                self.wrong.append(f"wrong: nobody else saves: {saved!r}")
            self.may[step] = before | {token}

    def look(self) -> None:
        found = self.attempt("latest", self.store.latest)
        newest = max(self.surely(), default=-1)
        if found is None and newest >= 0:
            self.wrong.append("false-empty")
        elif isinstance(found, (CheckpointNotFound, CheckpointGone)):
            self.wrong.append(f"false-empty: {found!r}")
        elif found is not None and not isinstance(found, Exception):
            if found.step < newest:
                self.wrong.append(f"lost: latest is {found.step}, not {newest}")
            self.load(found)

    def load(self, found: Any) -> None:
        loaded = self.attempt("load", found.load)
        if isinstance(loaded, CheckpointGone) and None in self.may[found.step]:
            return  # a delete of it that was given up has arrived
        if isinstance(loaded, (CheckpointNotFound, CheckpointGone)):
            self.wrong.append(f"lost: {found.step}: {loaded!r}")
        elif not isinstance(loaded, Exception):
            self.same(found.step, loaded)

    def same(self, step: int, loaded: Any) -> None:
        self.compared += 1
        token = loaded.state["token"]
        if token not in self.may[step]:
            self.wrong.append(f"wrong: {step} is {token}, not any of {self.may[step]}")
        try:
            assert_same((loaded.state, loaded.policies), content(token))
        except AssertionError as error:
            self.wrong.append(f"wrong: {step}: {error}")

    def delete(self, step: int) -> None:
        deleted = self.attempt(f"delete {step}", lambda: self.store.delete(step))
        if not isinstance(deleted, Exception) or isinstance(deleted, CheckpointGone):
            self.may[step] = {None}
        elif isinstance(deleted, CheckpointNotFound):
            if None not in self.may[step]:
                self.wrong.append(f"lost: {step}: {deleted!r}")
        else:
            self.may[step] |= {None}

    def prune(self, keep: int) -> None:
        pruned = self.attempt("prune", lambda: self.store.prune(keep))
        if isinstance(pruned, Exception):
            # What is later than `keep` sure ones may be gone, in part.
            kept = sorted(self.surely())[-keep:]
            for step in self.may:
                if step < min(kept, default=0) or None in self.may[step]:
                    self.may[step] |= {None}
            return
        for name in pruned:
            parsed = CheckpointName.parse(name)
            assert parsed is not None
            self.may[parsed.step] = {None}

    def round(self, step: int) -> None:
        self.save(step)
        self.look()
        if step % 3 == 0 and (sure := self.surely()):
            self.delete(random.Random(step).choice(sure))
        if step % 4 == 0:
            self.prune(3)
        if step % 2 == 0:
            self.attempt("gc", lambda: self.store.gc(0))
        self.look()

    def judge(self, direct: CheckpointStore) -> None:
        """Past the trouble, when all that was late has arrived."""
        listed = {ckpt.step: ckpt for ckpt in direct.checkpoints()}
        for step, may in self.may.items():
            if step in listed:
                self.same(step, listed[step].load())
            elif None not in may:
                self.wrong.append(f"lost: {step}, which is {may}")
        self.wrong += [f"wrong: {report}" for report in direct.verify() if not report.ok]
        newest = direct.latest()
        if (newest.step if newest else None) != max(listed, default=None):
            self.wrong.append("backward")


def opened(server: Server, proxy: FaultProxy, url: str) -> CheckpointStore:
    """As a new process opens it: nothing probed, nothing known."""
    probe.forget()
    options = {**server.options, "endpoint_url": proxy.endpoint}
    return CheckpointStore(url, storage_options=options, timeout=TIMEOUT)


def days() -> Iterator[Any]:
    for trouble in TROUBLES:
        if trouble in QUICK:
            yield pytest.param("moto", trouble, 3, id=f"quick-moto-{trouble}")
        for server in ("moto", "seaweedfs", "fake-gcs"):
            yield pytest.param(server, trouble, 6, marks=pytest.mark.slow, id=f"{server}-{trouble}")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("where", "trouble", "rounds"), list(days()))
def test_a_bad_day(
    behind: Callable[[str], tuple[Server, FaultProxy]],
    figures: Figures,
    where: str,
    trouble: str,
    rounds: int,
) -> None:
    server, proxy = behind(where)
    url = server.new_url()
    direct = CheckpointStore(url, storage_options=server.options)
    life = Life(opened(server, proxy, url))
    direct.save(0, *content("0"))
    life.may[0] = {"0"}
    hit = 0
    plan = TROUBLES[trouble]()

    def counted(index: int, seen: Seen) -> Act | Trouble | None:
        nonlocal hit
        act = plan(index, seen)
        hit += act is not None
        return act

    proxy.reset(counted)
    for step in range(1, rounds + 1):
        life.round(step)
    requests = len(proxy.seen)
    proxy.reset()
    proxy.settle()
    life.judge(direct)
    direct.save(rounds + 1, *content("last"))
    life.may[rounds + 1] = {"last"}
    direct.gc(0)
    life.judge(CheckpointStore(url, storage_options=server.options))
    print(
        f"{where}, {trouble}: {requests} requests, {hit} in trouble, {life.counts}, "
        f"slowest error after {life.longest:.1f} s of {TIMEOUT:g} s for each request"
    )
    figures.add("bad days on buckets", 1)
    figures.add("    requests in trouble", hit, "requests faulted")
    for what, count in life.counts.items():
        figures.add(f"    {what}", count)
    figures.add("    loads compared", life.compared, "reads checked")
    figures.add("    lost, wrong, untyped, false-empty", len(life.wrong))
    figures.judge(life.wrong)
    assert hit
    assert not life.wrong, "\n".join(life.wrong)


def test_a_manifest_that_is_removed_comes_back(
    behind: Callable[[str], tuple[Server, FaultProxy]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken rule that late requests must show: no tombstone keeps a late commit out."""

    def remove(self: RegisterCatalog, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        check()
        self.backend.delete([f"{name}/{MANIFEST}" for name in doomed])

    server, proxy = behind("moto")
    url = server.new_url()
    life = Life(opened(server, proxy, url))
    monkeypatch.setattr(RegisterCatalog, "unpublish", remove)
    proxy.reset(lambda index, seen: "again late" if seen.method == "PUT" and MANIFEST in seen.path else None)
    life.save(1)
    for step in range(2, 8):  # on a busy machine the late one may still be the earlier one
        life.save(step)
        life.delete(step)
        proxy.settle()
        life.judge(CheckpointStore(url, storage_options=server.options))
        if life.wrong:
            break
    proxy.reset()
    assert life.wrong


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_here_that_is_wrong_is_told(
    seaweedfs: Server, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """Signatures then bear a time that the server refuses; at once, and nothing is harmed."""
    url = seaweedfs.new_url()
    CheckpointStore(url, storage_options=seaweedfs.options).save(1, *content("1"))
    real = botocore.compat.get_current_datetime
    off = datetime.timedelta(minutes=minutes)
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kw: real(*args, **kw) + off)
        store = CheckpointStore(url, storage_options=seaweedfs.options, timeout=TIMEOUT)
        operations: list[Callable[[], Any]] = [
            store.latest,
            lambda: store.save(2, *content("2")),
            lambda: store.delete(1),
            store.gc,
        ]
        for operate in operations:
            with pytest.raises(StoreDenied, match=r"time.*the clock here"):
                operate()
    assert [ckpt.load().state for ckpt in store.checkpoints()] == [{"token": "1"}]


@pytest.mark.parametrize("act", ["ahead", "behind"])
@pytest.mark.parametrize("ours", [-2e5, 0.0, 2e5])
def test_no_wrong_clock_ends_a_save_that_lives(
    behind: Callable[[str], tuple[Server, FaultProxy]],
    monkeypatch: pytest.MonkeyPatch,
    act: Trouble,
    ours: float,
) -> None:
    """Neither the place's, 20 minutes off, nor our own, more than two days off."""
    server, proxy = behind("moto")
    url = server.new_url()
    direct = CheckpointStore(url, storage_options=server.options)
    direct.save(1, *content("1"))
    attempt: Any = open_catalog(backend_of(direct)).begin(2, "error", "alive")
    with attempt.create("algorithm_state.pkl") as sink:
        sink.write(b"on its way")
    proxy.reset(lambda index, seen: act)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + ours)
        swept = opened(server, proxy, url).gc(600)
    proxy.reset()
    assert swept.attempts == []
    assert server.peek(f"{url}/{attempt.name}/algorithm_state.pkl") == b"on its way"
    assert server.peek(f"{url}/{attempt.name}/{MANIFEST}") is None
