"""Options that people give fsspec, and faults that no option of theirs is to blame for."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.objects.any_fsspec import FsspecClient
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.gcs import GcsClient
from ckptstore.backends.objects.s3 import S3Client
from ckptstore.backends.registry import open_backend
from ckptstore.errors import CheckpointError, InvalidRequest, StoreUnavailable, StoreUnsuitable
from tests.any_fsspec import ANY
from tests.servers import Server

KEYWORDS: dict[str, Any] = {
    "skip_instance_cache": False,
    "use_listings_cache": True,
    "listings_expiry_time": 3600.0,
    "max_paths": 10,
    "asynchronous": True,
    "loop": asyncio.new_event_loop,
    "default_block_size": 2**20,
    "default_cache_type": "none",
    "default_fill_cache": False,
}
"""fsspec's own. Those that would break a promise are ours to say."""


@pytest.fixture(params=["moto", "fake-gcs", "local"])
def place(
    request: pytest.FixtureRequest, start_server: Callable[[str], Server], tmp_path: Path
) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return f"{ANY}://{tmp_path}/run", {}
    server = start_server(request.param)
    return server.new_url(), server.options


def made(value: Any) -> Any:
    return value() if callable(value) else value


@pytest.mark.parametrize("names", [[name] for name in KEYWORDS] + [list(KEYWORDS)], ids=",".join)
def test_keywords_of_fsspec_are_taken(place: tuple[str, dict[str, Any]], names: list[str]) -> None:
    url, options = place
    given = {name: made(KEYWORDS[name]) for name in names}
    single = url.startswith(f"{ANY}:")
    if single:  # its file system has no such block size
        given = {name: value for name, value in given.items() if not name.startswith("default_")}
    store = CheckpointStore(url, storage_options={**options, **given}, single_writer=single, timeout=20)
    store.save(1, {"a": 1})
    other = CheckpointStore(url, storage_options=options, single_writer=single, timeout=20)
    other.save(2, {"a": 2})
    newest = store.latest()  # from no listing that was kept
    assert newest is not None
    assert newest.state == {"a": 2}
    if isinstance(given.get("loop"), asyncio.AbstractEventLoop):
        given["loop"].close()


FAULTS = (
    TypeError("takes 1 positional argument"),
    KeyError("Body"),
    AttributeError("no content"),
    ValueError(),
)
CLIENTS: dict[str, tuple[type, str, dict[str, Any]]] = {
    "s3": (S3Client, "s3://bucket/run", {"anon": True, "endpoint_url": "http://127.0.0.1:9"}),
    "gcs": (GcsClient, "gs://bucket/run", {"token": "anon", "endpoint_url": "http://127.0.0.1:9"}),
    "any": (FsspecClient, f"{ANY}:///nowhere/run", {}),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("method", ["get", "put", "page"])
@pytest.mark.parametrize("client", CLIENTS)
def test_no_fault_of_ours_is_laid_on_the_options(
    client: str, method: str, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, url, options = CLIENTS[client]

    def fail(*arguments: object, **more: object) -> None:
        raise fault

    monkeypatch.setattr(kind, "get", fail)
    monkeypatch.setattr(kind, method, fail)
    store = CheckpointStore(url, storage_options=options, timeout=2, single_writer=True)
    with pytest.raises(StoreUnsuitable) as caught:
        store.latest()
    assert type(fault).__name__ in caught.value.why
    assert "storage_options" not in str(caught.value)
    assert "later" not in caught.value.remedy


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/run", {"key": "k", "secret": "s", "frobnicate": 1}),
        ("s3://bucket/run", {"key": "k", "secret": "s", "client_kwargs": {"frob": 1}}),
        ("s3://bucket/run", {"key": "k", "secret": "s", "config_kwargs": {"frob": 1}}),
        ("s3://bucket/run", {"key": "k", "secret": "s", "endpoint_url": "no://url at all"}),
        ("gs://bucket/run", {"token": "anon", "access": "frob"}),
        ("gs://bucket/run", {"token": "anon", "session_kwargs": {"frob": 1}}),
        ("http://127.0.0.1:9/run", {"client_kwargs": {"frob": 1}}),
        ("ftp://127.0.0.1:9/run", {"port": "frob"}),
    ],
)
def test_options_that_no_client_takes_are_named(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CheckpointStore(url, storage_options=options, timeout=5).latest()
    assert caught.value.what == f"storage_options of {url}"


class _Refusing(BaseHTTPRequestHandler):
    """Answers each request with the status that the bucket's name says, and S3's words for it."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = int(self.path.split("status-")[1][:3])
        body = b"<Error><Code>FrobnicationError</Code><Message>Frobnicate the bucket first</Message></Error>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("status", "typed"),
    [
        (400, InvalidRequest),
        (405, InvalidRequest),
        (414, InvalidRequest),
        (422, InvalidRequest),
        (501, StoreUnsuitable),
        (503, StoreUnavailable),
    ],
)
def test_a_refusal_says_what_the_server_says(
    refusing: str, scheme: str, status: int, typed: type[CheckpointError]
) -> None:
    url = f"{scheme}://status-{status}/{uuid.uuid4().hex}"
    options: dict[str, Any] = {"endpoint_url": refusing, "token": "anon"}
    if scheme == "s3":
        options = {"endpoint_url": refusing, "key": "k", "secret": "s"}
        options["config_kwargs"] = {"s3": {"addressing_style": "path"}}
    store = CheckpointStore(url, storage_options=options, timeout=30, retries=0)
    for call in (store.latest, lambda: store.save(1, {"a": 1})):
        with pytest.raises(typed) as caught:
            call()
        assert type(caught.value) is typed
        assert "Frobnicat" in caught.value.why
        assert ("later" in caught.value.remedy) == (typed is StoreUnavailable)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/run", {"key": "somebody", "secret": "s3cr3t"}),
        ("gs://bucket/run", {"token": {"client_secret": "s3cr3t"}}),
        ("memory://somewhere/run", {}),
        ("ftp://host/run", {"password": "s3cr3t"}),
    ],
)
def test_another_place_of_it_has_what_it_has(url: str, options: dict[str, Any], pickled: bool) -> None:
    backend = open_backend(url, options, timeout=7, retries=3, concurrency=5)
    if pickled:
        backend = pickle.loads(pickle.dumps(backend))
    assert isinstance(backend, ObjectBackend)
    for made in (backend.below("a").above(1), backend.above(1).below("run")):
        assert made.url == backend.url
        mine, its = backend.__getstate__(), made.__getstate__()
        assert (mine.pop("opener").lost, its.pop("opener").lost) == (pickled and bool(options),) * 2
        assert its == mine
