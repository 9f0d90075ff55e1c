"""Places that are not what they say: every call ends in a typed error, by the deadline."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointError, StoreDenied, StoreNotFound
from tests.inside import backend_of
from tests.servers import Server


class _Yes(BaseHTTPRequestHandler):
    """Answers 200 and nothing, whatever it is asked."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def yes() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Yes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.latest(),
        lambda store: store.save(1, {"a": 1}),
        lambda store: store.checkpoints(),
        lambda store: store.delete(1),
        lambda store: store.gc(grace=0),
    ],
    ids=["latest", "save", "checkpoints", "delete", "gc"],
)
def test_a_server_that_says_yes_to_everything(
    yes: str, scheme: str, call: Callable[[CheckpointStore], object]
) -> None:
    options = {"endpoint_url": yes, "token": "anon"}
    if scheme == "s3":
        options = {"endpoint_url": yes, "key": "a", "secret": "sentinel"}
    store = CheckpointStore(f"{scheme}://bucket/run", storage_options=options, timeout=2)
    with pytest.raises(CheckpointError) as caught:
        call(store)
    assert "sentinel" not in str(caught.value)
    backend_of(store).close()


def test_wrong_credentials(seaweedfs: Server) -> None:
    options = {**seaweedfs.options, "secret": "sentinel"}
    store = CheckpointStore(seaweedfs.new_url(), storage_options=options, timeout=5)
    for call in (store.latest, lambda: store.save(1, {"a": 1})):
        with pytest.raises(StoreDenied) as caught:
            call()
        assert "sentinel" not in str(caught.value)


def test_a_bucket_that_vanishes(moto: Server) -> None:
    bucket = moto.new_bucket()
    store = CheckpointStore(f"s3://{bucket}/run", storage_options=moto.options, timeout=5)
    store.save(1, {"a": 1})
    client = moto.client()
    for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
        client.delete_object(Bucket=bucket, Key=item["Key"])
    client.delete_bucket(Bucket=bucket)
    for call in (store.latest, store.checkpoints, lambda: store.save(2, {"a": 2})):
        with pytest.raises(StoreNotFound):
            call()
    client.create_bucket(Bucket=bucket)
    again = CheckpointStore(f"s3://{bucket}/run", storage_options=moto.options)
    assert again.save(3, {"a": 3}).verify().ok


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/run", {"key": "me", "secret": "sentinel", "frobnicate": "sentinel"}),
        ("s3://bucket/run", {"key": "me", "secret": "sentinel", "client_kwargs": {"frob": 1}}),
        ("s3://bucket/run", {"key": "me", "secret": "sentinel", "config_kwargs": {"frob": 1}}),
        ("s3://bucket/run", {"key": "me", "secret": "sentinel", "endpoint_url": "no://url at all"}),
        ("gs://bucket/run", {"token": {"a": "sentinel"}}),
        ("gs://bucket/run", {"token": "/no/such/token.json"}),
        ("gs://bucket/run", {"token": "anon", "access": "frob"}),
    ],
)
def test_options_that_the_client_cannot_use(url: str, options: dict[str, Any]) -> None:
    store = CheckpointStore(url, storage_options=options, timeout=5)
    assert store.url == url
    for call in (store.latest, lambda: store.save(1)):
        with pytest.raises(CheckpointError) as caught:
            call()
        assert "sentinel" not in "".join(traceback.format_exception(caught.value))
