"""What people write for a place, in the library and on the command line: understood, or refused in words.

Whichever it is, nothing is written anywhere else.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.backends import registry, urls
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root as cli
from ckptstore.errors import InvalidRequest
from tests.servers import Server

SECRET = "s3nt1nelSECRET"

UNDERSTOOD: dict[str, str] = {
    "runs/ppo": "cwd/runs/ppo",
    "./runs/ppo": "cwd/runs/ppo",
    "../cwd/runs//ppo/": "cwd/runs/ppo",
    "{top}/abs": "abs",
    "~": "home",
    "~/runs/ppo": "home/runs/ppo",
    "./~": "cwd/~",
    "{uri}": "my runs/größe 試験 100%41 a#b?c",
    "file://{top}/my%20runs": "my runs",
    "file://{top}/my runs": "my runs",
    "file://localhost{top}/a": "a",
    "file://LOCALHOST{top}/a": "a",
    "FILE://{top}/a": "a",
    "file:{top}/a": "a",
    "local://{top}/a": "a",
    "file://{top}/what?/key=1": "what?/key=1",
    "file://{top}/100%": "100%",
    "file://{top}/cwd/s3:/bucket": "cwd/s3:/bucket",
    "run:1/lr:0.1": "cwd/run:1/lr:0.1",
    "sweep@3/x": "cwd/sweep@3/x",
    "memory": "cwd/memory",
    "s3": "cwd/s3",
}
"""On the local disk: a spelling, and the directory below the test's own that it means."""

