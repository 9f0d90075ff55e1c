"""URLs with credentials in them, in every form that people write, and everything that comes out of them."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.backends.base import CredentialsLost
from ckptstore.backends.registry import open_backend
from ckptstore.backends.urls import show_url
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointError, InvalidRequest, StoreDenied
from tests.inside import backend_of
from tests.servers import Server

SECRET = "s3nt1nelSECRET"

FORMS = [
    "http://{}@127.0.0.1:9/run",
    "http://user:{}@127.0.0.1:9/run",
    "http://:{}@127.0.0.1:9/run",
    "http://{}:@127.0.0.1:9/run",
    "http://{}:x-oauth-basic@127.0.0.1:9/run",
    "http://us%65r%3A{}@127.0.0.1:9/run",
    "http://user:p%2F{}@127.0.0.1:9/run",
    "http://user:p/{}@127.0.0.1:9/run",
    "http://user:p@{}@127.0.0.1:9/run",
    "http://user:{}\uff20127.0.0.1:9/run",
    "http://[user:{}@127.0.0.1:9/run",
    "http://127.0.0.1:9/run?X-Amz-Credential=me&X-Amz-Signature={}",
    "https://127.0.0.1:9/run?sv=2024&sig={}",
    "https://127.0.0.1:9/run?GoogleAccessId=me&Signature={}",
    "https://127.0.0.1:9/run?{}",
    "https://127.0.0.1:9/run%3FX-Amz-Signature={}",
    "https://127.0.0.1:9/run#access_token={}",
    "https://127.0.0.1:9/run%23access_token={}",
    "https://127.0.0.1:9/run;jwt_token={}",
    "webhdfs://127.0.0.1:9/run?delegation={}",
    "webhdfs://user:{}@127.0.0.1:9/run",
    "webhdfs://127.0.0.1:9/run?user.name=me&delegation={}&op=OPEN",
    "hdfs://user:{}@127.0.0.1:9/run",
    "abfs://container@account.dfs.core.windows.net/run?sas={}",
    "abfs://container:{}@account.dfs.core.windows.net/run",
    "az://container/run?sig={}",
    "s3://bucket/run?X-Amz-Security-Token={}",
    "s3://{}@bucket/run",
    "s3://key:{}@bucket/run",
    "s3a://key:{}@bucket/run",
    "s3://bucket/run#token={}",
    "gs://{}@bucket/run",
    "gs://bucket/run?access_token={}",
    "gcs://me:{}@bucket/run",
    "ftp://user:{}@127.0.0.1:9/run",
    "ftp://user%3A{}@127.0.0.1:9/run",
    "ftp://127.0.0.1:9/run;token={}",
    "sftp://user:{}@127.0.0.1:9/run",
    "ssh://user:{}@127.0.0.1:9/run",
    "smb://domain;user:{}@127.0.0.1:9/share/run",
    "github://org:{}@main/run",
    "git://{}@/tmp/repo/run",
    "hf://{}@datasets/run",
    "dask://user:{}@127.0.0.1:9/run",
    "nosuch://user:{}@127.0.0.1:9/run?sig={}",
    "memory://user:{}@run",
    "memory://run?token={}",
    "file://user:{}@127.0.0.1/run",
    "local://user:{}@127.0.0.1/run",
    "zip://run::http://user:{}@127.0.0.1:9/a.zip",
    "zip://run::https://127.0.0.1:9/a.zip?X-Amz-Signature={}",
    "zip://run?token={}::file:///tmp/a.zip",
    "tar://run::ftp://{}:pw@127.0.0.1:9/a.tar",
    "simplecache::http://user:{}@127.0.0.1:9/run",
    "simplecache::s3://key:{}@bucket/run",
    "filecache::https://127.0.0.1:9/run?sig={}",
    "blockcache::simplecache::sftp://user:{}@127.0.0.1:9/run",
    "zip://run::simplecache::https://{}@127.0.0.1:9/a.zip",
]


def all_of(error: BaseException) -> str:
    """All that an error shows, those that it came from included."""
    text = "".join(traceback.format_exception(error)) + str(pickle.dumps(error))
    cause: BaseException | None = error
    while cause is not None:
        text += f"{cause} {cause!r} {cause.args}"
        cause = cause.__cause__ or cause.__context__
    return text


def example() -> Checkpoint:
    store = CheckpointStore("memory://secret-urls/run")
    return store.save(1, {"a": 1}, {"p": {"weights": {"w": [1.0]}}}, if_exists="return")


USES: dict[str, Callable[[str], object]] = {
    "backend": open_backend,
    "store": CheckpointStore,
    "latest": lambda url: CheckpointStore(url, timeout=0.5, retries=0).latest(),
    "save": lambda url: CheckpointStore(url, timeout=0.5, retries=0).save(1, {"a": 1}),
    "checkpoint": Checkpoint.open,
    "migrate": lambda url: example().migrate(url),
    "export": lambda url: example().export(f"{url}.npz"),
    "export to": lambda url: example().export(url, format="npz"),
    "find": lambda url: list(bulk.find(url)),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_of_a_url_comes_out(form: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ckptstore")
    url = form.replace("{}", SECRET)
    assert SECRET not in show_url(url)
    text = ""
    for use in USES.values():
        with pytest.raises(InvalidRequest) as caught:
            use(url)
        assert caught.value.what.startswith(show_url(url)[:12])
        assert SECRET not in show_url(caught.value.what)
        text += all_of(caught.value)
    text += "".join(record.getMessage() for record in caplog.records)
    assert SECRET not in text


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_of_a_url_is_printed(form: str) -> None:
    url = form.replace("{}", SECRET)
    for arguments in (["ls"], ["info"], ["cp", "memory://secret-urls/run@1"], ["scan"]):
        for more in ([], ["--json"], ["--debug", "-vv"]):
            ended = CliRunner().invoke(cli, [*arguments, url, *more])
            assert ended.exit_code not in (0, 1), (arguments, ended.output)
            assert SECRET not in ended.output + ended.stderr, ended.output
            if ended.exception is not None:
                assert SECRET not in all_of(ended.exception)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/run#1",
        "s3://bucket/lr=0.1/token=bpe/run",
        "gs://bucket/a;b/run",
        "memory://a/b",
        "sftp://bob@host/run",
        "smb://domain;bob@host/share/run",
        "abfs://container@account.dfs.core.windows.net/run",
        "file:///runs/what?/key=1",
        "zip://run::file:///tmp/a.zip",
        "/runs/user:pw@host",
        "ftp://host/run#1",
        "s3://bucket/größe",
    ],
)
def test_what_is_no_secret_is_shown(url: str) -> None:
    assert show_url(url) == url


def test_what_is_shown_is_the_rest() -> None:
    assert show_url("zip://run::http://user:pw@host/a.zip?sig=1") == "zip://run::http://host/a.zip"
    assert show_url("s3://key:secret@bucket/run?token=1") == "s3://bucket/run"
    assert show_url("webhdfs://bob@host:50070/run?delegation=1") == "webhdfs://bob@host:50070/run"


def test_a_manifest_and_a_report_name_no_url(tmp_path: Any) -> None:
    """What is written holds no place at all: copies are to be as good as what they were copied from."""
    source = CheckpointStore(tmp_path / "source")
    source.save(1, {"a": 1})
    source.copy_to(CheckpointStore(tmp_path / "copy"))
    for path in (tmp_path / "copy").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
        json.loads(path.read_text())


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/run", {"key": "k", "secret": SECRET}),
        ("s3://bucket/run", {"client_kwargs": {"aws_session_token": SECRET}}),
        ("gs://bucket/run", {"token": {"client_secret": SECRET}}),
        ("ftp://bob@127.0.0.1:9/run", {"password": SECRET}),
        ("http://127.0.0.1:9/run", {"headers": {"Authorization": SECRET}}),
    ],
)
def test_a_pickle_says_what_it_lacks(
    url: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    data = pickle.dumps(CheckpointStore(url, storage_options=options))
    assert SECRET.encode() not in data
    again = pickle.loads(pickle.dumps(pickle.loads(data)))
    assert again.url == url
    assert backend_of(again)._opener.lost
    assert not backend_of(CheckpointStore(url))._opener.lost


PROXY = f"http://user:{SECRET}@127.0.0.1:9"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/run", {"endpoint_url": PROXY, "anon": True}),
        ("s3://bucket/run", {"endpoint_url": f"http://127.0.0.1:9/?sig={SECRET}", "anon": True}),
        ("s3://bucket/run", {"endpoint_url": f"http://{SECRET}@127.0.0.1:9", "anon": True}),
        ("s3://bucket/run", {"client_kwargs": {"endpoint_url": PROXY}, "anon": True}),
        ("s3://bucket/run", {"config_kwargs": {"proxies": {"http": PROXY}}, "anon": True}),
        ("gs://bucket/run", {"endpoint_url": PROXY, "token": "anon"}),
        ("gs://bucket/run", {"endpoint_url": f"http://127.0.0.1:9?key={SECRET}", "token": "anon"}),
    ],
)
def test_no_secret_of_an_endpoint_comes_out(url: str, options: dict[str, Any]) -> None:
    backend: Any = open_backend(url, options, timeout=0.5, retries=0)
    text = f"{backend!r} {pickle.dumps(backend)!r} {backend.describe()} {backend.place}"
    with pytest.raises((OSError, CheckpointError)) as caught:
        backend.read("file")
    assert SECRET not in text + all_of(caught.value)


def test_a_pickle_that_lacks_its_credentials_says_so(seaweedfs: Server) -> None:
    url = seaweedfs.new_url()
    store = CheckpointStore(url, storage_options=seaweedfs.options)
    store.save(1, {"a": 1})
    again = pickle.loads(pickle.dumps(store))
    for call in (again.latest, lambda: again.save(2)):
        with pytest.raises(StoreDenied, match="A pickle keeps no credentials"):
            call()
    wrong = CheckpointStore(url, storage_options={**seaweedfs.options, "secret": "other"})
    with pytest.raises(StoreDenied, match="Check the credentials"):
        wrong.latest()


class _Locked(BaseHTTPRequestHandler):
    """Lets in whoever has the word."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") == SECRET else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


def test_any_other_file_system_says_so_too() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Locked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/run"
        backend = open_backend(url, {"headers": {"Authorization": SECRET}}, timeout=5)
        assert backend.read("file") == b""
        again = pickle.loads(pickle.dumps(backend))
        with pytest.raises(CredentialsLost) as caught:
            again.read("file")
        assert SECRET not in all_of(caught.value)
        with pytest.raises(PermissionError) as denied:
            open_backend(url, timeout=5).read("file")
        assert not isinstance(denied.value, CredentialsLost)
        server.shutdown()
