"""Takes the rules of the protocol away one at a time: the explorer must find what each prevents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from ckptstore.backends.base import Listed
from ckptstore.commit.objects import catalog
from ckptstore.commit.objects.attempt import RegisterAttempt
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.states import TOMBSTONE, State, record
from ckptstore.commit.objects.sweep import Sweep
from ckptstore.errors import CheckpointExists, StoreUnavailable
from ckptstore.format.names import CLAIM, MANIFEST, CheckpointName
from tests.model.actors import deleter, reader, sweeper, tagger
from tests.model.world import Body, Violation, committed_at, explore, writer


class NoSeal(RegisterCatalog):
    """Passes over an unfinished attempt without sealing it."""

    def seal(self, name: CheckpointName) -> State:
        return State.DEAD


class Remove(RegisterCatalog):
    """Deletes by removing the manifest, and leaves no tombstone."""

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        for name in doomed:
            self.backend.delete([f"{name}/{MANIFEST}"])


class Share(RegisterCatalog):
    """Takes over the directory of an unfinished attempt instead of going to the next."""

    def _claim(self, step: int, if_exists: Any, attempt_id: str, found: Any, check: Any) -> RegisterAttempt:
        name = CheckpointName(step)
        self.create(f"{name}/{CLAIM}", attempt_id.encode())
        return RegisterAttempt(self, name, attempt_id, self.clock(), [], check)


class Trusting(RegisterCatalog):
    """Takes "it exists" for another's success, without reading back."""

    def create(self, key: str, data: bytes, before_each: Callable[[], None] = lambda: None) -> bytes:
        while True:
            before_each()
            try:
                self.backend.publish(key, data)
                return data
            except FileExistsError:
                if data.startswith(b"{"):
                    return super().create(key, data, before_each)
                raise CheckpointExists(key) from None
            except TimeoutError:
                continue


class Tidy(RegisterCatalog):
    """Cleans up after a commit whose outcome it does not know."""

    def create(self, key: str, data: bytes, before_each: Callable[[], None] = lambda: None) -> bytes:
        before_each()
        try:
            self.backend.publish(key, data)
            return data
        except TimeoutError:
            if key.endswith(MANIFEST) and not data.startswith(b"{"):
                directory = key.removesuffix(MANIFEST)
                self.backend.delete([f"{directory}p1", f"{directory}p2"])
                raise StoreUnavailable(key) from None
        except FileExistsError:
            pass
        return super().create(key, data, before_each)


class PayloadFirst(RegisterCatalog):
    """Removes the bytes before it unpublishes."""

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        for name in doomed:
            self.remove_payload(self.backend.list(str(name)))
        super().unpublish(doomed, check)


class OnlyTheHighest(RegisterCatalog):
    """Deletes the attempt it was asked to and not the lower ones."""

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        super().unpublish(doomed[-1:], check)


class HighestFirst(RegisterCatalog):
    """Deletes in the wrong order."""

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        super().unpublish(doomed[::-1], check)


class NoIntent(RegisterCatalog):
    """Looks at the tags, then deletes."""

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        check()
        for name in doomed:
            self.backend.replace(f"{name}/{MANIFEST}", TOMBSTONE)


class GoesOn(RegisterCatalog):
    """Commits in a directory that somebody else has claimed already."""

    def create(self, key: str, data: bytes, before_each: Callable[[], None] = lambda: None) -> bytes:
        held = super().create(key, data, before_each)
        return data if key.endswith(CLAIM) else held


class Overwrites(RegisterCatalog):
    """Commits by a plain PUT."""

    def create(self, key: str, data: bytes, before_each: Callable[[], None] = lambda: None) -> bytes:
        self.backend.replace(key, data)
        return data


class SealsNothing(Sweep):
    """Removes what has no manifest and does not seal it first."""

    def _directory(self, name: CheckpointName, files: Mapping[str, Listed]) -> None:
        if MANIFEST not in files:
            self._register.remove_payload(files.values())


class ForgetsAtOnce(Sweep):
    """Retires a directory, and takes the mark away, without waiting a horizon for each."""

    def _older(self, entries: Mapping[str, Listed], seconds: float) -> bool:
        return seconds == self._register.horizon or super()._older(entries, seconds)


class GoesOnWhenSealed(RegisterAttempt):
    """Takes a seal in its manifest's key for a commit of its own."""

    def _refuse(self, held: bytes, manifest: bytes) -> None:
        pass


class Blind(RegisterAttempt):
    """Commits without another look at what is there."""

    def _look_again(self) -> None:
        pass