REFUSED: dict[str, str] = {
    "": "names no place",
    "  ": "names no place",
    "file://": "names no place",
    "s3://": "names no place",
    "S3://": "names no place",
    "a\0b": "NUL",
    "file:///a%00b": "NUL",
    "s3:/bucket/x": "Write 's3://bucket/x",
    "s3:bucket/x": "Write 's3://bucket/x",
    "S3:/bucket/x": "Write 's3://bucket/x",
    "gs:/bucket/x": "Write 'gs://bucket/x",
    "hdfs:/node/x": "Write 'hdfs://node/x",
    "memory:/x": "Write 'memory://x",
    "{top}/s3:/bucket/x": "Write 's3://bucket/x",
    "{top}/s3://bucket/x": "Write 's3://bucket/x",
    "./gs:/bucket/x": "Write 'gs://bucket/x",
    "{top}/file:/runs/x": "Write 'file:///runs/x",
    "s3:user:" + SECRET + "@b/x": "Write 's3://b/x",
    "s3:/user:" + SECRET + "@b/x": "Write 's3://b/x",
    "S3://user:" + SECRET + "@b/x": "storage_options",
    " s3://bucket/x": "begins or ends with a space",
    "s3://bucket/x\n": "begins or ends with a space",
    "C:\\runs": "path of Windows",
    "C:/runs": "path of Windows",
    "\\\\nas\\runs": "path of Windows",
    "file:///C:/runs": "path of Windows",
    "file://nas/runs": "another machine",
    "file://runs": "another machine",
    "file://~/runs": "Write ~/runs",
    "file:runs/ppo": "Write runs/ppo",
    "~nobody-of-that-name/runs": "no such user",
    "file://{top}/literal%20x": "literal%2520x",
    "simplecache::bucket/x": "Write simplecache::s3://",
    "r2://bucket/x": "endpoint_url",
    "minio://bucket/x": "endpoint_url",
    "nosuch://bucket/x": "not known",
    "runs/a://b": "its scheme isn't one",
}
"""Whatever would be another place, and a part of what is said of it."""


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("cwd", "home", "literal%20x"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def _spell(text: str, top: Path) -> str:
    return text.replace("{uri}", (top / UNDERSTOOD["{uri}"]).as_uri()).replace("{top}", str(top))


def _written(top: Path) -> set[str]:
    """The directories that hold checkpoints, and every file that no checkpoint explains."""
    found = set()
    for path in top.rglob("*"):
        parts = path.relative_to(top).parts
        inside = [index for index, part in enumerate(parts) if part.startswith("checkpoint_")]
        if inside:
            found.add("/".join(parts[: inside[0]]))
        elif not path.is_dir() and "_ckptstore" not in parts:
            found.add("/".join(parts))
    return found


def _cli(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_there_are_forty_of_them_at_least() -> None:
    assert len(UNDERSTOOD) + len(REFUSED) >= 40


@pytest.mark.parametrize("spelling", UNDERSTOOD)
def test_a_spelling_is_understood_by_the_library(spelling: str, top: Path) -> None:
    url = _spell(spelling, top)
    store = CheckpointStore(url)
    saved = store.save(1, {"i": 1})
    assert _written(top) == {UNDERSTOOD[spelling]}
    again = CheckpointStore(store.url)  # what it is called by leads there again
    assert again.url == store.url
    assert again.latest() is not None
    assert Checkpoint.open(saved.url).state == {"i": 1}
    assert Checkpoint.open(f"{url.rstrip('/')}/checkpoint_000001").id == saved.id
    assert pickle.loads(pickle.dumps(store)).get(1).id == saved.id
    assert [found.open().id for found in bulk.find(url)] == [saved.id]
    assert bulk.Mirror(url).store("").url == store.url
    assert store.adopt(f"{url.rstrip('/')}/checkpoint_000001").id == saved.id
    assert _written(top) == {UNDERSTOOD[spelling]}


@pytest.mark.parametrize("spelling", UNDERSTOOD)
def test_a_spelling_is_understood_on_the_command_line(spelling: str, top: Path) -> None:
    url = _spell(spelling, top)
    CheckpointStore("memory://spellings").save(1, {"i": 1}, if_exists="return")
    done = _cli("cp", "memory://spellings", url)
    assert done.exit_code == 0, done.output
    assert _written(top) == {UNDERSTOOD[spelling]}
    for arguments in (["ls", url], ["info", f"{url}@1"], ["verify", url], ["scan", url], ["doctor", url]):
        done = _cli(*arguments)
        assert done.exit_code == 0, done.output
    assert _written(top) == {UNDERSTOOD[spelling]}


USES: dict[str, Callable[[str], object]] = {
    "store": lambda url: CheckpointStore(url).save(1, {"i": 1}),
    "checkpoint": Checkpoint.open,
    "find": bulk.find,
    "mirror": lambda url: bulk.Mirror(url).store("a").save(1),
    "copy": lambda url: _source().download(url),
    "export": lambda url: _source().export(url if not url.strip() or url.endswith("://") else f"{url}/p.npz"),
    "migrate": lambda url: _source().migrate(url),
}


def _source() -> Checkpoint:
    weights = {"p": {"weights": {"w": np.ones(2)}}}
    return CheckpointStore("memory://spellings-of").save(1, policies=weights, if_exists="return")


@pytest.mark.parametrize("spelling", REFUSED)
def test_a_spelling_is_refused_by_the_library(spelling: str, top: Path) -> None:
    url = _spell(spelling, top)
    for name, use in USES.items():
        with pytest.raises(InvalidRequest) as caught:
            use(url)
        if name not in ("export", "copy") or "://" not in spelling:
            assert _spell(REFUSED[spelling], top) in str(caught.value), name
        assert SECRET not in str(caught.value) + repr(caught.value.args)
    assert _written(top) == set()
    assert os.listdir(top / "cwd") == os.listdir(top / "home") == []


@pytest.mark.parametrize("spelling", REFUSED)
def test_a_spelling_is_refused_on_the_command_line(spelling: str, top: Path) -> None:
    url = _spell(spelling, top)
    CheckpointStore("memory://spellings").save(1, {"i": 1}, if_exists="return")
    for arguments in (["cp", "memory://spellings"], ["ls"], ["info"], ["doctor"], ["scan"], ["verify"]):
        done = _cli(*arguments, url)
        assert done.exit_code == InvalidRequest.exit_code, (arguments, done.output)
        assert SECRET not in done.output
    for arguments in (["get", "memory://spellings@1", url], ["ls", f"{url}/**"]):
        done = _cli(*arguments)
        assert done.exit_code not in (0, 1), (arguments, done.output)
        assert SECRET not in done.output
    assert _written(top) == set()
    assert os.listdir(top / "cwd") == os.listdir(top / "home") == []


@pytest.mark.parametrize("wrong", [None, b"runs", 5, ["runs"]])
def test_what_is_no_text_is_refused(wrong: Any, top: Path) -> None:
    for use in (
        CheckpointStore,
        Checkpoint.open,
        bulk.find,
        bulk.Mirror,
        _source().download,
        _source().export,
    ):
        with pytest.raises(InvalidRequest, match="Pass"):
            use(wrong)
    assert _written(top) == set()


@pytest.mark.parametrize("url", ["s3://b/x", "gs://b/x", "memory://x", "zip://x::s3://b/a.zip"])
def test_a_url_that_was_made_a_path_is_refused(url: str, top: Path) -> None:
    right = url.partition("://")[0].partition("::")[0]
    for wrong in (pathlib.Path(url), os.path.normpath(url), os.path.abspath(url), Path.cwd() / url):
        with pytest.raises(InvalidRequest, match=f"{right}:") as caught:
            CheckpointStore(wrong)
        assert "file://" in str(caught.value) or "::" in url
    assert _written(top) == set()


@pytest.mark.parametrize("scheme", ["s3", "S3", "s3a", "s3n", "S3A"])
def test_every_spelling_of_s3_is_s3(scheme: str, moto: Server, top: Path) -> None:
    url = moto.new_url()
    written = f"{scheme}://{url.partition('://')[2]}"
    store = CheckpointStore(written, storage_options=moto.options)
    store.save(1, {"i": 1})
    assert store.url == url
    assert moto.peek(f"{url}/checkpoint_000001/_ckptstore/manifest.json")
    given = [
        f"--storage-option={key}={value}" for key, value in moto.options.items() if key != "client_kwargs"
    ]
    done = _cli("ls", written, *given)
    assert done.exit_code == 0, done.output
    assert "checkpoint_000001" in done.output
    assert _written(top) == set()


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("az://container/runs", "adlfs", "pip install 'adlfs'"),
        ("abfs://container@account.dfs.core.windows.net/runs", "adlfs", "pip install 'adlfs'"),
        ("hf://datasets/me/runs", "huggingface_hub", "pip install 'huggingface_hub'"),
        ("oss://bucket/runs", "ossfs", "pip install 'ossfs'"),
        ("smb://bob@nas/runs", "smbprotocol", "pip install 'smbprotocol'"),
    ],
)
def test_what_needs_a_package_names_it(url: str, module: str, package: str, top: Path) -> None:
    if importlib.util.find_spec(module) is not None:
        assert open_backend(url).url == url
        return
    for use in (CheckpointStore, Checkpoint.open):
        with pytest.raises(InvalidRequest) as caught:
            use(url)
        assert package in str(caught.value)
    done = _cli("ls", url)
    assert done.exit_code == InvalidRequest.exit_code
    assert package in " ".join((done.output + done.stderr).split())
    assert _written(top) == set()


