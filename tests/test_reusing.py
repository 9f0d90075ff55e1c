"""What a save takes over instead of writing it: every byte that didn't change, and no byte that did."""

from __future__ import annotations

import copy
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects import s3
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    StoreUnavailable,
)
from tests.disks import CountingDisk, FailingDisk, InterruptedDisk, WatchedBackend
from tests.faults import FaultProxy, fault_proxy
from tests.servers import Server
from tests.stores import RLLIB_1_0, assert_same, policies, tree_bytes

COUNT = 10
FIRST, SECOND = "checkpoint_000001", "checkpoint_000002"


def changed(given: dict[str, Any], *ids: str) -> dict[str, Any]:
    """A deep copy with one byte of each of those policies changed."""
    result = copy.deepcopy(given)
    for policy_id in ids:
        result[policy_id]["weights"]["dense/kernel"][-1, -1] += 1
    return result


def shared(root: Path, name: str) -> set[str]:
    """The policies of that checkpoint whose state lies in another one as well."""
    folder = root / name / "policies"
    return {path.name for path in folder.iterdir() if (path / "policy_state.pkl").stat().st_nlink > 1}


@pytest.mark.parametrize("how", ["save", "save_async"])
def test_the_bytes_written_are_those_that_changed(tmp_path: Path, how: str) -> None:
    disk = CountingDisk()
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    given = policies(COUNT)
    store.save(1, {"i": 1}, given)
    whole, disk.written = disk.written, 0
    now = changed(given, "pol3", "pol7")
    if how == "save":
        ckpt = store.save(2, {"i": 2}, now)
    else:
        future = store.save_async(2, {"i": 2}, now)
        for policy in now.values():
            policy["weights"]["dense/kernel"][:] = 0  # the trainer goes on
        ckpt = future.result()
        now = changed(given, "pol3", "pol7")
    assert shared(tmp_path, SECOND) == set(given) - {"pol3", "pol7"}
    assert disk.written < whole * 2 / COUNT + 20_000
    assert_same(ckpt.load().policies, now)
    assert_same(store.get(1).load().policies, given)
    store.delete(1)
    reopened = CheckpointStore(tmp_path).get(2)
    assert reopened.verify().ok
    assert_same(reopened.load().policies, now)


def test_a_run_that_goes_on_shares_with_what_it_loaded(tmp_path: Path) -> None:
    given = policies(COUNT)
    given["pol0"]["config"] = {
        "".join(["ke", "y"]): "".join(["ke", "y"]),
        "layers": [(64, 64), ("relu",), 1.5],
    }
    CheckpointStore(tmp_path).save(1, {"i": 1}, given)
    CheckpointStore(tmp_path).save(2, {"i": 2}, given)  # knows of no parent, and asks for none
    assert shared(tmp_path, SECOND) == set()
    store = CheckpointStore(tmp_path)
    loaded = store.get(2).load().policies
    loaded["pol1"]["weights"]["dense/bias"] += 1
    store.save(3, {"i": 3}, loaded)
    assert shared(tmp_path, "checkpoint_000003") == set(given) - {"pol1"}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    given = policies(2)
    given["pol0"]["text"] = ["x" * 3, "".join(["x"] * 3), b"raw", None, {1.5: (True, "x" * 3)}]
    for name in ("a", "b"):
        CheckpointStore(tmp_path / name).save(1, {"i": 1}, copy.deepcopy(given))
    a, b = (tree_bytes(tmp_path / name / FIRST) for name in ("a", "b"))
    assert a["_ckptstore/parts.json"] == b["_ckptstore/parts.json"]
    assert {path for path in a if a[path] != b[path]} == {"_ckptstore/manifest.json"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP])
def test_where_links_are_refused_files_are_written(tmp_path: Path, code: int) -> None:
    disk = FailingDisk("link", code, where="policies/")
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    given = policies()
    first = store.save(1, {"i": 1}, given)
    second = store.save(2, {"i": 2}, {**given, "pol1": first.stored("pol1")})
    assert shared(tmp_path, SECOND) == set()
    assert disk.failed
    assert second.verify().ok
    assert_same(second.load().policies, given)


