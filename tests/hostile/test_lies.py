"""Small files that lie: manifests forged with a digest that fits, claimed lengths, JSON that is none.

Whoever can write to a store may forge what no key vouches for; what they can't do is to have anything else
read, run, hung or blown up, or the other checkpoints hidden.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.commit.objects import probe
from ckptstore.errors import CheckpointCorrupt, CheckpointError, InvalidRequest, UnreadableFormat
from ckptstore.format import strictjson
from ckptstore.format.digest import digest, digest_of_digests
from tests.figures import Figures
from tests.hostile.trial import META, NEWEST, Trial, assert_true, save, typed
from tests.stores import tree_bytes


def resealed(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the newest manifest and make its own digest fit."""
    path = root / NEWEST / META / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["digest"]
    edit(body)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))[:-1].encode()
    path.write_bytes(text + b',"digest":"' + digest(text).encode() + b'"}\n')


def _deep(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "path out": lambda body: body["files"][0].update(path="../../outside/bystander"),
    "path absolute": lambda body: body["files"][0].update(path="/etc/passwd"),
    "path of Windows": lambda body: body["files"][0].update(path="..\\..\\x"),
    "path with NUL": lambda body: body["files"][0].update(path="a\0b"),
    "path with a surrogate": lambda body: body["files"][0].update(path="a\ud800b"),
    "path without end": lambda body: body["files"][0].update(path="a/" * 2000 + "b"),
    "path too long": lambda body: body["files"][0].update(path="a" * 3000),
    "path of the manifest": lambda body: body["files"][0].update(path=f"{META}/manifest.json"),
    "path with escapes": lambda body: body["files"][0].update(path="\x1b[31m\r\n"),
    "parts elsewhere": lambda body: body["parts"].update(path="../x"),
    "parts by another name": lambda body: body["parts"].update(path="algorithm_state.pkl"),
    "size negative": lambda body: body["files"][0].update(size=-1),
    "size huge": lambda body: body["files"][0].update(size=10**30),
    "step huge": lambda body: body.update(step=10**400),
    "step a float": lambda body: body.update(step=3.0),
    "step a bool": lambda body: body.update(step=True),
    "step another": lambda body: body.update(step=1),
    "metric infinite": lambda body: body["metrics"].update(reward={"$float": "1e999"}),
    "metric huge": lambda body: body["metrics"].update(reward=10**4000),
    "metric of digits": lambda body: body["metrics"].update(reward="9" * 5000),
    "metric deep": lambda body: body["metrics"].update(reward=_deep(900)),
    "policies none": lambda body: body.update(policies=[]),
    "policy not there": lambda body: body.update(policies=["ghost"]),
    "policy outside": lambda body: body.update(policies=["../../../outside"]),
    "policy NUL": lambda body: body.update(policies=["a\0b"]),
    "policy surrogate": lambda body: body.update(policies=["\ud800"]),
    "policy empty": lambda body: body.update(policies=[""]),
    "policy twice": lambda body: body.update(policies=["pol0", "pol0"]),
    "labels right to left": lambda body: body.update(labels=["\u202egnp.exe", "\x00", "\ud800"]),
    "labels without end": lambda body: body.update(labels=["x"] * 10**5),
    "id a path": lambda body: body.update(id="../../x"),
    "id escapes": lambda body: body.update(id="\x1b]0;x\x07"),
    "created nonsense": lambda body: body.update(created="\ud800" * 10),
    "created in 9999": lambda body: body.update(created="9999-12-31T23:59:59.999-23:59"),
    "created in year 1": lambda body: body.update(created="0001-01-01T00:00:00+23:59"),
    "created without zone": lambda body: body.update(created="2026-01-01T00:00:00"),
    "parent itself": lambda body: body.update(parent={"id": body["id"], "relation": "resume"}),
    "kind unknown": lambda body: body.update(kind="Malware"),
    "kind Directory": lambda body: body.update(kind="Directory"),
    "kind Policy": lambda body: body.update(kind="Policy"),
    "origin stage": lambda body: body.update(origin="stage"),
    "origin adopt": lambda body: body.update(origin="adopt"),
    "writer strange": lambda body: body.update(writer={"ray": "\ud800" * 9}),
    "version long": lambda body: body.update(checkpoint_version="9" * 100_000),
    "field more": lambda body: body.update(extra=1),
    "files none": lambda body: body.update(files=[]),
}


