"""obstore fetches contents from GCS, and nothing else is different: not an error, not a credential."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import google.oauth2.credentials
import obstore
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.base import PlaceMissing
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.gcs import GcsClient
from ckptstore.backends.objects.gcs_obstore import ObstoreGcsClient
from ckptstore.backends.registry import open_backend
from tests.backends.carried import DATA, MOST_REFUSALS, FirstFail, fetch, fetched_in_a_fork, opened
from tests.faults import FaultProxy, fault_proxy
from tests.servers import Server
from tests.stores import assert_same, policies

pytestmark = pytest.mark.usefixtures("fast")


def wire_of(backend: object) -> GcsClient:
    assert isinstance(backend, ObjectBackend)
    assert isinstance(backend.client, GcsClient)
    return backend.client


class Stub(BaseHTTPRequestHandler):
    """Gives DATA to whoever asks in either way, and keeps what the request said."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, dict[str, str]]]]
    answered = ""
    """What the paths of other requests than those that get a 401 begin with."""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append((self.path, headers))
        status, body = (206, DATA) if self.path.startswith(self.answered) else (401, b"")
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 25 Nov 2026 01:30:27 GMT")
        self.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing to say."""


@pytest.fixture
def stub() -> Iterator[tuple[str, type[Stub]]]:
    """An endpoint, and what it saw."""

    class Handler(Stub):
        seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", Handler
        server.shutdown()
        thread.join()


def by_obstore(headers: dict[str, str]) -> bool:
    return headers["user-agent"].startswith("object_store")


def bearer(token: str, **more: Any) -> Any:
    """Credentials that never need to be refreshed."""
    kind: Any = google.oauth2.credentials.Credentials
    return kind(token, **more)


class Renewed(google.oauth2.credentials.Credentials):
    """Gives out another token each time it is asked, as one does that is about to expire."""

    count = 0

    def refresh(self, request: Any) -> None:
        type(self).count += 1
        self.token = f"token-{self.count}"
        self.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def test_tokens_are_gcsfs_s_and_never_kept(stub: tuple[str, type[Stub]]) -> None:
    endpoint, handler = stub
    kind: Any = Renewed
    given = kind("old", refresh_token="r", token_uri="https://x", client_id="i", client_secret="s")
    given.expiry = datetime.datetime(2020, 1, 1)
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": given})
    for _ in range(3):
        assert fetch(backend, "a b%41~#") == DATA
    assert all(by_obstore(headers) for _, headers in handler.seen)
    tokens = [headers["authorization"] for _, headers in handler.seen]
    assert len(set(tokens)) == len(tokens) == 3
    assert {path for path, _ in handler.seen} == {"/bucket/run%2Fa%20b%2541%7E%23"}


def test_no_token_is_sent_where_none_is_to_be(
    stub: tuple[str, type[Stub]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """obstore looks into the environment by itself: what it finds there must not count."""
    endpoint, handler = stub
    adc = tmp_path / "adc.json"
    adc.write_text(json.dumps({"type": "external_account"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", os.fspath(adc))
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_BUCKET", "another")
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": "anon"})
    assert fetch(backend) == DATA
    ((path, headers),) = handler.seen
    assert by_obstore(headers)
    assert path == "/bucket/run%2Ffile"
    assert "authorization" not in headers


def test_a_token_is_sent_though_the_environment_says_not_to(
    stub: tuple[str, type[Stub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, handler = stub
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    given = bearer("secret-token")
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": given})
    assert fetch(backend) == DATA
    ((_, headers),) = handler.seen
    assert by_obstore(headers)
    assert headers["authorization"] == "Bearer secret-token"
    assert b"secret-token" not in pickle.dumps(backend)


def test_a_refused_request_is_asked_again_at_once_by_gcsfs(stub: tuple[str, type[Stub]]) -> None:
    endpoint, handler = stub
    handler.answered = "/storage/v1"
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": "anon"})
    wanted = MOST_REFUSALS + 3
    for _ in range(wanted):
        assert fetch(backend) == DATA
    asked = [by_obstore(headers) for _, headers in handler.seen]
    assert asked.count(True) == MOST_REFUSALS
    assert asked.count(False) == wanted


@pytest.mark.parametrize(
    "more",
    [
        {"requester_pays": True},
        {"session_kwargs": {"trust_env": True}},
        {"token": bearer("t", quota_project_id="paying")},
    ],
)
def test_what_obstore_was_not_taught_goes_through_gcsfs(
    stub: tuple[str, type[Stub]], more: dict[str, Any]
) -> None:
    endpoint, handler = stub
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": "anon", **more})
    assert fetch(backend) == DATA
    assert not any(by_obstore(headers) for _, headers in handler.seen)
    assert "obstore" not in wire_of(backend).describe()["client"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "http://127.0.0.1:1"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")],
)
def test_so_does_what_the_environment_says_to_obstore_alone(
    stub: tuple[str, type[Stub]], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    endpoint, handler = stub
    monkeypatch.setenv(name, value)
    backend = open_backend("gs://bucket/run", {"endpoint_url": endpoint, "token": "anon"})
    assert fetch(backend) == DATA
    assert not any(by_obstore(headers) for _, headers in handler.seen)
    assert "obstore" not in wire_of(backend).describe()["client"]


# On a real server


@pytest.fixture
def gcs(start_server: Callable[[str], Server]) -> Server:
    return start_server("fake-gcs")


@pytest.fixture
def proxy(gcs: Server) -> Iterator[FaultProxy]:
    with fault_proxy(gcs.endpoint) as found:
        yield found


@pytest.fixture
def backend(gcs: Server, proxy: FaultProxy) -> Iterator[ObjectBackend]:
    found = opened(gcs, proxy)
    assert isinstance(found.client, ObstoreGcsClient)
    yield found
    found.close()


GOOGLES_OWN = "/storage/v1", "/upload/storage/v1"
"""What paths begin with in the way that obstore doesn't know."""