class FromZero(RegisterCatalog):
    """Takes the lowest free directory, and doesn't look again."""

    def _claim(self, step: int, if_exists: Any, attempt_id: str, found: Any, check: Any) -> RegisterAttempt:
        claim, below, number = record(attempt=attempt_id), list[CheckpointName](), 0
        while True:
            name = CheckpointName(step, number)
            state = found.get(number, State.ABSENT)
            if state is State.ABSENT:
                if self.create(f"{name}/{CLAIM}", claim) == claim:
                    return Blind(self, name, attempt_id, self.clock(), below, check)
                state = State.CLAIMED
            if self._is_committed(name, state, if_exists, check):
                below.append(name)
            number += 1


def _everything(self: RegisterCatalog, files: Iterable[Listed]) -> int:
    self.backend.delete([entry.key for entry in files])
    return 0


W1, W2 = writer("error"), writer("error")
MUTANTS: dict[str, tuple[type[RegisterCatalog], dict[str, Body], int]] = {
    "no seal": (NoSeal, {"W1": W1, "W2": W2}, 0),
    "no tombstone": (Remove, {"W1": W1, "D": deleter()}, 1),
    "a shared directory": (Share, {"W1": W1, "W2": W2}, 0),
    "a claim that binds nobody": (GoesOn, {"W1": W1, "W2": W2}, 0),
    "no read-back": (Trusting, {"W1": W1}, 1),
    "clean-up after an ambiguous commit": (Tidy, {"W1": W1}, 1),
    "payload before the tombstone": (PayloadFirst, {"W1": W1, "D": deleter()}, 0),
    "an unconditional commit": (Overwrites, {"W1": W1, "W2": W2}, 0),
    "no delete intent": (NoIntent, {"W1": W1, "D": deleter(), "T": tagger()}, 0),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_rule_is_needed(mutant: str) -> None:
    kind, actors, faults = MUTANTS[mutant]
    with pytest.raises(Violation) as caught:
        explore(actors, faults=faults, kind=kind)
    print(str(caught.value).splitlines()[0])


@pytest.mark.parametrize("kind", [OnlyTheHighest, HighestFirst])
def test_lower_attempts_must_be_deleted_first(kind: type[RegisterCatalog]) -> None:
    actors = {"D": deleter()}
    two = _two_committed()
    explore(actors, objects=two, replacing=frozenset({"high"}))
    with pytest.raises(Violation, match="I6"):
        explore(actors, objects=two, replacing=frozenset({"high"}), kind=kind)


def _two_committed() -> dict[str, bytes]:
    """What a replace that crashed before its tombstones leaves."""
    found: dict[str, bytes] = {}
    for name, attempt in (("checkpoint_000007", "low"), ("checkpoint_000007-r1", "high")):
        found |= {f"{name}/{path}": attempt.encode() for path in ("p1", "p2")}
        found[f"{name}/{CLAIM}"] = b"{}"
        found[f"{name}/{MANIFEST}"] = attempt.encode().ljust(1024)
    return found


def test_a_sweep_must_seal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "Sweep", SealsNothing)
    with pytest.raises(Violation, match="I2"):
        explore({"W1": W1, "G": sweeper()})


def test_a_seal_must_stay_for_a_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = {"W1": W1, "W2": W2, "G": sweeper(times=2)}
    monkeypatch.setattr(catalog, "Sweep", ForgetsAtOnce)
    with pytest.raises(Violation, match="I2"):
        explore(actors)


def test_tombstones_and_claims_must_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegisterCatalog, "remove_payload", _everything)
    with pytest.raises(Violation):
        explore({"W1": W1, "D": deleter()}, faults=1)


def test_a_sealed_writer_must_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "RegisterAttempt", GoesOnWhenSealed)
    with pytest.raises(Violation, match="I3"):
        explore({"W1": W1, "W2": W2})


def test_tags_and_deletes_never_both_succeed() -> None:
    explore({"W1": W1, "D": deleter(), "T": tagger(), "R": reader()}, limit=400_000)


def test_attempts_must_only_go_up() -> None:
    replacing = {"W1": writer("replace")}
    for actors, history in (
        (replacing, {"objects": committed_at(1)}),  # copied by a tool, from a disk where it was replaced
        ({"W1": writer("replace", times=3)}, {"ages": 1}),  # long enough for gc to forget the first
    ):
        explore(actors, **history)
        with pytest.raises(Violation, match="I8"):
            explore(actors, **history, kind=FromZero)


def test_a_listing_that_lacks_something_hides_no_save(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = {"W1": writer("replace")}
    explore(actors, objects=committed_at(1), lags=1)
    monkeypatch.setattr(catalog, "RegisterAttempt", Blind)
    with pytest.raises(Violation, match="I8"):
        explore(actors, objects=committed_at(1), lags=1)