@pytest.mark.parametrize("lie", FORGED)
def test_a_forged_manifest(trial: Trial, lie: str) -> None:
    root = trial.fresh()
    (trial.outside / "bystander").write_bytes(b"N.")
    before = tree_bytes(trial.outside)
    resealed(root, FORGED[lie])
    answers = trial.looks(root, trusting=False)
    assert {(1, "load"), (2, "load")} <= answers, "the others are whole"
    opened, _ = typed(lambda: Checkpoint.open(root / NEWEST), lie)
    if opened is not None:
        trial.reads(opened, trusting=False)
    trial.changes(root)
    assert tree_bytes(trial.outside) == before


@pytest.mark.parametrize("version", [3, 10**30])
def test_a_newer_manifest_is_never_passed_over_for_an_older_checkpoint(trial: Trial, version: int) -> None:
    root = trial.fresh()
    resealed(root, lambda body: body.update(schema_version=version))
    store = CheckpointStore(root)
    for look in (store.latest, lambda: store.get(3), lambda: store.delete(3), lambda: store.rollback(1)):
        with pytest.raises(UnreadableFormat, match="Upgrade ckptstore"):
            look()
    assert store.get(2).verify().ok


# -- lengths --------------------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Two GiB more than now: to ask for what a length claims fails, as it would with all of the memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def claimed(root: Path, size: int) -> None:
    """Manifest and parts agree that the state has `size` bytes, in one part."""
    home = root / NEWEST
    table = json.loads((home / META / "parts.json").read_bytes())
    table["files"]["algorithm_state.pkl"] = {"parts": [[0, size, digest(b"")]], "arrays": []}
    data = json.dumps(table).encode()
    (home / META / "parts.json").write_bytes(data)

    def edit(body: dict[str, Any]) -> None:
        for file in body["files"]:
            if file["path"] == "algorithm_state.pkl":
                file.update(size=size, digest=digest_of_digests([digest(b"")]))
        body["parts"].update(size=len(data), digest=digest(data))

    resealed(root, edit)


READS: list[Callable[[Checkpoint], object]] = [
    lambda checkpoint: checkpoint.load(),
    lambda checkpoint: checkpoint.read("algorithm_state.pkl"),
    lambda checkpoint: checkpoint.state,
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("size", [2**32, 2**33, 2**40, 2**62, 2**63 - 1])
def test_a_claimed_length_takes_no_memory(trial: Trial, size: int) -> None:
    root = trial.fresh()
    claimed(root, size)
    for sparse in (False, True):
        if sparse:
            try:
                os.truncate(root / NEWEST / "algorithm_state.pkl", size)
            except OSError:
                break  # no file is that long here
        for read in READS:
            _, error = typed(lambda: read(Checkpoint.open(root / NEWEST)), "load")  # noqa: B023
            assert isinstance(error, CheckpointError)
            assert "algorithm_state.pkl" in error.what
        assert CheckpointStore(root).get(2).verify().ok


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("file", [f"{META}/manifest.json", f"{META}/parts.json", "algorithm_state.pkl"])
def test_a_sparse_file_takes_no_memory(trial: Trial, file: str) -> None:
    root = trial.fresh()
    os.truncate(root / NEWEST / file, 2**40)
    loaded, error = typed(lambda: Checkpoint.open(root / NEWEST).load(), file)
    if file == "algorithm_state.pkl":  # what was saved is still at its beginning
        assert_true(3, "load", loaded)
    else:
        assert file in str(error)
    latest = CheckpointStore(root).latest()
    assert latest is not None
    assert latest.step == 2


SMALL = f"{META}/store.json", f"{META}/refs/champion/000000000001.json"
OURS = f"{NEWEST}/{META}/manifest.json", f"{NEWEST}/{META}/parts.json", *SMALL


def too_large(file: str) -> int:
    return (strictjson.MAX_SMALL_BYTES if file in SMALL else strictjson.MAX_BYTES) + 1


def refused_unread(file: str, store: CheckpointStore, figures: Figures) -> None:
    """Whatever meets the file says which it is, and what to do, and has not read it."""
    newest = (lambda: store.get(3), lambda: store.get(3).load(), lambda: store.get(3).verify())
    tag = (store.tags, lambda: store.get("tag:champion"), lambda: store.delete(1), lambda: store.prune(1))
    every = (store.latest, store.checkpoints, lambda: save(store, 4), store.gc)
    calls = {"manifest": newest[:1], "parts": newest[1:2], "store": every, "00001": tag}
    tracemalloc.start()
    try:
        for call in next(calls for what, calls in calls.items() if f"{what}.json" in file):
            _, error = typed(call, file)
            assert isinstance(error, CheckpointCorrupt)
            assert file in error.what
            assert f"{too_large(file)} bytes" in error.why
            assert error.remedy
            figures.add("hostile reads", 1, "reads checked")
        if file == f"{NEWEST}/{META}/manifest.json":
            latest = store.latest()
            assert latest is not None
            assert latest.step == 2
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20, "it was read all the same"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file", OURS)
def test_a_file_of_ours_that_is_too_large_is_not_read(trial: Trial, figures: Figures, file: str) -> None:
    root = trial.fresh()
    os.truncate(root / file, too_large(file))
    refused_unread(file, CheckpointStore(root), figures)


@pytest.mark.parametrize("file", OURS)
def test_an_object_of_ours_that_is_too_large_is_not_read(figures: Figures, file: str) -> None:
    name = uuid.uuid4().hex
    with CheckpointStore(f"memory://{name}") as store:
        for step in (1, 2, 3):
            save(store, step)
        store.tag("champion", 1)
    memory = MemoryFileSystem()
    memory.pipe_file(f"/{name}/{file}", bytes(too_large(file)))
    with CheckpointStore(f"memory://{name}") as store:
        refused_unread(file, store, figures)
    memory.rm(f"/{name}", recursive=True)


def test_what_lies_where_the_probe_writes_hinders_nobody() -> None:
    name = uuid.uuid4().hex
    with CheckpointStore(f"memory://{name}") as store:
        save(store, 1)
    MemoryFileSystem().pipe_file(f"/{name}/{META}/probe/create-only.json", bytes(too_large("")))
    probe.forget()
    with CheckpointStore(f"memory://{name}") as store:
        assert save(store, 2).verify().ok
    MemoryFileSystem().rm(f"/{name}", recursive=True)


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ({"state": {str(at): np.arange(9000) for at in range(60)}}, "parts"),
        ({"state": {}, "metrics": {str(at): at for at in range(900)}}, "manifest"),
    ],
)
@pytest.mark.parametrize("place", ["local", "memory"])
def test_what_no_reader_would_take_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, given: dict[str, Any], file: str
) -> None:
    store = CheckpointStore(tmp_path / "run" if place == "local" else f"memory://{uuid.uuid4().hex}")
    save(store, 1)
    monkeypatch.setattr(strictjson, "MAX_BYTES", 5000)
    with pytest.raises(InvalidRequest, match=rf"{file}\.json.* 5000 .*fewer"):
        store.save(2, **given)
    monkeypatch.undo()
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [1]
    assert store.save(2, **given).verify().ok


