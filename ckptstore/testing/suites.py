"""Tests that every backend and every catalog must pass."""

from __future__ import annotations

import contextlib
import random
import threading
import tracemalloc
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ckptstore.backends.base import Backend, TooLarge
from ckptstore.commit.base import Attempt, Catalog, IfExists
from ckptstore.errors import CheckpointExists, CheckpointGone, CheckpointProtected, SaveAborted
from ckptstore.format.names import MANIFEST, MIN_MANIFEST_BYTES, SMALL_STATE_BYTES, CheckpointName


def _publish_interrupted(backend: Backend, key: str, data: bytes) -> None:
    with backend.write(key) as sink:
        sink.write(data)
        raise KeyboardInterrupt


SideDoor = Callable[[str], "bytes | None"]


class BackendTests:
    """What every backend promises. Subclass it, and define the fixture ``backend``: an empty one.

    Define ``side_door`` as well where you can: a function from a key to its bytes, or None, that
    shares no code with the backend. A store should not be believed about itself.
    """

    large_bytes = 40 * 2**20 + 12345
    """Of the file that must be cut into parts."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test."""
        raise NotImplementedError("define the fixture `backend`")

    @pytest.fixture
    def side_door(self, backend: Backend) -> SideDoor:
        """Reads a key past the backend; by default, through it."""

        def read(key: str) -> bytes | None:
            try:
                return backend.read(key)
            except FileNotFoundError:
                return None

        return read

    def test_publish_creates_and_never_overwrites(self, backend: Backend, side_door: SideDoor) -> None:
        backend.publish("a/b.json", b"first")
        with pytest.raises(FileExistsError):
            backend.publish("a/b.json", b"second")
        assert side_door("a/b.json") == b"first"

    def test_publish_has_one_winner(self, backend: Backend, side_door: SideDoor) -> None:
        barrier = threading.Barrier(8)

        def create(number: int) -> bytes | None:
            barrier.wait()
            try:
                backend.publish("race.json", b"%d" % number)
            except FileExistsError:
                return None
            return b"%d" % number

        with ThreadPoolExecutor(8) as pool:
            winners = [won for won in pool.map(create, range(8)) if won is not None]
        assert winners == [side_door("race.json")]

    def test_replace_sets_what_is_or_is_not_there(self, backend: Backend, side_door: SideDoor) -> None:
        backend.replace("state.json", b"long before")
        backend.replace("state.json", b"after")
        assert side_door("state.json") == b"after"

    def test_reads_ranges(self, backend: Backend) -> None:
        backend.publish("digits", b"0123456789")
        assert backend.read("digits") == b"0123456789"
        assert backend.read("digits", 4) == b"456789"
        assert backend.read("digits", 4, 7) == b"456"
        assert backend.read("digits", 7, 10) == b"789"
        assert backend.read("digits", 4, 4) == b""
        target = bytearray(b"........")
        backend.read_into("digits", 3, memoryview(target)[2:6])
        assert bytes(target) == b"..3456.."

    def test_a_short_file_is_no_success(self, backend: Backend) -> None:
        backend.publish("digits", b"0123456789")
        with pytest.raises(EOFError):
            backend.read("digits", 4, 11)
        with pytest.raises(EOFError):
            backend.read("digits", 20, 21)
        with pytest.raises(EOFError):
            backend.read_into("digits", 8, memoryview(bytearray(3)))

    def test_a_file_that_is_too_large_is_not_read(self, backend: Backend) -> None:
        backend.publish("digits", b"0123456789")
        assert backend.read("digits", most=10) == b"0123456789"
        assert backend.read("digits", 4, most=6) == b"456789"
        with pytest.raises(TooLarge) as caught:
            backend.read("digits", most=9)
        assert str(caught.value.filename).endswith("digits")
        with backend.write("large") as sink:
            sink.write(bytes(8 * 2**20))
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match=r"8388608.*8000000"):
                backend.read("large", most=8_000_000)
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20, "it was read all the same"
        finally:
            tracemalloc.stop()

    def test_what_is_not_there_is_not_found(self, backend: Backend) -> None:
        backend.publish("there", b"yes")
        with pytest.raises(FileNotFoundError):
            backend.read("absent")
        with pytest.raises(FileNotFoundError):
            backend.read("absent/deep", 0, 4)
        with pytest.raises(FileNotFoundError):
            backend.read_into("absent", 0, memoryview(bytearray(4)))
        assert backend.list("absent") == []

    def test_writes_a_stream(self, backend: Backend, side_door: SideDoor) -> None:
        scratch = bytearray(7)
        with backend.write("d/stream.bin") as sink:
            for index in range(1000):
                scratch[:] = b"%07d" % index
                sink.write(memoryview(scratch))  # its memory is used again at once
            sink.write(b"end")
        assert side_door("d/stream.bin") == b"".join(b"%07d" % index for index in range(1000)) + b"end"

    def test_an_exception_leaves_nothing_that_looks_whole(
        self, backend: Backend, side_door: SideDoor
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            _publish_interrupted(backend, "d/cut.bin", b"half of it")
        assert side_door("d/cut.bin") is None
        assert [entry.key for entry in backend.list()] == []

    def test_large_files_arrive_whole(self, backend: Backend, side_door: SideDoor) -> None:
        data = random.Random(1).randbytes(self.large_bytes)
        with backend.write("large.bin") as sink:
            sink.write(memoryview(data)[: 2**20 + 1])
            sink.write(memoryview(data)[2**20 + 1 :])
        assert side_door("large.bin") == data
        assert backend.list()[0][:2] == ("large.bin", len(data))
        assert backend.read("large.bin") == data
        middle = len(data) // 2
        assert backend.read("large.bin", middle, middle + 99) == data[middle : middle + 99]

    def test_a_large_file_cut_short_leaves_nothing(self, backend: Backend, side_door: SideDoor) -> None:
        with pytest.raises(KeyboardInterrupt):
            _publish_interrupted(backend, "large.bin", bytes(self.large_bytes))
        assert side_door("large.bin") is None
        assert backend.list() == []

    def test_delete_is_idempotent(self, backend: Backend, side_door: SideDoor) -> None:
        keys = [f"d/{index}" for index in range(5)]
        for key in keys:
            backend.publish(key, b"x")
        backend.delete([*keys[:3], "d/absent"])
        backend.delete(keys[:3])
        backend.delete([])
        assert [side_door(key) for key in keys] == [None, None, None, b"x", b"x"]
        assert [entry.key for entry in backend.list()] == keys[3:]

    def test_lists_directories_and_not_prefixes(self, backend: Backend) -> None:
        for key in ("c_1/a", "c_1/b/c", "c_10/a", "c_1-r1/a", "top"):
            backend.publish(key, b"12")
        assert sorted(entry[:2] for entry in backend.list("c_1")) == [("c_1/a", 2), ("c_1/b/c", 2)]
        assert backend.children("c_1") == ["a", "b"]
        assert backend.children() == ["c_1", "c_1-r1", "c_10", "top"]
        assert len(backend.list()) == 5

    def test_a_listing_is_never_old(self, backend: Backend) -> None:
        assert backend.list() == []
        for count in range(1, 4):
            backend.publish(f"n/{count}", b"x" * count)
            assert [entry[:2] for entry in backend.list("n")][-1] == (f"n/{count}", count)
            assert len(backend.children("n")) == count
        backend.delete(["n/1"])
        assert backend.children("n") == ["2", "3"]
        backend.replace("n/2", b"longer")
        assert backend.list("n")[0][:2] == ("n/2", 6)

    @pytest.mark.parametrize(
        "name", ["a b", "100%", "a+b", "a#b", "a&b=c", "ключ", "日本", "a'b", "%41", "~"]
    )
    def test_odd_names_come_back_as_they_were(self, backend: Backend, side_door: SideDoor, name: str) -> None:
        key = f"p/{name}/s.pkl"
        with backend.write(key) as sink:
            sink.write(name.encode())
        assert side_door(key) == name.encode()
        assert backend.read(key) == name.encode()
        assert backend.children("p") == [name]
        assert [entry.key for entry in backend.list()] == [key]
        backend.delete([key])
        assert side_door(key) is None

    def test_works_from_several_threads(self, backend: Backend) -> None:
        def roundtrip(index: int) -> bool:
            data = random.Random(index).randbytes(300_000)
            with backend.write(f"t/{index}") as sink:
                sink.write(data)
            return backend.read(f"t/{index}") == data

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(roundtrip, range(24)))
        assert len(backend.list("t")) == 24

    def test_the_url_is_for_people(self, backend: Backend) -> None:
        assert "?" not in backend.url
        assert "@" not in backend.url


