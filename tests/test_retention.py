"""What `prune` keeps: each rule, their unions, and what stays whatever they say."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptstore import BestN, Checkpoint, CheckpointStore, EveryNSteps, LatestDuration, LatestN, Tagged
from ckptstore.cli.app import root as command_line
from ckptstore.errors import CheckpointProtected, InvalidRequest
from ckptstore.find.holds import Hold
from ckptstore.find.removal import Removal
from ckptstore.find.targets import Target
from ckptstore.retention import AnyOf, Candidate, Rule, rule, steps_to_prune
from tests.servers import Server

Opener = Callable[[], CheckpointStore]
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(params=["local", "memory", "moto"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "moto":
        server: Server = request.getfixturevalue("moto")
        url = server.new_url()
        return lambda: CheckpointStore(url, storage_options=server.options)
    url = str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return lambda: CheckpointStore(url)


def candidate(step: int, minutes: float = 0, tagged: bool = False, **metrics: Any) -> Candidate:
    return Candidate(step, (START + timedelta(minutes=minutes)).isoformat(), metrics, tagged)


def kept(keep: Any, *candidates: Candidate) -> list[int]:
    gone = steps_to_prune(candidates, rule(keep))
    return [one.step for one in candidates if one.step not in gone]


# -- rules ---------------------------------------------------------------------------------------------


def test_a_clock_that_was_ahead_makes_none_old() -> None:
    some = [candidate(step, 10 * step) for step in range(1, 5)]
    ahead = candidate(5, 60 * 24 * 3650)._replace(ahead=True)
    rule = LatestDuration(timedelta(minutes=15))
    assert kept(rule, *some, ahead) == [3, 4, 5]
    assert kept(rule, ahead._replace(step=0), *some) == [0, 3, 4]  # and stays itself
    assert kept(rule, ahead._replace(step=4), ahead) == [4, 5]  # with nothing to measure from


@pytest.mark.parametrize("ahead", [timedelta(days=3650), timedelta(days=2)])
def test_a_save_with_the_clock_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(10):
        store.save(step, {"i": step})
    real = datetime.datetime

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return real.now(tz) + ahead

    with monkeypatch.context() as patch:
        patch.setattr("ckptstore.save.save.datetime.datetime", Wrong)
        store.save(10, {"i": 10})
    reader = CheckpointStore(tmp_path)
    assert reader.prune(LatestDuration(timedelta(hours=12)), dry_run=True) == []
    reader.save(11, {"i": 11})  # the clock is right again
    assert reader.prune(LatestDuration(timedelta(hours=12)), dry_run=True) == []


def test_latest() -> None:
    some = [candidate(step) for step in (1, 5, 7)]
    assert kept(1, *some) == kept(LatestN(1), *some) == [7]
    assert kept(LatestN(2), *some) == [5, 7]
    assert kept(9, *some) == [1, 5, 7]
    assert kept(1) == []


def test_best() -> None:
    some = [candidate(1, r=3), candidate(2, r=9), candidate(3, r=9.0), candidate(4, r=math.nan), candidate(5)]
    assert kept(BestN("r", 1), *some) == [3, 5]  # ties go to the newer; 5 is the newest
    assert kept(BestN("r", 2), *some) == [2, 3, 5]
    assert kept(BestN("r", 1, "min"), *some) == [1, 5]
    assert kept(BestN("a/b", 1), candidate(1, a={"b": 2}), candidate(2, a={"b": 1}), candidate(3)) == [1, 3]


def test_a_metric_that_nobody_has_judges_nobody() -> None:
    some = [candidate(1, r=3), candidate(2, r=math.nan), candidate(3)]
    assert kept(BestN("misspelled", 1), *some) == [1, 2, 3]


def test_a_misspelled_metric_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(4):
        store.save(step, {"i": step})
    assert store.best("rewrd") is None
    assert store.prune(BestN("rewrd", 1), dry_run=True) == []
    assert not caplog.messages  # none has any metric: nothing is misspelled
    store.save(4, {"i": 4}, metrics={"reward": math.nan, "env": {"length": 3}})
    for metric, alike in (("rewrd", "reward"), ("env/lenght", "env/length"), ("len", "env/length")):
        calls: list[Callable[[], object]] = [
            partial(store.best, metric),
            partial(store.prune, [1, BestN(metric, 1)]),
        ]
        for call in calls:
            caplog.clear()
            call()
            assert f"no checkpoint has a metric {metric!r}; there are " in caplog.text
            assert repr(alike) in caplog.text
        listed = CliRunner().invoke(command_line, ["ls", str(tmp_path), "--metric", metric])
        assert f"no checkpoint has a metric {metric!r}" in listed.stderr
        for option in ("--best", "--least"):
            result = CliRunner().invoke(command_line, ["prune", str(tmp_path), option, f"{metric}=1"])
            assert result.exit_code == 2
            assert repr(alike) in result.stderr
    assert len(store.checkpoints()) == 5
    caplog.clear()
    for metric in ("reward", "env/length", "env"):
        store.prune(BestN(metric, 1), dry_run=True)
        store.best(metric)
    assert not caplog.messages


def test_what_was_resumed_from_is_spared_by_prune_and_not_by_delete(opener: Opener) -> None:
    """`delete` names its victim, `prune` decides by itself: see docs/decisions/003."""
    store = opener()
    for step in range(3):
        store.save(step, {"i": step})
    resumed = opener()
    resumed.get(0).load()
    assert resumed.prune(1) == ["checkpoint_000001"]
    resumed.delete(0)
    assert [checkpoint.step for checkpoint in resumed.checkpoints()] == [2]
    saved = resumed.save(3, {"i": 3})  # what is gone is nobody's base
    assert saved.verify().ok


def test_every() -> None:
    assert kept(EveryNSteps(100), *map(candidate, (0, 50, 100, 150, 200, 250))) == [0, 100, 200, 250]


def test_duration_counts_from_the_newest() -> None:
    some = [candidate(1, 0), candidate(2, 59.9), candidate(3, 60), candidate(4, 120)]
    assert kept(LatestDuration(timedelta(hours=1)), *some) == [3, 4]
    late = Candidate(5, "2031-01-01T00:00:00Z", {})
    later = [candidate(4, 120)._replace(created=text) for text in ("yesterday", "2032-01-01T00:00:00+02:00")]
    assert kept(LatestDuration(timedelta(0)), *later[:1], late) == [4, 5]  # can't be read
    assert kept(LatestDuration(timedelta(0)), *later[1:], late) == [4, 5]  # claims to be later
    assert kept(LatestDuration(timedelta(0)), candidate(4), late._replace(created="?")) == [4, 5]


def test_tagged() -> None:
    assert kept(Tagged(), candidate(1, tagged=True), candidate(2), candidate(3)) == [1, 3]


def test_union() -> None:
    some = [candidate(step, r=-step) for step in range(1, 10)]
    united = LatestN(1) | BestN("r", 2) | EveryNSteps(5)
    assert kept(united, *some) == kept([1, BestN("r", 2), EveryNSteps(5)], *some) == [1, 2, 5, 9]
    assert united == AnyOf((LatestN(1), BestN("r", 2), EveryNSteps(5)))
    assert 2 | EveryNSteps(5) == LatestN(2) | EveryNSteps(5)
    assert EveryNSteps(5) | 2 == EveryNSteps(5) | LatestN(2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatestN(0),
        lambda: BestN("r", -1),
        lambda: BestN("r", 1, "best"),  # type: ignore[arg-type]  # what untyped callers pass
        lambda: EveryNSteps(True),
        lambda: LatestDuration(5),  # type: ignore[arg-type]
        lambda: LatestDuration(timedelta(seconds=-1)),
        lambda: rule([]),
        lambda: rule("3"),  # type: ignore[arg-type]
        lambda: rule(None),  # type: ignore[arg-type]
        lambda: rule({"keep": 3}),  # type: ignore[dict-item]
        lambda: rule([3, None]),  # type: ignore[list-item]
        lambda: LatestN(3) | "3",  # type: ignore[operator]
    ],
)
def test_nonsense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest):
        make()


# -- against a plain model ------------------------------------------------------------------------------

NUMBERS = st.none() | st.floats(allow_infinity=True) | st.integers(-3, 3)
CANDIDATES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 300), NUMBERS, st.booleans()), unique_by=lambda item: item[0]
).map(lambda items: [candidate(s, m, t, r=r) for s, m, r, t in sorted(items, key=lambda item: item[0])])
RULES = st.one_of(
    st.integers(1, 5).map(LatestN),
    st.builds(BestN, st.just("r"), st.integers(1, 5), st.sampled_from(["max", "min"])),
    st.integers(1, 9).map(EveryNSteps),
    st.integers(0, 200).map(lambda minutes: LatestDuration(timedelta(minutes=minutes))),
    st.just(Tagged()),
)


def should_stay(one: Candidate, among: list[Candidate], keep: Rule) -> bool:
    """The same said of one checkpoint at a time, by counting those ahead of it."""
    if isinstance(keep, LatestN):
        return sum(other.step > one.step for other in among) < keep.n
    if isinstance(keep, EveryNSteps):
        return one.step in range(0, 1000, keep.n)
    if isinstance(keep, Tagged):
        return one.tagged
    if isinstance(keep, LatestDuration):
        first, last = (datetime.datetime.fromisoformat(item.created) for item in (one, among[-1]))
        return last - first <= keep.duration
    assert isinstance(keep, BestN)
    judged = [
        other for other in among if other.metrics["r"] is not None and math.isfinite(other.metrics["r"])
    ]
    if one not in judged:
        return not judged

    def ahead(other: Candidate) -> bool:
        left, right = other.metrics["r"], one.metrics["r"]
        return other.step > one.step if left == right else (left > right) == (keep.mode == "max")

    return sum(map(ahead, judged)) < keep.n


@settings(max_examples=300, deadline=None)
@given(CANDIDATES, st.lists(RULES, min_size=1, max_size=3))
def test_rules_against_a_model(candidates: list[Candidate], rules: list[Rule]) -> None:
    expected = [
        one.step
        for one in candidates
        if one is not candidates[-1] and not any(should_stay(one, candidates, keep) for keep in rules)
    ]
    assert steps_to_prune(candidates, rule(rules)) == expected


# -- the store -----------------------------------------------------------------------------------------


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.checkpoints()]


def test_prune_by_rules(opener: Opener) -> None:
    store = opener()
    for step, reward in enumerate([5, 9, 1, 7, 2, 3]):
        store.save(step, metrics={"reward": reward})
    store.tag("champion", 0)
    store.pin(4)
    resumed = opener()
    resumed.get(2).load()
    keep = LatestN(1) | BestN("reward", 1)
    assert resumed.prune(keep, dry_run=True) == ["checkpoint_000003"]
    assert steps(store) == [0, 1, 2, 3, 4, 5]
    assert resumed.prune(keep) == ["checkpoint_000003"]
    assert steps(store) == [0, 1, 2, 4, 5]
    assert store.prune([EveryNSteps(4), LatestDuration(timedelta(days=9))]) == []
    assert store.prune(Tagged()) == ["checkpoint_000001", "checkpoint_000002"]
    assert steps(store) == [0, 4, 5]


def with_old_view(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `store` decides by what it sees now, as if its prune were that slow."""
    seen: list[Checkpoint] = store.checkpoints()
    monkeypatch.setattr(store, "checkpoints", lambda: seen)