def test_every_scheme_that_needs_a_package_has_one_to_name() -> None:
    from fsspec.registry import known_implementations

    needy = {name for name, entry in known_implementations.items() if entry.get("err")}
    assert needy - set(registry._PACKAGES) <= {"asynclocal", "pyscript", "libarchive", "dask"}


def test_every_scheme_of_fsspec_is_known_where_it_lost_its_slashes() -> None:
    """But for those that no store lies in, whose names are words that directories have."""
    from fsspec.registry import known_implementations

    words = {"data", "dir", "generic", "reference", "cached", "async_wrapper", "asyncwrapper", "asynclocal"}
    assert set(known_implementations) - urls._KNOWN <= words | {"pyscript"}


def test_a_tilde_without_a_home_is_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with a random user id."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 987654)
    with pytest.raises(InvalidRequest, match="this user has no home here"):
        CheckpointStore("~/runs")


def test_the_home_of_another_user_is_found(top: Path) -> None:
    import pwd

    assert open_backend("~root/runs").url == f"file://{pwd.getpwnam('root').pw_dir}/runs"


def test_a_file_is_exported_where_its_url_says(top: Path) -> None:
    for spelling in ("~/p.npz", (top / "a b").as_uri() + "/p.npz", f"file://localhost{top}/a%20b/q%201.npz"):
        _source().export(spelling)
    assert _written(top) == {"home/p.npz", "a b/p.npz", "a b/q 1.npz"}


def test_a_copy_goes_where_its_path_says(top: Path) -> None:
    assert _source().download("~/copy") == str(top / "home/copy")
    assert _source().download((top / "my copy").as_uri()) == str(top / "my copy")
    for folder in ("home/copy", "my copy"):
        assert Checkpoint.open(top / folder).step == 1
    with pytest.raises(InvalidRequest, match="isn't on the local disk"):
        _source().download("memory://copy")


def test_a_mirror_below_a_url_keeps_percent_signs(top: Path) -> None:
    CheckpointStore(top / "from" / "lr%20x").save(1, {"i": 1})
    (found,) = bulk.find(top / "from")
    bulk.Mirror(f"file://{top}/to").copy(found)
    assert _written(top) == {"from/lr%20x", "to/lr%20x"}
