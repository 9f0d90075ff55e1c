"""Names from listings: wherever one becomes a path or a destination, nothing is written or removed outside.

A bucket's keys may be anything. Here they hold ``..``, lines, drives and more, in every place where a key of
a listing turns into something else; the table of these places is in ``docs/threats.md``.
"""

from __future__ import annotations

import json
import ntpath
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from blake3 import blake3
from click.testing import CliRunner
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointCorrupt, CheckpointError, CheckpointNotFound, InvalidRequest
from ckptstore.integrations.rllib import StoredAlgorithm, pointers
from ckptstore.read.download import path_below
from tests.servers import Server
from tests.stores import RLLIB_1_0, tree_bytes

FOREIGN = tree_bytes(RLLIB_1_0 / "checkpoint")
"""A checkpoint without a manifest."""

LEADING_OUT = [
    "..",
    "../outside",
    "../../outside",
    "a/../../outside",
    "a/b/../../../outside",
    "./../outside",
    "a/./../../outside",
    "/outside",
    "//outside",
    "a//../../outside",
    "a/..//../outside",
    "..\\outside",
    "a\\..\\..\\outside",
    "\\outside",
    "a\0/../../outside",
]
"""Directories that some reader of such a path would take for another one, outside."""

ODD = [
    "C:",
    "C:/outside",
    "C:\\outside",
    "a\nb",
    "\x1b[2J",
    "%2e%2e/outside",
    "a/%2e%2e/%2E%2E/outside",
    "..%2foutside",
    "%252e%252e",
    "\u2025/outside",
    "\uff0e\uff0e/outside",
    "..\u200b/outside",
    "\u202e..",
    "... ",
    "...",
    ".. /outside",
    "~",
    "~root",
    "$HOME",
    "-rf",
    "x" * 255,
    "x" * 5000,
    "/".join(["deep"] * 99),
    "/".join(["deep"] * 2000),
    "a?b=c",
    "a#b",
    "a::memory://outside",
    "a::file:",
    "Run",
    "run",
    "RUN",
    "_ckptstore",
    "_ckptstore/refs",
    "_ckptstore/refs/champion",
    ".staging",
    ".trash/run",
]
"""Directories that stay inside, or are refused: nothing else."""


def committed(step: int = 7) -> dict[str, bytes]:
    """The files of a checkpoint with a manifest, by path."""
    url = f"memory://{uuid.uuid4().hex}"
    made = CheckpointStore(url).save(step, policies={"p": {"w": np.ones(3)}})
    backend = open_backend(made.url)
    return {entry.key: backend.read(entry.key) for entry in backend.list()}


COMMITTED = committed()


class Bucket:
    """A bucket whose keys are whatever somebody wanted, and a place to copy to with places outside of it."""

    def __init__(self, root: Path) -> None:
        self.url = f"memory://{uuid.uuid4().hex}/bucket"
        self.inside = root / "outer" / "inside"
        self.inside.mkdir(parents=True)
        self._around = root
        self.put("good/checkpoint_000003", FOREIGN)

    def put(self, directory: str, files: Mapping[str, bytes]) -> None:
        """Keys that no file system would hold; fsspec's own ways to write would normalise them."""
        store = MemoryFileSystem.store
        for path, data in files.items():
            MemoryFileSystem().pipe_file("/scratch", data)
            store[f"/{self.url.removeprefix('memory://')}/{directory}/{path}"] = store.pop("/scratch")

    def outside(self) -> list[str]:
        """What lies around, but for the place to copy to."""
        found = [path for path in self._around.rglob("*") if not path.is_relative_to(self.inside)]
        return sorted(str(path) for path in found if path != self.inside.parent)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket(tmp_path)
    monkeypatch.chdir(made.inside)  # a relative path that is taken for an absolute one is seen, too
    yield made
    assert made.outside() == []
    MemoryFileSystem.store.clear()


def typed(call: Callable[[], Any]) -> Any:
    """What the call gives, or None if it ends in a typed error; anything else it raises goes through."""
    try:
        return call()
    except CheckpointError:
        return None


