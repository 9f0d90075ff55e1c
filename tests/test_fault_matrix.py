"""One fault at every request of every operation in turn, by every kind of fault, on real servers.

A single fault must not cost anything: the operation goes through, or ends in a typed error; and
whatever it says, a look past the fault finds every acknowledged checkpoint whole, and the next save works.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.objects import opener, s3_obstore
from ckptstore.commit import open_catalog
from ckptstore.commit.objects import probe
from ckptstore.errors import CheckpointError, CheckpointNotFound, CheckpointProtected
from ckptstore.format.names import CheckpointName
from tests.faults import Act, FaultProxy, Seen, fault_proxy
from tests.figures import Figures
from tests.inside import backend_of
from tests.servers import Server
from tests.stores import assert_same

ACTS: tuple[Act, ...] = tuple(act for act in get_args(Act) if act != "501")
QUICK = {
    ("moto", "save", "cut after"),
    ("moto", "create", "half"),
    ("moto", "latest", "empty"),
    ("moto", "load", "corrupt"),
    ("moto", "protect", "empty"),
    ("moto", "replace", "half"),
    ("moto, fast", "save", "flip"),
    ("seaweedfs, fast", "save", "flip"),
    ("fake-gcs", "save", "flip"),
    ("rclone", "save", "half"),
    ("moto", "adopt", "flip"),
    ("fake-gcs", "delete", "503"),
    ("fake-gcs", "gc", "cut before"),
}
"""Those that every change has to pass; the rest of the matrix is longer."""
SERVERS = ("moto", "seaweedfs", "fake-gcs", "rclone")
PLACES = (*SERVERS, *(f"{server}, fast" for server in SERVERS))
"""Servers, and whether obstore carries the contents."""
ADOPTED = bytes(range(256)) * 100
TIMEOUT = 5.0
"""Seconds the store may try for. A request that hangs is given up after a part of them."""


@pytest.fixture(scope="module")
def behind(start_server: Callable[[str], Server]) -> Iterator[Callable[[str], tuple[Server, FaultProxy]]]:
    """The server of that name, and a proxy in front of it."""
    proxies: dict[str, FaultProxy] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> tuple[Server, FaultProxy]:
            server = start_server(name)
            if name not in proxies:
                proxies[name] = stack.enter_context(fault_proxy(server.endpoint))
            return server, proxies[name]

        yield start


def content(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Large enough for a copy made by the server, in part the same at every step."""
    frozen = {"weights": {"w": np.arange(20_000.0)}}
    return {"step": step}, {"old": frozen, "new": {"weights": {"w": np.full(9_000, step)}}}


@dataclass
class Trial:
    """A store with its steps 0 and 1, and operations through a proxy that breaks one request of each."""

    server: Server
    proxy: FaultProxy
    url: str
    step: int = 1
    """The newest one committed before the operation in hand."""

    def __post_init__(self) -> None:
        self.single_writer = self.server.name == "rclone"
        self.direct = self.opened(self.server.options)

    def through(self) -> CheckpointStore:
        """As a new process opens it: nothing probed, nothing known."""
        probe.forget()
        s3_obstore.forget()
        return self.opened({**self.server.options, "endpoint_url": self.proxy.endpoint}, timeout=TIMEOUT)

    def opened(self, options: Mapping[str, Any], **settings: Any) -> CheckpointStore:
        return CheckpointStore(
            self.url, storage_options=options, single_writer=self.single_writer, **settings
        )

    def whole(self, step: int) -> bool:
        """Whether the step is committed, past the proxy; if it is, it has to be whole."""
        try:
            ckpt = self.direct.get(step)
        except CheckpointNotFound:
            return False
        assert ckpt.verify().ok
        if ckpt.manifest.origin == "save":
            loaded = ckpt.load()
            assert_same((loaded.state, loaded.policies), content(step))
        return True


def create(trial: Trial) -> None:
    """The first save into a new store."""
    store = trial.through()
    store.save(0, *content(0))
    assert trial.whole(0), "lost"


def save(trial: Trial) -> None:
    store = trial.through()
    newest = store.latest()
    assert newest is not None, "false-empty"
    assert newest.step == trial.step, "backward"
    newest.load()  # so that what doesn't change is copied by the server
    trial.step += 1
    store.save(trial.step, *content(trial.step))
    assert trial.whole(trial.step), "lost"


def load(trial: Trial) -> None:
    ckpt = trial.through().latest()
    assert ckpt is not None, "false-empty"
    loaded = ckpt.load()
    assert_same((loaded.state, loaded.policies), content(trial.step))


def latest(trial: Trial) -> None:
    store = trial.through()
    ckpt = store.latest()
    assert ckpt is not None, "false-empty"
    assert ckpt.step == trial.step, "backward"
    assert [ckpt.step for ckpt in store.checkpoints()] == [0, 1]


def delete(trial: Trial) -> None:
    trial.through().delete(trial.step)
    assert not trial.whole(trial.step), "comes back"


