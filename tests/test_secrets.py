"""Sentinel credentials, given in every way there is, and searched for in everything that comes out.

Only our own logger is searched: what s3fs and botocore log at DEBUG is theirs.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ckptstore import CheckpointStore
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointError
from tests.inside import backend_of
from tests.servers import Server

SENTINELS = ("s3nt1nelSECRET", "s3nt1nelTOKEN", "s3nt1nelUSER", "s3nt1nelENV")
NOWHERE = "http://127.0.0.1:9"


def leaks(text: str) -> list[str]:
    return [sentinel for sentinel in SENTINELS if sentinel in text]


def told(error: BaseException) -> str:
    """All that an error says, those it came from included, as every way to show one would."""
    seen = "".join(traceback.format_exception(error))
    cause: BaseException | None = error
    while cause is not None:
        seen += str(cause) + repr(cause) + (str(cause.args) if isinstance(cause, CheckpointError) else "")
        cause = cause.__cause__ or cause.__context__
    return seen + str(pickle.dumps(error))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What our logger said; and a secret in the environment."""
    caplog.set_level(logging.DEBUG, "ckptstore")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3nt1nelENV")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env")
    return lambda: "".join(
        record.getMessage() for record in caplog.records if record.name.startswith("ckptstore")
    )


def test_what_is_written_and_shown(moto: Server, log: Callable[[], str]) -> None:
    options = {**moto.options, "secret": "s3nt1nelSECRET", "token": "s3nt1nelTOKEN"}
    bucket = moto.new_bucket()
    with CheckpointStore(f"s3://{bucket}/run", storage_options=options) as store:
        saved = store.save(1, {"a": 1}, {"p": {"weights": {}}}, metrics={"x": 1.0})
        store.tag("best", saved)
        store.save(1, {"a": 2}, if_exists="replace")
        store.gc()
        backend = backend_of(store)
        shown: list[Any] = [store, saved, store.latest(), store.verify(), backend, store.checkpoints()]
        text = "".join(map(repr, shown)) + str(pickle.dumps((saved, backend))) + saved.url + log()
    client = moto.client()
    for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
        text += str(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
    assert not leaks(text)
    assert log(), "nothing was logged, so nothing was looked at"


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "options": ("s3://bucket/run", {"key": "k", "secret": "s3nt1nelSECRET", "token": "s3nt1nelTOKEN"}),
    "nested": ("s3://bucket/run", {"client_kwargs": {"aws_secret_access_key": "s3nt1nelSECRET"}}),
    "environment": ("s3://bucket/run", {}),
    "URL": ("s3://s3nt1nelUSER:s3nt1nelSECRET@bucket/run", {}),
    "URL of another kind": ("ftp://s3nt1nelUSER:s3nt1nelSECRET@127.0.0.1:9/run", {}),
    "query": ("s3://bucket/run?token=s3nt1nelTOKEN", {}),
}


@pytest.mark.parametrize("way", OPTIONS)
def test_errors(way: str, log: Callable[[], str]) -> None:
    url, options = OPTIONS[way]
    if url.startswith("s3://bucket"):
        options = {**options, "endpoint_url": NOWHERE}
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(url, storage_options=options, timeout=1, retries=1).save(1, {"a": 1})
    assert not leaks(told(caught.value) + log()), told(caught.value)


COMMANDS = ("ls", "info", "tree", "verify", "latest", "scan", "doctor", "tag", "gc")


@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=() if name in ("info", "doctor") else pytest.mark.slow) for name in COMMANDS],
)
def test_the_command_line(moto: Server, log: Callable[[], str], command: str) -> None:
    bucket = moto.new_bucket()
    options = {**moto.options, "secret": "s3nt1nelSECRET", "token": "s3nt1nelTOKEN"}
    CheckpointStore(f"s3://{bucket}/run", storage_options=options).save(1, {"a": 1})
    given = [f"--storage-option={name}={value}" for name, value in options.items() if isinstance(value, str)]
    where = f"s3://{bucket}/run" + ("@1" if command in ("info", "tree", "scan") else "")
    bad = "s3://s3nt1nelUSER:s3nt1nelSECRET@bucket/run"
    for url, more in ((where, given), (f"{where}-none", given), (bad, [])):
        for shown in ([], ["--json"], ["--debug", "-vv"]):
            ended = CliRunner().invoke(cli, [command, url, *more, *shown])
            assert not leaks(ended.output + ended.stderr), ended.output
    assert CliRunner().invoke(cli, [command, where, *given]).exit_code == 0


def test_files_on_a_local_disk(tmp_path: Path, log: Callable[[], str]) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"a": 1})
    text = "".join(str(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    assert not leaks(text + log())
    for own in (os.uname().nodename, os.environ.get("USER", ""), str(tmp_path)):
        assert len(own) < 5 or own not in text, f"{own} is written"
    assert json.loads((tmp_path / "_ckptstore/store.json").read_bytes())