def test_what_somebody_edited_is_not_spread(tmp_path: Path) -> None:
    """A link takes the bytes that lie there, whatever the table says of them."""
    store = CheckpointStore(tmp_path)
    given = policies(4)
    store.save(1, {"i": 1}, given)
    for policy_id, mode in (("pol0", 0o600), ("pol1", 0o400)):
        path = tmp_path / FIRST / "policies" / policy_id / "policy_state.pkl"
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        path.chmod(mode)
    short = tmp_path / FIRST / "policies" / "pol2" / "policy_state.pkl"
    short.chmod(0o600)
    os.truncate(short, 1000)
    short.chmod(0o400)
    ckpt = store.save(2, {"i": 2}, given)
    assert shared(tmp_path, SECOND) == {"pol3"}
    assert_same(ckpt.load().policies, given)


def test_a_base_that_goes_meanwhile_is_done_without(tmp_path: Path) -> None:
    disk = InterruptedDisk(operation="link")
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    given = policies()
    store.save(1, {"i": 1}, given)
    disk.interrupt = lambda: CheckpointStore(tmp_path).delete(1)
    ckpt = store.save(2, {"i": 2}, given)
    assert disk.reached
    assert [found.step for found in store.checkpoints()] == [2]
    assert_same(ckpt.load().policies, given)
    assert ckpt.verify().ok
    assert not os.listdir(tmp_path / ".staging")


def test_a_base_that_another_run_wrote_anew_is_not_taken_for_it(tmp_path: Path) -> None:
    """The name stays and the checkpoint is another: its files must not be taken over by the old table."""
    store = CheckpointStore(tmp_path)
    given = policies()
    store.save(1, {"i": 1}, given)
    other = CheckpointStore(tmp_path)
    other.delete(1)
    other.save(1, {"i": 1}, changed(given, "pol0", "pol1", "pol2"))
    ckpt = store.save(2, {"i": 2}, given)
    assert ckpt.verify().ok
    assert_same(ckpt.load().policies, given)


# ---- Policies handed over as they lie


def test_a_stored_policy_is_linked_unread(tmp_path: Path) -> None:
    given = policies(COUNT)
    CheckpointStore(tmp_path).save(1, {"i": 1}, given)
    backend = WatchedBackend(tmp_path, disk := CountingDisk())
    store = CheckpointStore(backend)
    parent = store.get(1)
    lazy: dict[str, Any] = {policy_id: parent.stored(policy_id) for policy_id in parent.policy_ids}
    now = changed(given, "pol4")
    lazy["pol4"] = now["pol4"]
    disk.written = 0
    ckpt = store.save(2, {"i": 2}, lazy)
    assert shared(tmp_path, SECOND) == set(given) - {"pol4"}
    assert not [key for key in backend.read_keys if "polic" in key]
    assert disk.written < given["pol4"]["weights"]["dense/kernel"].nbytes + 20_000
    assert_same(ckpt.load().policies, now)


@pytest.mark.parametrize("how", ["save", "save_async"])
def test_a_stored_policy_of_any_checkpoint_goes_under_any_id(tmp_path: Path, how: str) -> None:
    """A league: a frozen opponent of long ago, under a new name; and a policy that was saved alone."""
    store = CheckpointStore(tmp_path)
    given = policies()
    first = store.save(1, {"i": 1}, given)
    alone = store.save(2, policy=given["pol2"])
    store.save(3, {"i": 3}, {"pol0": given["pol1"]})
    mixed = {"main": given["pol0"], "then": first.stored("pol0"), "solo": alone.stored("default_policy")}
    call = store.save if how == "save" else lambda *what: store.save_async(*what).result()
    ckpt = call(4, {"i": 4}, mixed)
    assert {"then", "solo"} <= shared(tmp_path, "checkpoint_000004")
    assert ckpt.verify().ok
    expected = {"main": given["pol0"], "then": given["pol0"], "solo": given["pol2"]}
    assert_same(ckpt.load().policies, expected)
    assert store.save(5, policy=first.stored("pol1")).kind == "Policy"
    assert_same(store.get(5).policies["default_policy"], given["pol1"])


