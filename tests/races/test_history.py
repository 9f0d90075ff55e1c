"""The judge itself: each rule finds the history made to break it, and finds nothing wrong in a sound one."""

from __future__ import annotations

import json

import pytest

from tests.races.history import NEVER, Event, judge


def save(
    token: str,
    begin: float,
    end: float,
    step: int,
    outcome: str = "ok",
    mode: str = "error",
    attempt: int = 0,
) -> Event:
    return Event(
        "save", begin, end, outcome, token=token, step=step, mode=mode, name=named(step, attempt, outcome)
    )


def named(step: int, attempt: int = 0, outcome: str = "ok") -> str:
    return "" if outcome != "ok" else f"checkpoint_{step:06}" + (f"-r{attempt}" if attempt else "")


def latest(begin: float, end: float, step: int = -1, token: str = "", attempt: int = 0) -> Event:
    name = named(step, attempt) if token else ""
    return Event("latest", begin, end, step=step, token=token, name=name)


def delete(begin: float, end: float, step: int, token: str, outcome: str = "ok") -> Event:
    return Event("delete", begin, end, outcome, step=step, token=token, name=named(step))


A, B = save("a", 0, 1, 1), save("b", 2, 3, 2)

SOUND = {
    "a read may see what is being saved, or not yet": [A, save("b", 2, 5, 2), latest(3, 4, 2, "b")],
    "a read may miss what is being saved": [A, save("b", 2, 5, 2), latest(3, 4, 1, "a")],
    "a read that began before": [A, B, latest(1.5, 9, 1, "a")],
    "deleted meanwhile": [A, B, delete(4, 6, 2, "b"), latest(5, 5.5, 1, "a"), latest(7, 8, 1, "a")],
    "deleted, perhaps": [A, B, delete(4, 6, 2, "b", "killed"), latest(7, 8, 1, "a"), latest(9, 10, 2, "b")],
    "all deleted": [A, delete(2, 3, 1, "a"), latest(4, 5)],
    "nothing yet": [latest(-2, -1), A],
    "a killed save may be there": [A, save("b", 2, 3, 2, "killed"), latest(7, 8, 2, "b")],
    "a killed save may not": [A, save("b", 2, 3, 2, "killed"), latest(7, 8, 1, "a")],
    "replaced": [A, save("c", 2, 3, 1, mode="replace", attempt=1), latest(4, 5, 1, "c", 1)],
    "saved anew after its end": [A, delete(2, 3, 1, "a"), save("c", 4, 5, 1), latest(6, 7, 1, "c")],
    "one winner": [A, save("c", 0, 1, 1, "CheckpointExists")],
    "sealed by the other": [A, save("c", 0.5, 4, 1, "SaveAborted")],
    "given up by a sweep": [save("c", 0, 9, 1, "SaveAborted"), Event("gc", 5, 6, grace=2)],
    "a listing of all": [A, B, Event("list", 4, 5, found=((1, "a"), (2, "b")))],
    "a rollback that was stopped by a tag": [
        A, B, Event("rollback", 4, 5, "CheckpointProtected", step=1, token="a", name=named(1)),
        latest(6, 7, 1, "a"),
    ],
    "pruned": [
        A, B, Event("prune", 4, 5, names=(named(1),)),
        Event("load", 6, 7, "CheckpointGone", step=1, token="a"),
    ],
    "a tag that moves on": [
        A, B, Event("tag", 4, 5, tag="t", token="a", step=1, name=named(1)),
        Event("tag", 6, 7, tag="t", token="b", step=2, name=named(2)), delete(8, 9, 1, "a"),
        Event("read-tag", 10, 11, tag="t", token="b", step=2, name=named(2)),
    ],
}  # fmt: skip

