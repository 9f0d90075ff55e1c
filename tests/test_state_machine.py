"""Any sequence of operations, against a plain dict: hypothesis looks for one on which they differ."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointExists, CheckpointNotFound, CheckpointProtected
from tests.figures import TOTAL
from tests.servers import Server

STEPS = st.integers(0, 5)
TAGS = st.sampled_from(["champion", "other"])
VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.booleans(), max_size=3)
EXAMPLES = int(os.environ.get("CKPTSTORE_EXAMPLES", "25"))


class StoreMachine(RuleBasedStateMachine):
    """`model` is what the store should hold: step to (state, metric), and tags to steps."""

    def __init__(self) -> None:
        super().__init__()
        self.url = self.new_url()
        with self.open(create=True) as maker:
            maker.delete(maker.save(10**6))
        self.store = self.open(create=True)
        self.model: dict[int, tuple[Any, float]] = {}
        self.tags: dict[str, int] = {}
        self.loaded: int | None = None
        self.last: int | None = None
        """The step that was saved or loaded last."""
        TOTAL.add(f"random lives of a store against a dict, {self.place}", 1)

    place = ""

    def open(self, create: bool) -> CheckpointStore:
        return CheckpointStore(self.url, create=create)

    def new_url(self) -> str:
        raise NotImplementedError

    @rule(step=STEPS, value=VALUES, metric=st.floats(-9, 9), alone=st.booleans())
    def save(self, step: int, value: Any, metric: float, alone: bool) -> None:
        metrics = {"m": metric}
        if step in self.model:
            with pytest.raises(CheckpointExists):
                self.store.save(step, value, metrics=metrics)
            assert self.store.save(step, value, if_exists="return").state == self.model[step][0]
        else:
            if alone:
                self.store.save(step, policy=value, metrics=metrics)
            else:
                self.store.save(step, value, {"p": value}, metrics=metrics)
            self.model[step] = (value, metric)
            self.last = step

    @rule(step=STEPS, value=VALUES, metric=st.floats(-9, 9))
    def replace(self, step: int, value: Any, metric: float) -> None:
        if step in self.tags.values():
            return  # the tag keeps the old attempt: said and tested elsewhere
        self.store.save_async(step, value, metrics={"m": metric}, if_exists="replace").result(60)
        self.model[step] = (value, metric)
        self.last = step
        if self.loaded == step:
            self.loaded = None

    @rule(step=STEPS)
    def delete(self, step: int) -> None:
        if step not in self.model:
            with pytest.raises(CheckpointNotFound):
                self.store.delete(step)
        elif step in self.tags.values():
            with pytest.raises(CheckpointProtected):
                self.store.delete(step)
        else:
            self.store.delete(step)
            del self.model[step]

    @rule(step=STEPS)
    def load(self, step: int) -> None:
        if step not in self.model:
            with pytest.raises(CheckpointNotFound):
                self.store.get(step)
        else:
            assert self.store.get(step).load().state == self.model[step][0]
            self.loaded = self.last = step

    @rule(tag=TAGS, step=STEPS)
    def tag(self, tag: str, step: int) -> None:
        if step in self.model:
            self.store.tag(tag, step)
            self.tags[tag] = step
        else:
            with pytest.raises(CheckpointNotFound):
                self.store.tag(tag, step)

    @precondition(lambda self: self.tags)
    @rule()
    def untag(self) -> None:
        tag = sorted(self.tags)[0]
        self.store.untag(tag)
        del self.tags[tag]

    @rule(keep=st.integers(1, 4))
    def prune(self, keep: int) -> None:
        keeping = {*sorted(self.model)[-keep:], *self.tags.values(), self.loaded, self.last}
        doomed = [step for step in sorted(self.model) if step not in keeping]
        assert len(self.store.prune(keep)) == len(doomed)
        for step in doomed:
            del self.model[step]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def rollback(self, data: Any) -> None:
        target = data.draw(st.sampled_from(sorted(self.model)))
        later = [step for step in self.model if step > target]
        if any(step > target for step in self.tags.values()):
            with pytest.raises(CheckpointProtected):
                self.store.rollback(target)
        else:
            self.store.rollback(target)
            for step in later:
                del self.model[step]
            self.loaded = self.last = target

    @rule()
    def gc(self) -> None:
        self.store.gc()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open(create=False)
        self.loaded = self.last = None

    @invariant()
    def same(self) -> None:
        TOTAL.add(f"    operations in them, each followed by a look at everything, {self.place}", 1)
        listed = self.store.checkpoints()
        TOTAL.add(f"    checkpoints compared in them, {self.place}", len(listed), "reads checked")
        assert {ckpt.step: ckpt.state for ckpt in reversed(listed)} == {
            step: value for step, (value, _) in self.model.items()
        }
        # reading marked the last one as resumed from: forget it, the model does not know
        lineage = self.store._lineage
        lineage.resumed_from = self.store.get(self.loaded).id if self.loaded in self.model else None
        lineage.last = self.store.get(self.last) if self.last in self.model else None
        assert [ckpt.step for ckpt in listed] == sorted(self.model)
        newest = self.store.latest()
        assert (newest.step if newest else None) == max(self.model, default=None)
        best = self.store.best("m")
        assert (best.metrics["m"] if best else None) == max((m for _, m in self.model.values()), default=None)
        assert self.store.tags() == {tag: self.store.get(step).name for tag, step in self.tags.items()}


class OnDisk(StoreMachine):
    place = "local disk"

    def new_url(self) -> str:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        return self.directory

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


class InMemory(StoreMachine):
    place = "memory"

    def new_url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"


class OnMoto(StoreMachine):
    place = "moto"
    server: Server

    def new_url(self) -> str:
        return self.server.new_url()

    def open(self, create: bool) -> CheckpointStore:
        return CheckpointStore(self.url, storage_options=self.server.options, create=create)


SETTINGS = settings(
    max_examples=EXAMPLES, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnDisk = pytest.mark.timeout(1800)(OnDisk.TestCase)
TestOnDisk.settings = SETTINGS
TestInMemory = pytest.mark.timeout(1800)(InMemory.TestCase)
TestInMemory.settings = SETTINGS


@pytest.mark.timeout(1800)
def test_on_moto(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter: each operation is followed by dozens of requests that look at everything."""
    monkeypatch.setattr(OnMoto, "server", moto, raising=False)
    fewer = settings(SETTINGS, max_examples=max(2, EXAMPLES // 10), stateful_step_count=12)
    run_state_machine_as_test(OnMoto, settings=fewer)