def through_obstore(proxy: FaultProxy) -> int:
    """Requests in the only of Google's two ways that obstore knows."""
    return sum(not seen.path.startswith(GOOGLES_OWN) for seen in proxy.seen)


@pytest.mark.parametrize("act", ["503", "500", "429", "cut before", "cut after", "truncate", "corrupt"])
@pytest.mark.parametrize("times", [1, 3])
def test_faults_are_outlived(
    backend: ObjectBackend, proxy: FaultProxy, gcs: Server, act: Any, times: int
) -> None:
    gcs.store(f"{backend.url}/file", DATA)
    plan = FirstFail(act, times)
    proxy.reset(plan)
    if act == "corrupt":  # for the digests to find, whoever fetches
        assert fetch(backend) != DATA
    else:
        assert fetch(backend) == DATA
        assert plan.left < 0
    assert through_obstore(proxy)


def test_fewer_bytes_than_there_are_are_asked_for_again(
    backend: ObjectBackend, proxy: FaultProxy, gcs: Server
) -> None:
    gcs.store(f"{backend.url}/file", DATA)
    proxy.reset(lambda index, seen: "short" if index == 0 else None)
    assert fetch(backend) == DATA
    assert through_obstore(proxy) == 1


def test_what_keeps_giving_fewer_is_not_asked_for_ever(
    backend: ObjectBackend, proxy: FaultProxy, gcs: Server
) -> None:
    gcs.store(f"{backend.url}/file", DATA)
    proxy.reset(lambda index, seen: None if seen.path.startswith(GOOGLES_OWN) else "short")
    for _ in range(MOST_REFUSALS + 3):
        assert fetch(backend) == DATA
    assert through_obstore(proxy) == MOST_REFUSALS


def test_what_hangs_ends_typed(gcs: Server, proxy: FaultProxy) -> None:
    backend = opened(gcs, proxy, timeout=1)
    proxy.reset(lambda index, seen: "hang")
    with pytest.raises(TimeoutError):
        fetch(backend)
    assert through_obstore(proxy)


def test_absent_and_short_and_nowhere(backend: ObjectBackend, gcs: Server) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fetch(backend)
    assert not isinstance(caught.value, PlaceMissing)
    gcs.store(f"{backend.url}/short", DATA[:-1])
    with pytest.raises(EOFError):
        fetch(backend, "short")
    with pytest.raises(EOFError):
        backend.read_into("short", 2 * len(DATA), memoryview(bytearray(len(DATA))))
    nowhere = open_backend("gs://no-such-bucket-here/run", gcs.options, timeout=5)
    with pytest.raises(FileNotFoundError):
        fetch(nowhere)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_without(backend: ObjectBackend, gcs: Server) -> None:
    gcs.store(f"{backend.url}/file", DATA)
    assert fetch(backend) == DATA
    assert fetched_in_a_fork(backend) == ("GcsClient", True)


def test_nothing_is_sent_through_obstore(backend: ObjectBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its uploads carry no checksum, and it looks at none in the reply."""

    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("sent through obstore")

    for name in ("put", "put_async", "open_writer", "open_writer_async", "delete_async", "copy_async"):
        monkeypatch.setattr(obstore, name, refuse)
    with backend.write("file") as sink:
        sink.write(DATA)
    backend.publish("commit", DATA)
    backend.replace("commit", DATA)
    backend.copy("file", "copy", len(DATA))
    backend.delete(["file"])
    assert fetch(backend, "copy") == DATA
    assert isinstance(backend.client, ObstoreGcsClient)
    assert backend.client.carrier is not None
    assert backend.client.carrier.refusals == 0


def test_a_store(gcs: Server, proxy: FaultProxy) -> None:
    """Every payload byte comes through it, with no request more than without it."""
    store = CheckpointStore(gcs.new_url(), storage_options={**gcs.options, "endpoint_url": proxy.endpoint})
    given = policies(6, seed=5, rows=3000)
    ckpt = store.save(1, {"i": 1}, given)
    proxy.reset()
    assert_same(ckpt.load().policies, given)
    assert len(proxy.seen) <= 6 + 3
    assert through_obstore(proxy) == 6
    assert ckpt.verify().ok