def test_a_stored_policy_of_another_store_is_sent_verified(tmp_path: Path) -> None:
    given = policies()
    elsewhere = CheckpointStore(tmp_path / "a").save(1, {"i": 1}, given)
    store = CheckpointStore(tmp_path / "b")
    store.save(1, {"i": 1}, changed(given, "pol0"))  # a file of that very name and size, and another one
    ckpt = store.save(2, {"i": 2}, {"pol0": elsewhere.stored("pol0")})
    assert_same(ckpt.load().policies, {"pol0": given["pol0"]})
    name = "policies/pol0/policy_state.pkl"
    assert ckpt.base().files[name] == elsewhere.base().files[name]  # type: ignore[union-attr]
    path = tmp_path / "a" / FIRST / "policies" / "pol1" / "policy_state.pkl"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="pol1"):
        store.save(3, {"i": 3}, {"pol1": elsewhere.stored("pol1")})
    assert [found.step for found in store.checkpoints()] == [1, 2]


def test_the_same_store_opened_twice_is_one_place(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1, {"i": 1}, policies())
    CheckpointStore(tmp_path).save(2, {}, {"pol0": CheckpointStore(tmp_path).get(1).stored("pol0")})
    assert shared(tmp_path, SECOND) == {"pol0"}


def test_a_stored_policy_that_is_gone_is_said(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    stored = store.save(1, {"i": 1}, policies()).stored("pol0")
    store.save(2, {"i": 2}, {"pol9": {"weights": {}}})
    store.delete(1)
    with pytest.raises(CheckpointGone):
        store.save(3, {"i": 3}, {"pol0": stored})
    assert [found.step for found in store.checkpoints()] == [2]
    store.save(3, {"i": 3}, {})


def test_what_can_not_be_handed_over(tmp_path: Path) -> None:
    ckpt = CheckpointStore(tmp_path).save(1, {"i": 1}, policies())
    with pytest.raises(CheckpointNotFound, match="nobody"):
        ckpt.stored("nobody")
    with pytest.raises(InvalidRequest, match="another program"):
        Checkpoint.open(RLLIB_1_0 / "checkpoint").stored("default_policy")


# ---- On object stores


SERVERS = ["moto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seaweedfs", "fake-gcs"))]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, start_server: Callable[[str], Server]) -> Server:
    return start_server(request.param)


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as found:
        yield found


def sent(proxy: FaultProxy) -> int:
    return sum(seen.size for seen in proxy.seen)


@pytest.mark.parametrize("how", ["compared", "stored"])
def test_the_bytes_sent_are_those_that_changed(server: Server, proxy: FaultProxy, how: str) -> None:
    proxy.reset()
    url = server.new_url()
    store = CheckpointStore(url, storage_options={**server.options, "endpoint_url": proxy.endpoint})
    given = policies(40)
    parent = store.save(1, {"i": 1}, given)
    whole = sent(proxy)
    now = changed(given, "pol39")
    handed: dict[str, Any] = dict(now)
    if how == "stored":
        handed = {policy_id: parent.stored(policy_id) for policy_id in given} | {"pol39": now["pol39"]}
    proxy.reset()
    ckpt = store.save(2, {"i": 2}, handed)
    own = given["pol39"]["weights"]["dense/kernel"].nbytes
    table = len(server.peek(f"{url}/{SECOND}/_ckptstore/parts.json") or b"")
    if how == "stored":
        assert not [seen for seen in proxy.seen if seen.method == "GET" and "policies" in seen.path]
    assert own < sent(proxy) < own + table + 40_000 < whole / 15
    looks = [seen for seen in proxy.seen if seen.method == "GET" and "policies" in seen.path]
    assert len(looks) <= len(given) / 3  # those whose turn it is, on average a sixteenth
    assert len(proxy.seen) - len(looks) <= 2 * len(given) + 12
    assert_same(ckpt.load().policies, now)
    store.delete(1)
    assert ckpt.verify().ok


