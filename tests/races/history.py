"""What processes did to a store, and whether all of it can be true at once.

Every operation is an interval on one clock: it took effect at some moment between its beginning and its
end, or not at all, if its process died or it was told nothing certain. The rules below use only what
follows from that for certain, so whatever they report did go wrong. `latest` is judged as a register
that only ever rises, unless what it held was deleted.
"""

from __future__ import annotations

import bisect
import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ckptstore.format.names import CheckpointName

NEVER = float("inf")
NO_EFFECT = frozenset({"CheckpointExists", "CheckpointNotFound", "CheckpointProtected", "SaveAborted"})
"""Outcomes that promise that nothing happened."""
UNCERTAIN = frozenset({"killed", "StoreUnavailable"})
TYPED = NO_EFFECT | UNCERTAIN | {"ok", "CheckpointGone"}
"""Every outcome that racing on a healthy place may have."""


@dataclass(frozen=True)
class Event:
    """One operation of one process."""

    op: str
    begin: float
    end: float
    """For one that never ended: when its process was dead for certain."""
    outcome: str = "ok"
    """The name of the error's class, "killed", or "damaged" if what it read isn't what was saved."""
    who: str = ""
    step: int = -1
    token: str = ""
    """Names one save among all: the one made, found, deleted or tagged. Empty: nothing was found."""
    name: str = ""
    """Of the checkpoint: where it was put, found or removed."""
    mode: str = "error"
    """What a save does where the step is taken."""
    tag: str = ""
    names: tuple[str, ...] = ()
    """What prune and rollback say that they removed."""
    found: tuple[tuple[int, str], ...] = ()
    """Step and token of what a listing showed, in its order."""
    grace: float = 0.0
    why: str = ""

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Event:
        known: dict[str, Any] = dict(fields)
        known["names"] = tuple(known.get("names", ()))
        known["found"] = tuple((step, token) for step, token in known.get("found", ()))
        return cls(**known)


class Violation(NamedTuple):
    """A rule that was broken, and by what."""

    rule: str
    text: str


class Saved(NamedTuple):
    """One save that may have been committed."""

    event: Event
    committed: float
    """When it was committed at the latest; NEVER if nobody saw it."""


def judge(events: Iterable[Event]) -> list[Violation]:
    """Every broken rule that follows from the history, the gravest reading of none."""
    return list(_Judge(list(events)).violations())


