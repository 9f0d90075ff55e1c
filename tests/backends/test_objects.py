"""What object stores do wrong, and what comes out of it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import botocore.exceptions
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from ckptstore.backends.base import PlaceMissing, Refused
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.gcs import GcsClient, Replied
from ckptstore.backends.objects.http_status import Outcome
from ckptstore.backends.objects.memory import MemoryClient
from ckptstore.backends.objects.retry import RetriesExhausted, RetryPolicy
from ckptstore.backends.objects.s3 import S3Client
from ckptstore.backends.registry import open_backend
from ckptstore.errors import InvalidRequest
from tests.any_fsspec import ANY
from tests.faults import FaultProxy, fault_proxy
from tests.inside import answer_for_s3, options_of
from tests.servers import Server

SECRET = "wJalrXUtnFEMI/K7MDENG"
S3_OPTIONS = {"key": "AKIAEXAMPLEKEY", "secret": SECRET, "endpoint_url": "http://127.0.0.1:9"}


def objects(url: str, options: Any = None, **settings: Any) -> ObjectBackend:
    found = open_backend(url, options, **settings)
    assert isinstance(found, ObjectBackend)
    return found


@pytest.fixture
def proxy(moto: Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto.endpoint) as found:
        yield found


@pytest.fixture
def proxied(moto: Server, proxy: FaultProxy) -> Iterator[ObjectBackend]:
    found = objects(moto.new_url(), {**moto.options, "endpoint_url": proxy.endpoint}, timeout=5)
    yield found
    found.close()


@pytest.fixture
def hasty(moto: Server) -> Iterator[ObjectBackend]:
    """Gives up after two tries more."""
    found = objects(moto.new_url(), moto.options, retries=2)
    yield found
    found.close()


def uploads(server: Server, backend: ObjectBackend) -> list[Any]:
    bucket, _, prefix = backend.url.partition("://")[2].partition("/")
    reply = server.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    found: list[Any] = reply.get("Uploads", [])
    return found


class TestTables:
    @pytest.mark.parametrize(
        ("status", "code", "outcome"),
        [
            (404, "NoSuchKey", Outcome.ABSENT),
            (404, "404", Outcome.ABSENT),
            (404, "NoSuchBucket", Outcome.BUCKET_MISSING),
            (412, "PreconditionFailed", Outcome.EXISTS),
            (409, "ConditionalRequestConflict", Outcome.RETRY),
            (400, "RequestTimeout", Outcome.RETRY),
            (400, "BadDigest", Outcome.RETRY),
            (400, "XAmzContentChecksumMismatch", Outcome.RETRY),
            (400, "XAmzContentSHA256Mismatch", Outcome.RETRY),
            (400, "ExpiredToken", Outcome.DENIED),
            (301, "PermanentRedirect", Outcome.REFUSED),
            (400, "InvalidArgument", Outcome.REFUSED),
            (405, "MethodNotAllowed", Outcome.REFUSED),
            (401, "Unauthorized", Outcome.DENIED),
            (403, "SignatureDoesNotMatch", Outcome.DENIED),
            (416, "InvalidRange", Outcome.SHORT),
            (429, "TooManyRequests", Outcome.RETRY),
            (500, "InternalError", Outcome.RETRY),
            (501, "NotImplemented", Outcome.UNABLE),
            (503, "SlowDown", Outcome.RETRY),
            (507, "InsufficientStorage", Outcome.FULL),
        ],
    )
    def test_s3(self, status: int, code: str, outcome: Outcome) -> None:
        reply: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        cause = botocore.exceptions.ClientError(reply, "PutObject")
        wrapped = OSError(22, "s3fs chose this class")
        wrapped.__cause__ = cause
        classify = S3Client("s3://b/p", S3_OPTIONS, 5, 1).classify
        assert classify(cause) is classify(wrapped) is outcome

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (aiohttp.ClientPayloadError("cut"), Outcome.RETRY),
            (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), Outcome.RETRY),
            (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), Outcome.RETRY),
            (ConnectionResetError(), Outcome.RETRY),
            (TimeoutError(), Outcome.RETRY),
            (botocore.exceptions.NoCredentialsError(), Outcome.DENIED),
            (botocore.exceptions.ParamValidationError(report="x"), Outcome.FATAL),
            (TypeError(), Outcome.FATAL),
        ],
    )
    def test_s3_without_a_reply(self, error: Exception, outcome: Outcome) -> None:
        assert S3Client("s3://b/p", S3_OPTIONS, 5, 1).classify(error) is outcome

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (Replied(404, "No such object"), Outcome.ABSENT),
            (Replied(404, "The specified bucket does not exist."), Outcome.BUCKET_MISSING),
            (Replied(412, ""), Outcome.EXISTS),
            (Replied(403, ""), Outcome.DENIED),
            (Replied(401, "Invalid Credentials"), Outcome.DENIED),
            (Replied(429, ""), Outcome.RETRY),
            (Replied(503, ""), Outcome.RETRY),
            (Replied(416, ""), Outcome.SHORT),
            (Replied(400, ""), Outcome.REFUSED),
            (Replied(501, ""), Outcome.UNABLE),
            (Replied(400, 'Provided CRC32C "AA==" doesn\'t match calculated CRC32C "AB=="'), Outcome.RETRY),
            (aiohttp.ServerDisconnectedError(), Outcome.RETRY),
        ],
    )
    def test_gcs(self, error: Exception, outcome: Outcome) -> None:
        options = {"token": "anon", "endpoint_url": "http://127.0.0.1:9"}
        assert GcsClient("gs://b/p", options, 5, 1).classify(error) is outcome

    @pytest.mark.parametrize(
        ("outcome", "builtin"),
        [
            (Outcome.ABSENT, FileNotFoundError),
            (Outcome.BUCKET_MISSING, PlaceMissing),
            (Outcome.EXISTS, FileExistsError),
            (Outcome.DENIED, PermissionError),
            (Outcome.SHORT, EOFError),
            (Outcome.FULL, OSError),
            (Outcome.RETRY, TimeoutError),
            (Outcome.REFUSED, Refused),
            (Outcome.UNABLE, OSError),
            (Outcome.FATAL, OSError),
        ],
    )
    def test_outcomes_become_builtins(
        self, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, builtin: type[Exception]
    ) -> None:
        class Strange(Exception):
            pass

        def fail(*arguments: object) -> None:
            raise Strange("something\nstrange")

        monkeypatch.setattr(MemoryClient, "get", fail)
        monkeypatch.setattr(MemoryClient, "classify", lambda self, error: outcome)
        with pytest.raises(builtin) as caught:
            objects("memory://x", timeout=0.2).read("k", 0, 1)
        assert isinstance(caught.value.__cause__, Strange)


class TestPatience:
    def test_gives_up_at_the_deadline(self) -> None:
        began = time.monotonic()
        with pytest.raises(RetriesExhausted) as caught:
            RetryPolicy(0.5, jitter=lambda: 0.5).run(_fail, lambda error: Outcome.RETRY)
        assert 0.2 < time.monotonic() - began < 10
        assert isinstance(caught.value.__cause__, ConnectionError)

    def test_counts_retries(self) -> None:
        tries = []

        def fail(seconds: float) -> None:
            tries.append(seconds)
            raise ConnectionError

        with pytest.raises(RetriesExhausted):
            RetryPolicy(60, retries=2, jitter=lambda: 0).run(fail, lambda error: Outcome.RETRY)
        assert len(tries) == 3
        assert all(0 < seconds <= 20 for seconds in tries)

    def test_what_will_not_pass_is_not_tried_again(self) -> None:
        with pytest.raises(ConnectionError):
            RetryPolicy(60).run(_fail, lambda error: Outcome.DENIED)

    def test_stops_when_told_to(self) -> None:
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        with pytest.raises(RetriesExhausted):
            RetryPolicy(60, jitter=lambda: 1).run(_fail, lambda error: Outcome.RETRY, stop=stop)
        assert time.monotonic() - began < 30  # of the 60 that it would take

    @pytest.mark.parametrize("bad", [{"timeout": 0}, {"timeout": -1}, {"timeout": 1, "retries": -1}])
    def test_refuses_nonsense(self, bad: Any) -> None:
        with pytest.raises(ValueError, match="must"):
            RetryPolicy(**bad)


def _fail(seconds: float) -> None:
    raise ConnectionError("down")


class TestSecrets:
    def test_pickles_repr_and_url_hold_none(self) -> None:
        options = {
            **S3_OPTIONS,
            "token": "SESSIONTOKEN",
            "s3_additional_kwargs": {"SSEKMSKeyId": "arn:kms", "SSECustomerKey": SECRET},
            "client_kwargs": {"region_name": "eu-west-1", "aws_secret_access_key": SECRET},
        }
        backend = objects("s3://bucket/run", options)
        data = pickle.dumps(backend)
        for secret in (SECRET, "AKIAEXAMPLEKEY", "SESSIONTOKEN"):
            assert secret.encode() not in data
            assert secret not in repr(backend) + backend.url
        kept = pickle.loads(data)
        assert options_of(kept) == {
            "endpoint_url": "http://127.0.0.1:9",
            "s3_additional_kwargs": {"SSEKMSKeyId": "arn:kms"},
            "client_kwargs": {"region_name": "eu-west-1"},
        }
        assert kept.client.url == backend.url

    def test_errors_and_their_causes_hold_none(self) -> None:
        options = {"anon": True, "endpoint_url": f"http://user:{SECRET.replace('/', '')}@127.0.0.1:9"}
        backend = objects("s3://bucket/run", options, timeout=0.5)
        with pytest.raises(TimeoutError) as caught:
            backend.read("k")
        assert SECRET.replace("/", "") not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        "url", ["s3://key:secret@bucket/run", "s3://bucket/run?versionId=1", "s3:///run"]
    )
    def test_urls_hold_none(self, url: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            open_backend(url)
        assert "secret@" not in str(caught.value)

    def test_gcs_tokens_stay_out_of_pickles(self) -> None:
        token = {"client_secret": SECRET, "refresh_token": SECRET}
        assert SECRET.encode() not in pickle.dumps(open_backend("gs://bucket/run", {"token": token}))
        anonymous = pickle.loads(pickle.dumps(open_backend("gs://bucket/run", {"token": "anon"})))
        assert options_of(anonymous) == {"token": "anon"}


class TestS3:
    def test_a_cut_body_is_read_again(self, moto: Server, proxy: FaultProxy, proxied: ObjectBackend) -> None:
        data = os.urandom(3 * 2**20)
        with proxied.write("k") as sink:
            sink.write(data)
        proxy.reset(lambda index, seen: "truncate" if index < 2 else None)
        assert proxied.read("k") == data
        assert len(proxy.seen) >= 3

    def test_large_reads_come_in_ranges(self, proxy: FaultProxy, proxied: ObjectBackend) -> None:
        data = os.urandom(34 * 2**20)
        with proxied.write("k") as sink:
            sink.write(data)
        proxy.reset()
        assert proxied.read("k") == data
        assert [seen.method for seen in proxy.seen] == ["GET"] * 4

    def test_an_upload_that_fails_is_aborted(
        self, moto: Server, proxy: FaultProxy, proxied: ObjectBackend
    ) -> None:
        proxy.reset(lambda index, seen: "500" if "partNumber=2" in seen.path else None)
        began = time.monotonic()
        with pytest.raises(TimeoutError), proxied.write("k") as sink:
            sink.write(bytes(40 * 2**20))
        assert time.monotonic() - began < 60
        proxy.reset()
        assert uploads(moto, proxied) == []
        assert proxied.list() == []

    def test_an_interrupted_upload_is_aborted(self, moto: Server, proxied: ObjectBackend) -> None:
        for _ in range(2):
            sink = proxied.write("k")
            sink.write(bytes(40 * 2**20))
            sink.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert uploads(moto, proxied) == []
        # Every slot was given back: the next one is not held up.
        with proxied.write("k") as again:
            again.write(bytes(40 * 2**20))
        assert proxied.list()[0].size == 40 * 2**20

    def test_a_lost_reply_to_the_last_request_of_an_upload(
        self, moto: Server, proxy: FaultProxy, proxied: ObjectBackend
    ) -> None:
        lost: list[int] = []

        def plan(index: int, seen: Any) -> Any:
            if seen.method == "POST" and "uploadId=" in seen.path and not lost:
                lost.append(index)
                return "cut after"
            return None

        proxy.reset(plan)
        data = os.urandom(20 * 2**20)
        with proxied.write("k") as sink:
            sink.write(data)
        assert lost
        assert moto.peek(f"{proxied.url}/k") == data

    def test_forgotten_uploads_are_given_up(self, moto: Server, proxied: ObjectBackend) -> None:
        proxied.client.upload(f"{proxied.client.root}checkpoint_000001/k", 5)
        proxied.client.upload(f"{proxied.client.root}other", 5)
        assert len(uploads(moto, proxied)) == 2
        assert proxied.abort_uploads(lambda key, started: key.startswith("checkpoint_")) == 1
        assert [item["Key"].rpartition("/")[2] for item in uploads(moto, proxied)] == ["other"]

    @pytest.mark.parametrize("act", ["503", "cut before", "cut after"])
    def test_a_listing_that_fails_is_never_empty(
        self, proxy: FaultProxy, proxied: ObjectBackend, act: Any
    ) -> None:
        proxied.publish("k", b"v")
        proxy.reset(lambda index, seen: act)
        with pytest.raises(TimeoutError):
            objects(proxied.url, options_of(proxied), timeout=0.8).list()

    @pytest.mark.parametrize("name", ["moto", "fake-gcs"])
    def test_a_bucket_that_is_not_there(self, start_server: Callable[[str], Server], name: str) -> None:
        server = start_server(name)
        backend = objects(f"{server.scheme}://{uuid.uuid4().hex}/run", server.options, timeout=5)
        calls: list[Callable[[], object]] = [
            backend.list,
            backend.children,
            lambda: backend.publish("k", b"v"),
            lambda: backend.replace("k", b"v"),
        ]
        for call in calls:
            with pytest.raises(PlaceMissing, match="bucket is not there"):
                call()
        backend.close()

    def test_listings_go_on_to_the_last_page(self, proxy: FaultProxy, proxied: ObjectBackend) -> None:
        keys = [f"checkpoint_{index:06d}/_ckptstore/manifest.json" for index in range(1050)]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: proxied.replace(key, b"x"), keys))
        proxy.reset()
        assert len(proxied.children()) == 1050
        assert len(proxy.seen) == 2
        proxy.reset()
        assert len(proxied.starting("checkpoint_", until="checkpoint_000500")) == 1000
        assert len(proxy.seen) == 1
        proxied.delete(keys)
        assert proxied.list() == []

    def test_a_refused_delete_is_told(self, proxied: ObjectBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        client = proxied.client
        assert isinstance(client, S3Client)
        reply = {
            "Deleted": [{"Key": f"{client.root}a"}],
            "Errors": [{"Key": f"{client.root}b", "Code": "AccessDenied"}],
        }
        answer_for_s3(monkeypatch, client, lambda *arguments, **named: reply)
        with pytest.raises(PermissionError):
            proxied.delete(["a", "b"])
        gone = {"Deleted": [{"Key": f"{client.root}a"}]}
        answer_for_s3(monkeypatch, client, lambda *arguments, **named: gone)
        # What the reply doesn't name may still be there, and is asked for again.
        failed = client.remove([f"{client.root}a", f"{client.root}b"], 1.0)
        assert list(failed) == [f"{client.root}b"]
        assert client.classify(failed[f"{client.root}b"]) is Outcome.RETRY

    def test_a_body_that_ends_early_is_no_success(
        self, hasty: ObjectBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Body:
            async def __aenter__(self) -> Body:
                return self

            async def __aexit__(self, *error: object) -> None:
                pass

            async def read(self, size: int) -> bytes:
                return b""

        async def call(*arguments: object, **named: object) -> dict[str, Any]:
            return {"ContentLength": 10, "ContentRange": "bytes 0-9/10", "Body": Body()}

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        with pytest.raises(TimeoutError):
            hasty.read("k", 0, 10)

    @pytest.mark.parametrize("found", [20 * 2**20, 5])
    def test_an_upload_that_is_gone_after_a_lost_reply(
        self, hasty: ObjectBackend, monkeypatch: pytest.MonkeyPatch, found: int
    ) -> None:
        client = hasty.client
        assert isinstance(client, S3Client)
        asked = []

        def call(seconds: float, method: str, **arguments: Any) -> Any:
            if method == "complete_multipart_upload":
                asked.append(method)
                if len(asked) == 1:
                    raise ConnectionResetError
                reply: Any = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
                raise botocore.exceptions.ClientError(reply, method)
            if method == "head_object":
                return {"ContentLength": found}
            return real(seconds, method, **arguments)

        real = answer_for_s3(monkeypatch, client, call)
        sink = hasty.write("k")
        sink.write(bytes(20 * 2**20))
        if found == 5:
            with pytest.raises(TimeoutError):
                sink.__exit__(None, None, None)
        else:
            sink.__exit__(None, None, None)

    def test_works_after_a_fork(self, moto: Server) -> None:
        backend = objects(moto.new_url(), moto.options)
        backend.publish("k", b"v")
        context = multiprocessing.get_context("fork")
        receive, send = context.Pipe(False)
        child = context.Process(target=lambda: send.send(backend.read("k")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
            child.start()
        assert receive.poll(20)
        assert receive.recv() == b"v"
        child.join()
        backend.close()

    def test_a_server_that_stores_other_bytes_is_not_believed(
        self, hasty: ObjectBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = hasty.client
        assert isinstance(client, S3Client)
        for reply in ({"ChecksumCRC32": "AAAAAA=="}, {"ETag": '"' + "0" * 32 + '"'}):
            answer_for_s3(monkeypatch, client, lambda *arguments, reply=reply, **named: reply)
            with pytest.raises(TimeoutError, match="the server stored bytes"):
                hasty.publish("k", b"v")


class TestMemory:
    def test_slots_of_parts_that_never_ran_are_given_back(self) -> None:
        backend = objects(f"memory://{uuid.uuid4().hex}", concurrency=2)
        held = threading.Event()
        for _ in range(2):
            backend.pool.submit(held.wait)
        sink = backend.write("k")
        sink.write(bytes(5 * 2**19))
        sink.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert backend.slots.acquire(blocking=False)
        assert backend.slots.acquire(blocking=False)
        held.set()
        backend.close()

    def test_creation_is_one_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = objects(f"memory://{uuid.uuid4().hex}")
        real = MemoryFileSystem.pipe_file

        def slowly(*arguments: object) -> None:
            time.sleep(0.02)
            real(*arguments)

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", slowly)
        won = []

        def create() -> None:
            try:
                backend.publish("k", b"v")
                won.append(1)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [1]


class TestOpening:
    def test_unknown_schemes_and_numbers(self) -> None:
        for url, settings in (
            ("nosuch://x/y", {}),
            ("s3://b/../c", {}),
            ("memory://x", {"timeout": 0}),
            ("memory://x", {"retries": -1}),
            ("memory://x", {"concurrency": 0}),
        ):
            with pytest.raises(InvalidRequest):
                open_backend(url, **settings)  # type: ignore[arg-type]

    def test_any_fsspec_url(self, tmp_path: os.PathLike[str]) -> None:
        backend = objects(f"{ANY}://{os.fspath(tmp_path)}/run")
        backend.replace("checkpoint_000001/a/b", b"one")
        with backend.write("checkpoint_000001/c") as sink:
            sink.write(b"two")
        with backend.write("checkpoint_000001/large") as sink:
            sink.write(bytes(17 * 2**20))
        assert [entry[:2] for entry in backend.list("checkpoint_000001")] == [
            ("checkpoint_000001/a/b", 3), ("checkpoint_000001/c", 3), ("checkpoint_000001/large", 17 * 2**20),
        ]  # fmt: skip
        assert backend.children("checkpoint_000001") == ["a", "c", "large"]
        assert backend.read("checkpoint_000001/a/b", 1) == b"ne"
        backend.delete(["checkpoint_000001/c", "absent"])
        with pytest.raises(FileNotFoundError):
            backend.read("checkpoint_000001/c")
        assert "one writer" in backend.describe()["create-only writes"]