def test_small_files_are_sent(server: Server, proxy: FaultProxy) -> None:
    store = CheckpointStore(
        server.new_url(), storage_options={**server.options, "endpoint_url": proxy.endpoint}
    )
    store.save(1, {"i": 1}, given := {"pol0": {"weights": {"w": np.arange(9.0)}}})
    proxy.reset()
    assert_same(store.save(2, {"i": 2}, given).load().policies, given)
    puts = [seen for seen in proxy.seen if seen.method in ("PUT", "POST") and "policy_state" in seen.path]
    assert server.scheme == "gs" or [seen.size > 0 for seen in puts] == [True]


def test_a_server_that_copies_nothing_is_sent_the_bytes(server: Server, proxy: FaultProxy) -> None:
    url = server.new_url()
    store = CheckpointStore(url, storage_options={**server.options, "endpoint_url": proxy.endpoint})
    given = policies()
    store.save(1, {"i": 1}, given)
    copies = []

    def plan(index: int, seen: Any) -> Any:
        if (seen.method == "PUT" and not seen.size) or "rewriteTo" in seen.path:
            copies.append(seen)
            return "501"
        return None

    proxy.reset(plan)
    ckpt = store.save(2, {"i": 2}, given)
    assert copies
    proxy.reset()
    assert_same(ckpt.load().policies, given)


def test_a_base_in_a_bucket_that_goes_meanwhile(server: Server, proxy: FaultProxy) -> None:
    """Its manifest is a tombstone by the time all is copied: the copies may be of anything."""
    url = server.new_url()
    store = CheckpointStore(url, storage_options={**server.options, "endpoint_url": proxy.endpoint})
    other = CheckpointStore(url, storage_options=server.options)
    given = policies()
    store.save(1, {"i": 1}, given)
    done: list[str] = []

    def plan(index: int, seen: Any) -> None:
        if not done and ((seen.method == "PUT" and not seen.size) or "rewriteTo" in seen.path):
            done.append(seen.path)
            other.delete(1)

    proxy.reset(plan)
    ckpt = store.save(2, {"i": 2}, given)
    assert done
    assert [found.step for found in other.checkpoints()] == [2]
    assert_same(ckpt.load().policies, given)
    assert ckpt.verify().ok


def test_large_objects_are_copied_in_ranges(
    start_server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server("moto")
    monkeypatch.setattr(s3, "MOST_COPY_BYTES", 2**20)
    monkeypatch.setattr(s3, "COPY_PART_BYTES", 5 * 2**20)
    url = server.new_url()
    store = CheckpointStore(url, storage_options=server.options)
    given = {"pol0": {"weights": {"w": np.random.default_rng(0).bytes(12 * 2**20)}}}
    store.save(1, {"i": 1}, given)
    store.save(2, {"i": 2}, given)
    name = "policies/pol0/policy_state.pkl"
    assert server.peek(f"{url}/{SECOND}/{name}") == server.peek(f"{url}/{FIRST}/{name}")
    bucket, _, key = f"{url}/{SECOND}/{name}".partition("://")[2].partition("/")
    assert server.client().head_object(Bucket=bucket, Key=key)["ETag"].endswith('-3"')
    assert store.get(2).verify().ok


def test_memory_shares_what_is_equal_too() -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    given = policies()
    parent = store.save(1, {"i": 1}, given)
    ckpt = store.save(2, {"i": 2}, {**changed(given, "pol1"), "pol2": parent.stored("pol2")})
    assert ckpt.verify().ok
    assert_same(ckpt.load().policies, changed(given, "pol1"))


def test_a_copy_that_went_wrong_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    given = policies()
    store.save(1, {"i": 1}, given)

    def half(self: ObjectBackend, source: str, key: str, size: int) -> None:
        with self.write(key) as sink:
            sink.write(self.read(source, 0, size // 2))

    monkeypatch.setattr(ObjectBackend, "copy", half)
    with pytest.raises(StoreUnavailable, match=r"the server copied .* bytes, not"):
        store.save(2, {"i": 2}, given)
    assert [found.step for found in store.checkpoints()] == [1]