# -- directories that become stores ---------------------------------------------------------------


@pytest.mark.parametrize("files", [COMMITTED, FOREIGN], ids=["committed", "foreign"])
def test_directories_that_lead_out_are_not_found(
    bucket: Bucket, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for name in LEADING_OUT:
        for directory in (f"{name}/checkpoint_000007", f"x/{name}/checkpoint_7", f"y/{name}"):
            bucket.put(directory, files)
    found = bulk.find(bucket.url)
    assert [each.path for each in found] == ["good/checkpoint_000003"]
    assert "are passed over for their names" in caplog.text
    mirror = bulk.Mirror(bucket.inside)
    assert [outcome.error for outcome in bulk.run(mirror.copy, found)] == [None]
    for command in ("cp", "migrate"):
        done = CliRunner().invoke(cli, [command, f"{bucket.url}/**", f"{bucket.inside}/{command}"])
        assert done.exit_code == 0, done.output
        assert (bucket.inside / command / "good/checkpoint_000003").is_dir()


@pytest.mark.parametrize("files", [COMMITTED, FOREIGN], ids=["committed", "foreign"])
def test_odd_directories_stay_inside(bucket: Bucket, files: dict[str, bytes]) -> None:
    for name in ODD:
        for directory in (f"{name}/checkpoint_000007", f"y/{name}"):
            bucket.put(directory, files)
    found = bulk.find(bucket.url)
    assert len(found) > len(ODD), "this would have tried little"
    outcomes = list(bulk.run(bulk.Mirror(bucket.inside).copy, found))
    assert all(out.error is None or isinstance(out.error, CheckpointError) for out in outcomes), outcomes
    assert sum(out.error is None for out in outcomes) > len(ODD)
    hidden = {path for path in bucket.inside.rglob("checkpoint_*") if "refs" in path.parts}
    assert not hidden, "it was planted among the refs of another store"


@pytest.mark.parametrize("base", ["{inside}", "file://{inside}", "memory://dest/in", "local://{inside}"])
def test_destinations_below_a_url(bucket: Bucket, base: str) -> None:
    url = base.format(inside=bucket.inside)
    stores = bulk.Mirror(url)
    remote = base.startswith("memory")
    names = [
        *LEADING_OUT,
        *(["%2e%2e/outside", "a::memory://outside", "a::file:", "a?b=c"] if remote else []),
    ]
    for name in names:
        with pytest.raises(InvalidRequest):
            stores.store(name)
        with pytest.raises(InvalidRequest):
            stores.checkpoint_at(name, 7)
    for name in ("a", "a/b", "...", "a b", "\u2025"):
        assert stores.store(name).url.endswith(f"/{name}")
    assert stores.store("").url == open_backend(url).url


@pytest.mark.parametrize("name", LEADING_OUT, ids=lambda name: ascii(name)[1:40])
def test_what_was_found_by_others(bucket: Bucket, name: str) -> None:
    """`Found` is public: one that somebody made by hand, or found in a list of their own."""
    for backend in (open_backend(bucket.url), open_backend(bucket.inside)):
        with pytest.raises(InvalidRequest):
            bulk.Found(backend, name, committed=True)


# -- files inside a checkpoint --------------------------------------------------------------------

OUT = [f"{name}/checkpoint-7" for name in LEADING_OUT]
READS: dict[str, Callable[[Checkpoint, Path], Any]] = {
    "download": lambda ckpt, to: ckpt.download(to),
    "policies": lambda ckpt, to: ckpt.download(to, policy_ids=list(ckpt.policies)),
    "as_directory": lambda ckpt, to: ckpt.as_directory().__enter__(),
    "migrate": lambda ckpt, to: ckpt.migrate(to),
    "export": lambda ckpt, to: ckpt.export(to.with_suffix(".npz"), next(iter(ckpt.policies))),
    "load": lambda ckpt, to: (ckpt.load(), ckpt.components),
    "verify": lambda ckpt, to: ckpt.check(),
    "scan": lambda ckpt, to: ckpt.scan(),
}


@pytest.mark.parametrize("path", OUT, ids=lambda path: ascii(path)[1:40])
def test_files_of_what_has_no_manifest(bucket: Bucket, path: str, tmp_path: Path) -> None:
    bucket.put("odd/checkpoint_000007", {**FOREIGN, path: b"out", f"policies/{path}": b"out"})
    url = f"{bucket.url}/odd/checkpoint_000007"
    for name, read in READS.items():
        typed(lambda read=read, name=name: read(Checkpoint.open(url), bucket.inside / name))  # type: ignore[misc]
    with pytest.raises(CheckpointCorrupt):
        Checkpoint.open(url).download(bucket.inside / "whole")
    with pytest.raises(CheckpointCorrupt):
        Checkpoint.open(url).read(path)
    assert {"unknown"} <= {use.rank for use in Checkpoint.open(url).scan()}
    with pytest.raises(CheckpointCorrupt):
        CheckpointStore(f"{bucket.url}/odd").adopt("checkpoint_000007")
    assert CliRunner().invoke(cli, ["cp", f"{url}", f"{bucket.inside}/cp"]).exit_code != 0


@pytest.mark.parametrize("path", OUT, ids=lambda path: ascii(path)[1:40])
def test_strays_beside_what_a_manifest_names(bucket: Bucket, path: str) -> None:
    bucket.put("store/checkpoint_000007", {**COMMITTED, path: b"out"})
    checkpoint = Checkpoint.open(f"{bucket.url}/store/checkpoint_000007")
    assert path in checkpoint.check().strays
    got = Path(checkpoint.download(bucket.inside / "got"))
    assert set(tree_bytes(got)) == {name for name in COMMITTED if "claim" not in name}
    with pytest.raises(CheckpointNotFound):
        checkpoint.read(path)


@pytest.mark.parametrize("path", [*OUT, "C:/x", "c:x"])
def test_drives_of_windows(path: str, tmp_path: Path) -> None:
    """Where joining a path with a drive forgets what it is joined to."""
    with pytest.raises(CheckpointCorrupt):
        path_below(str(tmp_path), path, "here", ntpath)


@pytest.mark.parametrize("name", ["C:", "a\nb", "x" * 300, "~", "\x1b[2J", "%2e%2e"])
def test_the_name_of_a_checkpoint_as_that_of_a_directory(
    bucket: Bucket, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(bucket.inside))
    bucket.put(f"top/{name}", FOREIGN)
    backend = open_backend(bucket.url)
    listing = {path: len(data) for path, data in FOREIGN.items()}
    checkpoint = Checkpoint.from_listing(backend, f"top/{name}", listing)
    with checkpoint.as_directory() as path:
        assert Path(path).parent.parent == bucket.inside
        assert Path(path).name == "checkpoint"


# -- names of policies and components -------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../../outside", "..", "/outside", "a\\..\\b"])
@pytest.mark.parametrize("dest", ["{inside}", "memory://dest/in"])
def test_policies_that_a_pickle_names(bucket: Bucket, name: str, dest: str) -> None:
    model: dict[str, Any] = {}

    def rename(given: dict[str, Any]) -> dict[str, Any]:
        """What a file of the oldest layout may call its policies."""
        model.update(given, policies={name: next(iter(given["policies"].values()))})
        return model

    with pytest.raises(CheckpointError):
        Checkpoint.open(f"{bucket.url}/good/checkpoint_000003").migrate(
            dest.format(inside=bucket.inside), steps=[rename]
        )
    assert model, "this would have tried nothing"
    assert CheckpointStore(dest.format(inside=bucket.inside)).latest() is None


# -- refs -----------------------------------------------------------------------------------------


def test_names_of_refs(bucket: Bucket) -> None:
    store = CheckpointStore(f"{bucket.url}/store")
    made = store.save(1, {"x": 1})
    store.tag("best", made)
    ref = open_backend(store.url).read("_ckptstore/refs/best/000000000001.json")
    for name in LEADING_OUT:
        bucket.put(f"store/_ckptstore/refs/{name}", {"000000000001.json": ref})
    assert store.tags() == {"best": made.name}
    store.untag("best")
    store.save(2, {"x": 2})
    assert store.prune(1) == [made.name]
    for name in ("..", "../x", "a/b", "a\nb", ".hidden", "", "a" * 101):
        with pytest.raises(InvalidRequest):
            store.tag(name, 2)
        with pytest.raises(InvalidRequest):
            store.get(f"tag:{name}")


@pytest.mark.parametrize("name", ["../../../outside", "a/../../../../outside", "/outside", "a\\b", "a/b"])
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_ids_of_manifests_in_names_of_pins(bucket: Bucket, name: str, kind: str) -> None:
    """A pin is called after the id in the manifest, which somebody else may have written."""
    url = str(bucket.inside) if kind == "local" else f"{bucket.url}/store"
    store = CheckpointStore(url)
    store.save(1, {"x": 1})
    where = f"{store.url}/checkpoint_000001/_ckptstore"
    backend = open_backend(where)
    data = backend.read("manifest.json").replace(store.get(1).id.encode(), json.dumps(name)[1:-1].encode())
    body = data[: data.rindex(b',"digest"')]
    backend.replace("manifest.json", body + f',"digest":"{blake3(body).hexdigest()}"}}\n'.encode())
    assert store.get(1).id == name
    with pytest.raises(CheckpointCorrupt):
        store.pin(1)
    store.unpin(1)  # there is none
    assert store.tags() == {}


@pytest.mark.parametrize("trial", LEADING_OUT, ids=lambda trial: ascii(trial)[1:40])
def test_trials_that_a_pointer_names(bucket: Bucket, trial: str, tmp_path: Path) -> None:
    """The small file that Tune keeps says which trial's store to open, below the one that is configured."""
    made = CheckpointStore(f"{bucket.url}/x/outside").save(1, {"x": 1})
    pointer = pointers.Pointer(made.url, made.name, made.id, trial)
    (bucket.inside / pointers.POINTER).write_bytes(pointers.dump(pointer))
    for base in (f"{bucket.url}/x/stores", str(bucket.inside)):
        algorithm = type("Stored", (StoredAlgorithm,), {"checkpoint_store": base})()
        with pytest.raises(InvalidRequest, match="could lie outside"):
            algorithm.load_checkpoint(str(bucket.inside))


# -- servers and archives that lie ----------------------------------------------------------------


class Lying(LocalFileSystem):  # type: ignore[misc]
    """A file system that lists what isn't there: names that lead out, and absolute ones."""

    protocol = "lying"
    root = ""
    read: ClassVar[list[str]] = []
    removed: ClassVar[list[str]] = []

    def _lies(self, path: str) -> dict[str, dict[str, Any]]:
        top = f"{self.root}/checkpoint_000001"
        names = [f"{top}/{name}/secret" for name in LEADING_OUT if "\0" not in name]
        names += ["/etc/passwd", "secret", "../secret", f"{self.root}/../secret", f"{top}/../../secret"]
        names += [f"{self.root}/_ckptstore/deleting/../../../secret", f"{self.root}/_ckptstore/refs/../../x"]
        return {name: {"name": name, "size": 3, "type": "file", "mtime": 0.0} for name in names}

    def find(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        found = super().find(path, detail=True, **kwargs)
        return {**found, **self._lies(path)}

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        return [*super().ls(path, detail=True, **kwargs), *self._lies(path).values()]

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self.read.append(path)
        return super().cat_file(path, *args, **kwargs)

    def rm_file(self, path: str) -> None:
        self.removed.append(path)
        super().rm_file(path)


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[str]:
    fsspec.register_implementation("lying", Lying, clobber=True)
    Lying.root = f"{tmp_path}/outer/store"
    Lying.read, Lying.removed = [], []
    secrets = [tmp_path / "secret", tmp_path / "outer/secret", tmp_path / "outer/outside/secret"]
    for secret in secrets:
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("abc")
    yield f"lying://{Lying.root}"
    assert all(secret.read_text() == "abc" for secret in secrets)
    assert [path for path in [*Lying.read, *Lying.removed] if "secret" in path or "passwd" in path] == []


def test_a_server_that_lists_what_is_not_there(lying: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = CheckpointStore(lying, single_writer=True)
        made = store.save(1, {"x": 1}, policies={"p": {"w": np.ones(3)}})
        store.tag("best", 1)
        assert store.tags() == {"best": made.name}
        assert store.latest(verified=True) is not None
        assert all(report.ok for report in store.verify())
        keys = [entry.key for entry in open_backend(lying).list()] + open_backend(lying).children()
        assert not any(part in {".", ".."} for key in keys for part in key.split("/"))
        found = bulk.find(lying)
        assert [each.path for each in found] == [made.name]
        assert [out.error for out in bulk.run(bulk.Mirror(tmp_path / "copy").copy, found)] == [None]
        store.untag("best")
        store.save(2, {"x": 2})
        store.delete(1)
        store.gc(grace=0)
    assert Lying.removed, "this would have tried nothing"


def test_no_request_names_what_leads_out(bucket: Bucket) -> None:
    """The wall behind all gates: whoever forgets to check has his call refused."""
    backend = open_backend(bucket.url)
    for key in ("../x", "a/../../x", "./x", "a/..", ".."):
        for call in (
            lambda key=key: backend.read(key),
            lambda key=key: backend.publish(key, b""),
            lambda key=key: backend.replace(key, b""),
            lambda key=key: backend.write(key),
            lambda key=key: backend.delete([key]),
            lambda key=key: backend.copy("good", key, 1),  # type: ignore[attr-defined]
            lambda key=key: backend.copy(key, "good", 1),  # type: ignore[attr-defined]
        ):
            with pytest.raises(ValueError, match="plain relative key"):
                call()


def test_gc_removes_nothing_outside(bucket: Bucket) -> None:
    """Of a dead directory what has plain names goes; what seems to lie elsewhere is left alone."""
    store = CheckpointStore(f"{bucket.url}/store")
    store.save(1, {"x": 1})
    store.save(2, {"x": 2})
    odd = [f"{name}/x" for name in LEADING_OUT]
    bucket.put("store/checkpoint_000001", dict.fromkeys(odd, b"out"))
    bucket.put("store/_ckptstore/deleting", dict.fromkeys(odd, b"out"))
    store.delete(1)
    store.gc(grace=0)
    store.gc(grace=0)
    left = {entry.key for entry in open_backend(store.url).list("checkpoint_000001")}
    assert {f"checkpoint_000001/{path}" for path in odd} <= left
    assert "checkpoint_000001/algorithm_state.pkl" not in left
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [2]


# -- a real bucket --------------------------------------------------------------------------------


def test_keys_of_s3(moto: Server, bucket: Bucket) -> None:
    """As it was found: `cp` and `migrate` of ``URL/**`` planted a checkpoint in the store beside."""
    url = moto.new_url()
    for path, data in FOREIGN.items():
        for name in ("x/../../../outside/checkpoint_999999", "run/..//..//prod", "good/checkpoint_000003"):
            moto.store(f"{url}/{name}/{path}", data)
    options = [f"--storage-option=endpoint_url={moto.endpoint}", "--storage-option=key=test"]
    options += ["--storage-option=secret=testtest", "--storage-option=client_kwargs.region_name=us-east-1"]
    for command in ("cp", "migrate"):
        to = f"{bucket.inside}/{command}"
        done = CliRunner().invoke(
            cli, [command, f"{url}/**", to, *options, "--to-storage-option=auto_mkdir=true"]
        )
        assert done.exit_code == 0, done.output
        assert [path.name for path in Path(to).glob("*/checkpoint_*")] == ["checkpoint_000003"]
