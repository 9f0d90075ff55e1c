"""Rules for which checkpoints `prune` keeps.

A rule says what it keeps, several together keep what any of them keeps, and nothing else decides. What
is tagged, pinned, the newest or resumed from stays whatever the rules say; `CheckpointStore.prune` sees
to that. Pure.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ckptstore.errors import InvalidRequest
from ckptstore.format.metrics import number
from ckptstore.format.names import check_positive


class Candidate(NamedTuple):
    """What a rule may know of a checkpoint."""

    step: int
    created: str
    """When its save began: ISO 8601, as the manifest has it."""
    metrics: Mapping[str, Any]
    tagged: bool = False
    ahead: bool = False
    """Whether `created` was still to come when this was asked: the clock that wrote it was wrong."""


class Rule:
    """Keeps some of a store's checkpoints. Unite rules with ``|`` or in a list."""

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """Steps to keep; `candidates` are ordered by step, oldest first."""
        raise NotImplementedError

    def __or__(self, other: Rule | int) -> AnyOf:
        return AnyOf((*_members(self), *_members(rule(other))))

    def __ror__(self, other: int) -> AnyOf:
        return rule(other) | self


@dataclass(frozen=True)
class AnyOf(Rule):
    """Keeps what any of `rules` keeps."""

    rules: tuple[Rule, ...]

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        return set().union(*(each.keeps(candidates) for each in self.rules))


@dataclass(frozen=True)
class LatestN(Rule):
    """Keeps the newest `n`, by step."""

    n: int

    def __post_init__(self) -> None:
        _positive("LatestN", self.n)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        return {candidate.step for candidate in candidates[-self.n :]}


@dataclass(frozen=True)
class BestN(Rule):
    """Keeps the `n` with the best numbers at `metric`, a name or a path as `CheckpointStore.best` takes.

    Ties go to the newer. Those without a number there, or with NaN or an infinite one, are passed over;
    where none has one, there is nothing to judge by and all are kept: a misspelled metric must not empty a
    store. `CheckpointStore.prune` warns of a metric that no checkpoint has, and names those there are.
    """

    metric: str
    n: int
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _positive("BestN", self.n)
        if self.mode not in ("max", "min"):
            raise InvalidRequest("mode", f"{self.mode!r} is unknown", "Use 'max' or 'min'")

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        sign = 1 if self.mode == "max" else -1
        ranked = sorted(
            (sign * value, candidate.step)
            for candidate in candidates
            if (value := number(candidate.metrics, self.metric)) is not None
        )
        if not ranked:
            return {candidate.step for candidate in candidates}
        return {step for _, step in ranked[-self.n :]}


@dataclass(frozen=True)
class EveryNSteps(Rule):
    """Keeps those whose step is a multiple of `n`."""

    n: int

    def __post_init__(self) -> None:
        _positive("EveryNSteps", self.n)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        return {candidate.step for candidate in candidates if candidate.step % self.n == 0}


@dataclass(frozen=True)
class LatestDuration(Rule):
    """Keeps those saved at most `duration` before the newest was.

    It counts from the newest checkpoint, not from now: a run that was paused for a month loses nothing
    by it. One whose time can't be read, or that claims to be later than the newest, is kept. One whose
    clock was ahead of now makes no other old: then it counts from the newest that was not.
    """

    duration: datetime.timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.duration, datetime.timedelta) or self.duration < datetime.timedelta(0):
            raise InvalidRequest(
                "LatestDuration", f"{self.duration!r} is no length of time", "Pass timedelta(hours=12)"
            )

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        believed = [candidate for candidate in candidates if not candidate.ahead]
        newest = read_moment(believed[-1].created) if believed else None
        if newest is None:
            return {candidate.step for candidate in candidates}
        return {
            candidate.step
            for candidate in candidates
            if (moment := read_moment(candidate.created)) is None or newest - moment <= self.duration
        }


@dataclass(frozen=True)
class Tagged(Rule):
    """Keeps what a tag or pin points at. That stays anyway: by itself this says "and nothing more"."""

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """See `Rule`."""
        return {candidate.step for candidate in candidates if candidate.tagged}


Keep: TypeAlias = "int | Rule | Iterable[int | Rule]"
"""What `CheckpointStore.prune` takes: how many of the newest, a rule, or several of these united."""


def rule(keep: Keep) -> Rule:
    """`keep` as one rule; an int means the newest so many. Raises InvalidRequest for anything else."""
    if isinstance(keep, Rule):
        return keep
    if isinstance(keep, int):
        return LatestN(keep)
    if isinstance(keep, Iterable) and not isinstance(keep, (str, bytes, Mapping)) and (members := list(keep)):
        return AnyOf(tuple(rule(member) for member in members))
    raise InvalidRequest(
        "keep",
        f"{keep!r:.80} is neither a number nor a rule",
        "Pass for example LatestN(3) | EveryNSteps(100)",
    )


def steps_to_prune(candidates: Sequence[Candidate], keep: Rule) -> list[int]:
    """Steps, oldest first, that `keep` doesn't keep; never the newest. `candidates` are ordered by step."""
    kept = keep.keeps(candidates)
    return [candidate.step for candidate in candidates[:-1] if candidate.step not in kept]


def _members(one: Rule) -> tuple[Rule, ...]:
    return one.rules if isinstance(one, AnyOf) else (one,)


def _positive(name: str, n: object) -> None:
    check_positive(name, n, f"Pass for example {name}(3)")


def read_moment(text: str) -> datetime.datetime | None:
    """The time in `text`; one without a zone is taken as UTC, and None is one that can't be read."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