def manifest_bytes(attempt_id: str) -> bytes:
    """Something of a manifest's size and state, unique to the attempt."""
    return (f'{{"state": "committed", "id": "{attempt_id}"' + " " * MIN_MANIFEST_BYTES + "}").encode()


class CatalogTests:
    """What every way to commit promises. Subclass it, and define the fixture ``catalog``: an empty one."""

    @pytest.fixture
    def catalog(self) -> Catalog:
        """The catalog under test."""
        raise NotImplementedError("define the fixture `catalog`")

    @staticmethod
    def start(catalog: Catalog, step: int, if_exists: IfExists = "error") -> Attempt:
        """An attempt with its payload in place."""
        attempt = catalog.begin(step, if_exists, uuid.uuid4().hex)
        for path in ("algorithm_state.pkl", "policies/pol0/policy_state.pkl"):
            with attempt.create(path) as sink:
                sink.write(attempt.id.encode())
        return attempt

    def save(self, catalog: Catalog, step: int, if_exists: IfExists = "error") -> tuple[CheckpointName, str]:
        """A committed checkpoint: its name and id."""
        attempt = self.start(catalog, step, if_exists)
        return attempt.commit(manifest_bytes(attempt.id)), attempt.id

    @staticmethod
    def list_committed(catalog: Catalog) -> dict[CheckpointName, str]:
        """What is committed, with the id that its manifest *and* every payload file carry."""
        found = {}
        for name, files in catalog.scan().items():
            if files.get(MANIFEST, 0) <= SMALL_STATE_BYTES:
                continue
            attempt_id = catalog.backend.read(f"{name}/algorithm_state.pkl").decode()
            assert catalog.backend.read(f"{name}/{MANIFEST}") == manifest_bytes(attempt_id)
            assert catalog.backend.read(f"{name}/policies/pol0/policy_state.pkl").decode() == attempt_id
            found[name] = attempt_id
        return found

    def test_a_commit_makes_a_checkpoint(self, catalog: Catalog) -> None:
        attempt = self.start(catalog, 100)
        assert self.list_committed(catalog) == {}
        name = attempt.commit(manifest_bytes(attempt.id))
        assert name == CheckpointName(100)
        assert self.list_committed(catalog) == {name: attempt.id}
        assert catalog.names() == [name]
        assert catalog.scan()[name]["algorithm_state.pkl"] == len(attempt.id)

    def test_names_ascend_by_number(self, catalog: Catalog) -> None:
        for step in (1000000, 7, 100000, 999999):
            self.save(catalog, step)
        assert [name.step for name in catalog.names()] == [7, 100000, 999999, 1000000]
        assert list(self.list_committed(catalog)) == catalog.names()

    @pytest.mark.parametrize("if_exists", ["error", "return"])
    def test_a_taken_step_is_refused(self, catalog: Catalog, if_exists: IfExists) -> None:
        name, attempt_id = self.save(catalog, 5)
        with pytest.raises(CheckpointExists) as caught:
            catalog.begin(5, if_exists, "other")
        assert caught.value.what == f"{catalog.backend.url}/{name}"
        assert self.list_committed(catalog) == {name: attempt_id}

    def test_replace_supersedes(self, catalog: Catalog) -> None:
        self.save(catalog, 5)
        for attempt in (1, 2, 3):
            name, attempt_id = self.save(catalog, 5, "replace")
            assert name == CheckpointName(5, attempt)
            assert self.list_committed(catalog) == {name: attempt_id}

    def test_a_longer_number_is_another_step(self, catalog: Catalog) -> None:
        long, long_id = self.save(catalog, 1000000)
        short, short_id = self.save(catalog, 100000)
        assert self.list_committed(catalog) == {short: short_id, long: long_id}
        catalog.delete(short, lambda: None)
        assert self.list_committed(catalog) == {long: long_id}

    def test_a_foreign_directory_is_passed_over(self, catalog: Catalog) -> None:
        catalog.backend.publish("checkpoint_000005/algorithm_state.pkl", b"Ray's")
        name, attempt_id = self.save(catalog, 5)
        assert name == CheckpointName(5, 1)
        assert self.list_committed(catalog) == {name: attempt_id}
        catalog.sweep(0)
        assert catalog.backend.read("checkpoint_000005/algorithm_state.pkl") == b"Ray's"

    def test_an_abandoned_attempt_is_no_checkpoint(self, catalog: Catalog) -> None:
        attempt = self.start(catalog, 5)
        attempt.abandon()
        attempt.abandon()
        assert self.list_committed(catalog) == {}
        with pytest.raises((SaveAborted, CheckpointExists)):
            attempt.commit(manifest_bytes(attempt.id))
        _, attempt_id = self.save(catalog, 5)
        assert list(self.list_committed(catalog).values()) == [attempt_id]

    def test_a_crashed_attempt_blocks_nobody(self, catalog: Catalog) -> None:
        self.start(catalog, 5)  # and nothing more is ever heard of it
        _, attempt_id = self.save(catalog, 5)
        assert list(self.list_committed(catalog).values()) == [attempt_id]

    def test_of_two_attempts_one_commits(self, catalog: Catalog) -> None:
        first, second = self.start(catalog, 5), self.start(catalog, 5)
        won = []
        for attempt in (second, first):
            with contextlib.suppress(SaveAborted, CheckpointExists):
                attempt.commit(manifest_bytes(attempt.id))
                won.append(attempt.id)
        assert len(won) == 1
        assert list(self.list_committed(catalog).values()) == won

    def test_a_race_has_one_winner(self, catalog: Catalog) -> None:
        barrier = threading.Barrier(6)

        def race(_: int) -> str | None:
            barrier.wait()
            try:
                return self.save(catalog, 5)[1]
            except (SaveAborted, CheckpointExists):
                return None

        with ThreadPoolExecutor(6) as pool:
            won = [winner for winner in pool.map(race, range(6)) if winner]
        assert len(won) == 1
        assert list(self.list_committed(catalog).values()) == won

    def test_delete_removes_it_for_good(self, catalog: Catalog) -> None:
        name, _ = self.save(catalog, 5)
        kept, kept_id = self.save(catalog, 6)
        catalog.delete(name, lambda: None)
        assert self.list_committed(catalog) == {kept: kept_id}
        with pytest.raises(CheckpointGone):
            catalog.delete(name, lambda: None)
        again, again_id = self.save(catalog, 5)
        assert self.list_committed(catalog) == {again: again_id, kept: kept_id}

    def test_what_check_protects_stays(self, catalog: Catalog) -> None:
        name, attempt_id = self.save(catalog, 5)

        def refuse() -> None:
            raise CheckpointProtected(str(name), "it is tagged")

        with pytest.raises(CheckpointProtected):
            catalog.delete(name, refuse)
        assert self.list_committed(catalog) == {name: attempt_id}
        with catalog.guard(name):
            pass  # a refused delete leaves nothing in the way of later tags

    def test_guard_is_for_what_is_there(self, catalog: Catalog) -> None:
        name, _ = self.save(catalog, 5)
        with catalog.guard(name):
            pass
        catalog.delete(name, lambda: None)
        with pytest.raises(CheckpointGone), catalog.guard(name):
            pytest.fail("a tag was written to what is gone")

    def test_a_tag_and_a_delete_never_both_succeed(self, catalog: Catalog) -> None:
        for step in range(6):
            name, _ = self.save(catalog, step)
            tags: list[CheckpointName] = []
            barrier = threading.Barrier(2)

            def tag(name: CheckpointName = name, tags: Any = tags, barrier: Any = barrier) -> bool:
                barrier.wait()
                try:
                    with catalog.guard(name):
                        tags.append(name)
                except CheckpointGone:
                    tags.clear()
                    return False
                return True

            def check(name: CheckpointName = name, tags: Any = tags) -> None:
                if tags:
                    raise CheckpointProtected(str(name), "it is tagged")

            def delete(name: CheckpointName = name, check: Any = check, barrier: Any = barrier) -> bool:
                barrier.wait()
                try:
                    catalog.delete(name, check)
                except CheckpointProtected:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                tagged, deleted = pool.submit(tag), pool.submit(delete)
                assert not (tagged.result() and deleted.result())
            assert (name in self.list_committed(catalog)) == (not deleted.result())

    def test_sweep_spares_the_living(self, catalog: Catalog) -> None:
        name, attempt_id = self.save(catalog, 5)
        running = self.start(catalog, 6)
        catalog.sweep(None)
        running.commit(manifest_bytes(running.id))
        assert self.list_committed(catalog) == {name: attempt_id, CheckpointName(6): running.id}

    def test_sweep_takes_what_replace_left(self, catalog: Catalog) -> None:
        for _ in range(3):
            name, attempt_id = self.save(catalog, 5, "replace")
        catalog.sweep(0)
        payload = [entry.key for entry in catalog.backend.list() if entry.key.endswith(".pkl")]
        assert len(payload) == 2
        assert self.list_committed(catalog) == {name: attempt_id}
        assert catalog.sweep(0).bytes == 0
