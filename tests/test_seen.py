"""What an earlier save found unchanged is found so again for less, and what changed never is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ckptstore import CheckpointStore
from ckptstore.format.digest import digest
from ckptstore.save import fingerprints as seen
from ckptstore.save.fingerprints import Seen
from tests.stores import assert_same, policies

SIZE = 2**17


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were hashed in full to be compared."""
    lengths: list[int] = []

    def counted(data: memoryview) -> str:
        lengths.append(len(data))
        return digest(data)

    monkeypatch.setattr(seen, "digest", counted)
    return lengths


def same(look: Seen, data: np.ndarray, expected: str) -> bool:
    """One comparison of a save of its own."""
    look.next()
    return look.same(data.data.cast("B"), expected)


def test_what_did_not_change_is_hashed_in_full_once(hashed: list[int]) -> None:
    look, data = Seen(), np.arange(SIZE, dtype=np.uint8)
    expected = digest(data.data)
    assert [same(look, data, expected) for _ in range(4)] == [True] * 4
    assert hashed == [SIZE]


def test_what_one_save_did_not_see_is_forgotten(hashed: list[int]) -> None:
    look, data, other = Seen(), np.arange(SIZE, dtype=np.uint8), np.zeros(SIZE, np.uint8)
    assert same(look, data, digest(data.data))
    assert same(look, other, digest(other.data))
    look.next()
    assert same(look, data, digest(data.data))
    assert hashed == [SIZE] * 3
    look.next()
    assert len(look._before) + len(look._now) == 1


def test_a_save_that_compares_nothing_forgets_nothing(hashed: list[int]) -> None:
    look, data = Seen(), np.arange(SIZE, dtype=np.uint8)
    assert same(look, data, digest(data.data))
    for _ in range(3):
        look.next()
    assert same(look, data, digest(data.data))
    assert hashed == [SIZE]


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_any_byte_that_changes_is_seen(at: int, by: int) -> None:
    look, data = Seen(), np.arange(SIZE, dtype=np.uint8)
    before = digest(data.data)
    assert same(look, data, before)
    data[at] ^= by
    assert not same(look, data, before)
    assert same(look, data, digest(data.data))
    data[at] ^= by
    assert same(look, data, before)
    assert not same(look, data[:-1], before)


def test_what_differed_once_is_not_taken_for_the_same_later() -> None:
    look, data = Seen(), np.arange(SIZE, dtype=np.uint8)
    wrong = digest(b"something else")
    assert [same(look, data, wrong) for _ in range(3)] == [False] * 3
    assert same(look, data, digest(data.data))
    assert not same(look, data, wrong)


def test_two_processes_have_two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[int] = []

    def noted(data: memoryview, key: int) -> bytes:
        keys.append(key)
        return real(data, key)

    real = xxhash.xxh3_128_digest
    monkeypatch.setattr(xxhash, "xxh3_128_digest", noted)
    data = np.arange(SIZE, dtype=np.uint8)
    for look in (Seen(), Seen()):
        same(look, data, digest(data.data))
    assert len(set(keys)) == 2


def test_save_after_save_has_what_it_was_given(tmp_path: Path, hashed: list[int]) -> None:
    """Policies that change, stay, and change back: each checkpoint holds its own."""
    store, coin = CheckpointStore(tmp_path), np.random.default_rng(0)
    now = {name: {"weights": np.zeros(SIZE, np.uint8)} for name in policies(6)}
    kept = {}
    for step in range(12):
        for name in coin.choice(sorted(now), 2, replace=False):
            now[name]["weights"][coin.integers(SIZE)] ^= 1 << int(coin.integers(2))
        kept[step] = copy.deepcopy(now)
        store.save(step, {}, now)
    for step, given_then in kept.items():
        checkpoint = store.get(step)
        assert checkpoint.verify().ok
        assert_same(checkpoint.load().policies, given_then)
    compared = sum(length == SIZE for length in hashed)
    assert compared < 11 * 6 - 20  # in each of 11 saves 6 would have been