def test_what_became_the_newest_meanwhile_stays(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store, slow = opener(), opener()
    for step in range(4):
        store.save(step)
    with_old_view(slow, monkeypatch)
    store.rollback(2)
    assert slow.prune(1) == ["checkpoint_000000", "checkpoint_000001"]
    assert steps(store) == [2]
    store.delete(2)
    assert store.latest() is None  # `delete` does as it is told


def test_rollback_holds_its_target(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store, slow = opener(), opener()
    for step in range(3):
        store.save(step)
    with_old_view(slow, monkeypatch)
    delete = Removal.delete
    pruned: list[list[str]] = []

    def delete_late(
        self: Removal,
        target: Target,
        superseded: bool = False,
        held: Hold | None = None,
        dry_run: bool = False,
    ) -> None:
        if not pruned:
            pruned.append([])
            pruned[0] += slow.prune(1)
        delete(self, target, superseded, held, dry_run)

    monkeypatch.setattr(Removal, "delete", delete_late)
    assert store.rollback(0) == ["checkpoint_000002"]  # the other was removed by the prune
    assert pruned == [["checkpoint_000001"]]
    assert steps(store) == [0]
    store.delete(store.get(0))  # not held any longer


def test_a_rollback_that_fails_holds_nothing(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opener()
    for step in range(3):
        store.save(step)

    def refuse(self: Removal, target: Target, held: Hold) -> None:
        raise CheckpointProtected(str(target.name))

    with monkeypatch.context() as patch:
        patch.setattr(Removal, "delete", refuse)
        with pytest.raises(CheckpointProtected):
            store.rollback(1)
    store.delete(1)