# -- JSON -----------------------------------------------------------------------------------------------

RAW: dict[str, bytes] = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "huge number": b'{"step":' + b"9" * 1_000_000 + b"}",
    "huge exponent": b'{"step":1e999999999}',
    "a key twice": b'{"state":"committed","state":"deleted"}' + b" " * 2000,
    "UTF-16": "{}".encode("utf-16") + bytes(2000),
    "byte order mark": b"\xef\xbb\xbf{}" + b" " * 2000,
    "no UTF-8": b'{"a":"\xff\xfe\xc0\x80"}' + b" " * 2000,
    "zeros": bytes(5000),
    "long tombstone": b'{"state":"deleted"}' + b" " * 2000,
    "tombstone in a list": b'["state"]',
    "tombstone, deep": b"[" * 400,
    "tombstone with a list": b'{"state":["deleted"]}',
    "tombstone with a dict": b'{"state":{"deleted":1}}',
}
JSONS = [
    f"{NEWEST}/{META}/manifest.json",
    f"{NEWEST}/{META}/parts.json",
    f"{NEWEST}/rllib_checkpoint.json",
    f"{META}/store.json",
    f"{META}/refs/champion/000000000002.json",
]


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("file", JSONS)
def test_json_that_is_none(trial: Trial, file: str, raw: str) -> None:
    root = trial.fresh()
    (root / file).write_bytes(RAW[raw])
    answers = trial.looks(root)
    if file.startswith(NEWEST):
        assert {(1, "load"), (2, "load")} <= answers, "the others are whole"
        assert (3, "verify") not in answers
    opened, _ = typed(lambda: Checkpoint.open(root / NEWEST), file)
    if opened is not None:
        trial.reads(opened)
    if "refs" in file:
        store = CheckpointStore(root)
        for change in (store.tags, lambda: store.delete(1), lambda: store.prune(1)):
            _, error = typed(change, "protected by a tag that can't be read")
            assert isinstance(error, CheckpointCorrupt)
        assert (root / "checkpoint_000001").exists()
    trial.changes(root)