class _Judge:
    def __init__(self, events: list[Event]) -> None:
        self.events = sorted(events, key=lambda event: event.begin)
        self.saves = {event.token: event for event in events if event.op == "save"}
        self.sightings = list(_sightings(self.events))
        seen: dict[str, float] = {}
        where: dict[str, str] = {}
        for event, _, token in self.sightings:
            seen[token] = min(event.end, seen.get(token, NEVER))
            where.setdefault(token, event.name)
        self.seen_by = seen
        self.saved: dict[str, Saved] = {}
        self.at_step: dict[int, list[Saved]] = collections.defaultdict(list)
        self.names: dict[str, str] = {token: name for token, name in where.items() if name}
        for token, event in self.saves.items():
            acknowledged = event.end if event.outcome == "ok" else NEVER
            if event.outcome == "ok":
                self.names[token] = event.name
            saved = Saved(event, min(acknowledged, seen.get(token, NEVER)))
            self.saved[token] = saved
            self.at_step[event.step].append(saved)
        self.steps = sorted(self.at_step)
        self.removals = [event for event in self.events if event.op in ("delete", "prune", "rollback")]
        self.removals_at: dict[int, list[Event]] = collections.defaultdict(list)
        self.removals_anywhere: list[Event] = []
        for event in self.removals:
            for step in self._reach(event):
                self.removals_at[step].append(event)
        self.gone = self._certainly_gone()

    def _reach(self, event: Event) -> Iterator[int]:
        """The steps at which a removal may have removed something."""
        if event.outcome == "ok" and event.op != "delete":
            yield from {_parsed(name).step for name in event.names}
        elif event.op == "delete":
            if event.outcome not in NO_EFFECT and event.outcome != "CheckpointGone":
                yield event.step
        else:
            # It may have been at any, or for a rollback at any later one, before something stopped it.
            yield from (step for step in self.steps if event.op == "prune" or step > event.step)

    def _certainly_gone(self) -> dict[str, Event]:
        """Token to the removal that removed it: it was there before, and the removal succeeded."""
        gone: dict[str, Event] = {}
        for event in self.removals:
            if event.outcome != "ok":
                continue
            for name in (event.name,) if event.op == "delete" else event.names:
                removed = _parsed(name)
                for saved in self.at_step[removed.step]:
                    token = saved.event.token
                    there = self.names.get(token)
                    if (
                        there is not None
                        and _parsed(there).attempt <= removed.attempt
                        and saved.committed < event.begin
                        and token not in gone
                    ):
                        gone[token] = event
        return gone

    def _may_be_removed(self, saved: Saved, until: float) -> bool:
        """Whether any removal that began before `until` can have removed it."""
        return any(
            removal.begin < until and removal.end > saved.event.begin
            for removal in self.removals_at[saved.event.step]
        )

    def _surely_there(self, step: int, begin: float, end: float) -> Saved | None:
        """A save that keeps `step` taken from `begin` to `end` for certain: a replacement counts too."""
        for saved in self.at_step[step]:
            if saved.committed < begin and not self._may_be_removed(saved, end):
                return saved
        return None

    # -- the rules ------------------------------------------------------------------------------

    def violations(self) -> Iterator[Violation]:
        for event in self.events:
            if event.outcome == "damaged":
                yield Violation("damaged read", f"{event}")
            elif event.outcome not in TYPED:
                yield Violation("untyped", f"{event}")
        for event, step, token in self.sightings:
            yield from self._judge_sighting(event, step, token)
        for event in self.events:
            if event.op == "latest" and event.outcome == "ok":
                yield from self._judge_latest(event)
            elif event.op == "list" and event.outcome == "ok":
                yield from self._judge_list(event)
            elif event.op == "get" and event.outcome == "CheckpointNotFound":
                yield from self._must_not_miss(event, event.step)
            elif event.op == "load" and event.outcome in ("CheckpointGone", "CheckpointNotFound"):
                yield from self._judge_gone(event)
            elif event.op == "save":
                yield from self._judge_save(event)
            elif event.op == "prune":
                yield from self._judge_prune(event)
        yield from self._judge_tags()

    def _judge_sighting(self, event: Event, step: int, token: str) -> Iterator[Violation]:
        saved = self.saved.get(token)
        if saved is None or saved.event.step != step:
            yield Violation("damaged read", f"nobody saved {token!r} at step {step}: {event}")
            return
        if saved.event.begin > event.end:
            yield Violation("future read", f"{event} before {saved.event}")
        if saved.event.outcome in NO_EFFECT:
            yield Violation("failed save seen", f"{event} of {saved.event}")
        removal = self.gone.get(token)
        if removal is not None and removal.end < event.begin:
            yield Violation("comes back", f"{event} after {removal}")
        for other in self.at_step[step]:
            # Of the same step, saved after this one was there and there before it was looked for.
            newer = other.event.begin > saved.committed and other.committed < event.begin
            if newer and event.op != "read-tag" and event.op != "load":
                yield Violation("superseded", f"{event} although {other.event}")

    def _judge_latest(self, event: Event) -> Iterator[Violation]:
        above = self.steps[bisect.bisect_right(self.steps, event.step if event.token else -1) :]
        for step in above:
            if (saved := self._surely_there(step, event.begin, event.end)) is not None:
                acknowledged = saved.event.outcome == "ok" and saved.event.end < event.begin
                rule = "false empty" if not event.token else "stale" if acknowledged else "backward"
                yield Violation(_lost(event) or rule, f"{event} although {saved.event}")
                return

    def _judge_list(self, event: Event) -> Iterator[Violation]:
        steps = [step for step, _ in event.found]
        if steps != sorted(set(steps)):
            yield Violation("out of order", f"{event}")
        for step in sorted(set(self.steps) - set(steps)):
            yield from self._must_not_miss(event, step)

    def _must_not_miss(self, event: Event, step: int) -> Iterator[Violation]:
        saved = self._surely_there(step, event.begin, event.end)
        if saved is not None:
            yield Violation(_lost(event) or "missed", f"step {step} in {event} although {saved.event}")

    def _judge_gone(self, event: Event) -> Iterator[Violation]:
        """What was found and then was gone must have been removed or replaced by somebody."""
        saved = self.saved.get(event.token)
        if saved is None:
            return
        replaced = any(
            other.event.mode == "replace" and other.event.begin < event.end
            for other in self.at_step[saved.event.step]
            if other is not saved
        )
        if not replaced and not self._may_be_removed(saved, event.end):
            yield Violation(_lost(event) or "gone", f"{event}: nobody removed it")

    def _judge_save(self, event: Event) -> Iterator[Violation]:
        others = [other for other in self.at_step[event.step] if other.event is not event]
        if event.outcome == "CheckpointExists":
            if not any(other.event.begin < event.end for other in others):
                yield Violation("exists without a reason", f"{event}")
        elif event.outcome == "SaveAborted":
            taken_over = any(_overlap(_with_late(other.event), event) for other in others)
            swept = any(
                sweep.op == "gc"
                and _overlap(_with_late(sweep), event)
                and sweep.grace - 2 < event.end - event.begin
                for sweep in self.events
            )  # two seconds: stores tell times to the second
            if not taken_over and not swept:
                yield Violation("aborted without a reason", f"{event}")
        elif event.outcome == "ok" and event.mode == "error":
            for other in others:
                one = other.event
                before = other.committed < event.begin
                both = one.mode == "error" and one.outcome == "ok" and one.begin <= event.begin
                if not before and not both:
                    continue
                first, last = min(one.begin, event.begin), max(one.end if both else 0, event.end)
                between = any(
                    removal.begin < last and removal.end > first for removal in self.removals_at[event.step]
                )
                if not between:
                    yield Violation("two winners", f"{event} and {one}")

    def _judge_prune(self, event: Event) -> Iterator[Violation]:
        """Of a prune that ended: something later than what it removed was there at some moment of it."""
        for name in event.names if event.outcome == "ok" else ():
            step = _parsed(name).step
            later = any(
                saved.event.begin < event.end
                and saved.event.outcome not in NO_EFFECT
                and not ((gone := self.gone.get(saved.event.token)) and gone.end < event.begin)
                for other in self.steps[bisect.bisect_right(self.steps, step) :]
                for saved in self.at_step[other]
            )
            if not later:
                yield Violation("pruned the newest", f"{event}")

    def _judge_tags(self) -> Iterator[Violation]:
        moves: dict[str, list[Event]] = collections.defaultdict(list)
        for event in self.events:
            if event.op in ("tag", "untag"):
                moves[event.tag].append(event)
        for event in self.events:
            if event.op == "tag" and event.outcome == "ok":
                yield from self._judge_tagged(event, moves[event.tag])
            elif event.op == "read-tag" and event.outcome == "ok":
                yield from self._judge_tag_read(event, moves[event.tag])
            elif event.op == "read-tag" and event.outcome == "CheckpointGone":
                certain = [move for move in moves[event.tag] if move.outcome == "ok"]
                cut_off = any(move.outcome not in ("ok", *NO_EFFECT) for move in moves[event.tag])
                resting = not any(_overlap(move, event) for move in moves[event.tag])
                if certain and resting and not cut_off:
                    yield Violation("tag on a deleted one", f"{event}")

    def _judge_tagged(self, event: Event, moves: list[Event]) -> Iterator[Violation]:
        """While a tag points at it for certain, nothing may remove it."""
        removal = self.gone.get(event.token)
        if removal is None:
            return
        moved = any(
            move is not event
            and move.outcome not in NO_EFFECT
            and move.begin < removal.end
            and move.end > event.begin
            for move in moves
        )
        if not moved:
            yield Violation("tag on a deleted one", f"{event} and {removal}")

    def _judge_tag_read(self, event: Event, moves: list[Event]) -> Iterator[Violation]:
        writes = [move for move in moves if move.op == "tag" and move.token == event.token]
        if not any(write.begin < event.end and write.outcome not in NO_EFFECT for write in writes):
            yield Violation("stale tag", f"nobody wrote what {event} found")
            return
        for move in moves:
            if move.outcome != "ok" or move.end > event.begin or move in writes:
                continue
            # An uncertain write may still have landed after it.
            if all(
                write.end < move.begin
                for write in writes
                if write.outcome not in NO_EFFECT and write.outcome not in UNCERTAIN
            ) and not any(write.outcome in UNCERTAIN for write in writes):
                yield Violation("stale tag", f"{event} although {move}")
                return


def _sightings(events: Iterable[Event]) -> Iterator[tuple[Event, int, str]]:
    """Every time that somebody saw a save as committed."""
    for event in events:
        if event.outcome != "ok":
            continue
        if event.op in ("latest", "get", "load", "read-tag") and event.token:
            yield event, event.step, event.token
        elif event.op == "list":
            for step, token in event.found:
                yield event, step, token


def _lost(event: Event) -> str | None:
    """What is missing once all is quiet is lost."""
    return "lost" if event.who == "last look" else None


def _overlap(one: Event, other: Event) -> bool:
    return one.begin < other.end and other.begin < one.end


def _with_late(event: Event) -> Event:
    """As long as a request of it may still be on its way: a seal that was sent before its process died."""
    return replace(event, end=event.end + 5) if event.outcome in UNCERTAIN else event


def _parsed(name: str) -> CheckpointName:
    parsed = CheckpointName.parse(name)
    assert parsed is not None, name
    return parsed