BROKEN = {
    "stale": [A, B, latest(4, 5, 1, "a")],
    "backward": [A, save("b", 2, 9, 2), latest(3, 4, 2, "b"), latest(5, 6, 1, "a")],
    "future read": [A, latest(2, 3, 2, "b"), save("b", 4, 5, 2)],
    "false empty": [A, latest(2, 3)],
    "failed save seen": [A, save("c", 2, 3, 2, "SaveAborted"), latest(4, 5, 2, "c")],
    "comes back": [A, B, delete(4, 5, 2, "b"), latest(6, 7, 2, "b")],
    "superseded": [A, save("c", 2, 3, 1, mode="replace", attempt=1), latest(4, 5, 1, "a")],
    "damaged read": [A, Event("load", 2, 3, "damaged", step=1, token="a")],
    "two winners": [A, save("c", 0.5, 2, 1)],
    "missed": [A, B, Event("list", 4, 5, found=((2, "b"),))],
    "out of order": [A, B, Event("list", 4, 5, found=((2, "b"), (1, "a")))],
    "lost": [A, B, Event("list", 4, 5, who="last look", found=((2, "b"),))],
    "gone": [A, Event("load", 2, 3, "CheckpointGone", step=1, token="a")],
    "untyped": [A, Event("latest", 2, 3, "untyped KeyError")],
    "exists without a reason": [save("c", 0, 1, 5, "CheckpointExists")],
    "aborted without a reason": [save("c", 0, 1, 5, "SaveAborted"), Event("gc", 0, 1, grace=9)],
    "pruned the newest": [A, B, Event("prune", 4, 5, names=(named(1), named(2)))],
    "tag on a deleted one": [
        A, Event("tag", 2, 3, tag="t", token="a", step=1, name=named(1)), delete(4, 5, 1, "a"),
    ],
    "stale tag": [
        A, B, Event("tag", 4, 5, tag="t", token="a", step=1, name=named(1)),
        Event("tag", 6, 7, tag="t", token="b", step=2, name=named(2)),
        Event("read-tag", 8, 9, tag="t", token="a", step=1, name=named(1)),
    ],
}  # fmt: skip

MORE = [
    ("damaged read", [A, latest(2, 3, 1, "z")]),
    ("damaged read", [A, B, latest(4, 5, 1, "b")]),
    ("comes back", [A, B, Event("prune", 4, 5, names=(named(1),)), Event("load", 6, 7, step=1, token="a")]),
    ("two winners", [A, save("c", 5, 6, 1, attempt=1)]),
    ("two winners", [save("k", 0, 1, 1, "killed"), latest(2, 3, 1, "k"), save("c", 5, 6, 1)]),
    ("missed", [A, Event("get", 2, 3, "CheckpointNotFound", step=1)]),
    ("lost", [A, Event("latest", 2, 3, who="last look")]),
    ("untyped", [Event("list", 0, NEVER, "CheckpointCorrupt")]),
    # A tag on what was gone before, and one whose target nobody ever gave it.
    ("tag on a deleted one", [A, delete(2, 3, 1, "a"), Event("tag", 4, 5, tag="t", token="a", step=1)]),
    ("stale tag", [A, Event("read-tag", 2, 3, tag="t", token="a", step=1, name=named(1))]),
    # Only what was deleted may be missing: another step's end excuses nothing.
    ("stale", [A, B, delete(4, 5, 1, "a"), latest(6, 7)]),
    ("stale", [A, save("c", 2, 3, 3), B, delete(4, 5, 3, "c"), latest(6, 7, 1, "a")]),
]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_left_in_peace(name: str) -> None:
    assert judge(SOUND[name]) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_notices_its_breach(rule: str) -> None:
    assert rule in {violation.rule for violation in judge(BROKEN[rule])}


@pytest.mark.parametrize(("rule", "events"), MORE)
def test_other_breaches_are_noticed_as_well(rule: str, events: list[Event]) -> None:
    found = {violation.rule for violation in judge(events)}
    assert rule in found or (rule == "stale" and "false empty" in found)


def test_an_event_survives_its_log() -> None:
    event = Event("list", 1.5, NEVER, "killed", found=((1, "a"),), names=("checkpoint_000001",))
    assert Event.from_fields(json.loads(event.to_line())) == event