def replace(trial: Trial) -> None:
    trial.through().save(trial.step, *content(trial.step), if_exists="replace")
    assert trial.whole(trial.step), "lost"


def protect(trial: Trial) -> None:
    """What is tagged stays, whatever a listing of the tags says."""
    store = trial.through()
    assert store.tags().keys() == {"champion"}, "a tag is lost"
    with pytest.raises(CheckpointProtected):
        store.delete(0)


def adopt(trial: Trial) -> None:
    """A directory that another program wrote."""
    trial.step += 1
    for name in ("one.bin", "two.bin"):
        trial.server.store(f"{trial.url}/{CheckpointName(trial.step)}/{name}", ADOPTED)
    trial.through().adopt(str(CheckpointName(trial.step)))
    ckpt = trial.direct.get(trial.step)
    assert ckpt.verify().ok
    assert [file.size for file in ckpt.manifest.files] == [len(ADOPTED)] * 2
    trial.direct.delete(trial.step)


def follow_advice(trial: Trial, failed: CheckpointError) -> None:
    """Remove the file that the error names, if it is one of ours, and adopt again."""
    if failed.remedy.startswith("See that nothing adopts this directory now, remove that file"):
        backend_of(trial.direct).delete([failed.what.removeprefix(f"{trial.url}/")])
    assert trial.direct.adopt(str(CheckpointName(trial.step))).verify().ok
    trial.direct.delete(trial.step)


def gc(trial: Trial) -> None:
    trial.through().gc(0)


OPERATIONS: dict[str, Callable[[Trial], None]] = {
    "create": create,
    "save": save,
    "load": load,
    "latest": latest,
    "delete": delete,
    "replace": replace,
    "protect": protect,
    "adopt": adopt,
    "gc": gc,
}


def prepare(trial: Trial, name: str) -> None:
    """What the operation needs to find."""
    if name == "create":
        trial.url = trial.server.new_url()
        trial.direct = trial.opened(trial.server.options)
    elif name == "protect":
        trial.direct.tag("champion", 0)
    elif name in ("delete", "replace"):
        trial.step += 1
        trial.direct.save(trial.step, *content(trial.step))
    elif name == "gc":
        catalog = open_catalog(backend_of(trial.direct), single_writer=trial.single_writer)
        attempt = catalog.begin(trial.step + 1, "error", uuid.uuid4().hex)
        with attempt.create("algorithm_state.pkl") as sink:
            sink.write(b"what a dead writer left")


def matrix() -> Iterator[Any]:
    for place, name, act in itertools.product(PLACES, OPERATIONS, ACTS):
        marks = [] if (place, name, act) in QUICK else [pytest.mark.slow]
        yield pytest.param(place, name, act, marks=marks, id=f"{place}-{name}-{act}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("where", "name", "act"), list(matrix()))
def test_one_fault_at_every_request(
    behind: Callable[[str], tuple[Server, FaultProxy]],
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    where: str,
    name: str,
    act: Act,
) -> None:
    host, _, fast = where.partition(", ")
    monkeypatch.setattr(opener, "FAST", bool(fast))
    server, proxy = behind(host)
    trial = Trial(server, proxy, server.new_url())
    for step in (0, 1):
        trial.direct.save(step, *content(step))
    at, longest = 0, 0.0
    unsaved: set[int] = set()  # steps whose save was not acknowledged: there, or not, or cut short
    while True:
        proxy.reset()
        prepare(trial, name)
        hit: list[bool] = []

        def plan(index: int, seen: Seen, at: int = at, hit: list[bool] = hit) -> Act | None:
            if index == at:
                hit.append(seen.suffers(act))
            return act if index == at and hit[0] else None

        proxy.reset(plan)
        began = time.monotonic()
        failed = None
        try:
            OPERATIONS[name](trial)
        except CheckpointError as error:
            failed = error
        longest = max(longest, time.monotonic() - began)
        proxy.reset()
        if hit and hit[0]:
            figures.add(f"requests faulted: {name} on {where}", 1, "requests faulted")
            figures.add(f"    of which ended in a typed error: {name} on {where}", int(failed is not None))
            if failed is not None:
                print(f"{where} {name} {act} at request {at}: {failed!r}")
        if failed is not None and name == "adopt":
            follow_advice(trial, failed)
        elif failed is not None:
            whole = trial.whole(trial.step)
            assert whole or name != "replace", "what was to be replaced is lost"
            unsaved.add(trial.step)
            if name in ("create", "save"):
                trial.step += 1
                trial.direct.save(trial.step, *content(trial.step))
        at += 1
        if not hit:
            break
    if name != "create":
        for step in (0, 1):
            assert trial.whole(step), f"{step} is lost"
    suspects = {f"{trial.direct.url}/{CheckpointName(step)}" for step in unsaved}
    assert {report.name for report in trial.direct.verify() if not report.ok} <= suspects
    print(f"{where} {name} {act}: {at} requests, longest {longest:.1f} s")
