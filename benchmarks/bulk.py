"""Many checkpoints in a bucket, brought forward by the command line: killed half-way, resumed, adopted.

    python -m benchmarks.bulk [--count 1000] [--trials 10] [--workers 8] [--smoke]
                              [--part migrate|workers|adopt]

The server is moto on this machine, which shares the processors with the client: on a real bucket, where
an answer takes tens of milliseconds, more workers gain more. A proxy that does nothing but count stands in
between while adopting.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import versions
from ckptstore import CheckpointStore, bulk
from tests.faults import fault_proxy
from tests.servers import Server, moto

CASE = Path(__file__).parents[1] / "tests" / "data" / "v1_1" / "ray_2.4.0_tf1" / "checkpoint"


def fill(server: Server, prefix: str, count: int, trials: int) -> None:
    """As Tune would have left them: `trials` directories of checkpoints."""
    files = {
        path.relative_to(CASE).as_posix(): path.read_bytes() for path in CASE.rglob("*") if path.is_file()
    }

    def put(index: int) -> None:
        home = f"{prefix}/trial_{index % trials:05d}/checkpoint_{index // trials:06d}"
        for path, data in files.items():
            server.client().put_object(Bucket=server.bucket, Key=f"{home}/{path}", Body=data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(count)))


def ckptstore(server: Server, *arguments: str, endpoint: str = "", kill_after: int | None = None) -> Any:
    """Run the command; what each line says, its exit code and its seconds."""
    options = {"endpoint_url": endpoint or server.endpoint, "key": server.options["key"]}
    options |= {"secret": server.options["secret"], "client_kwargs.region_name": "us-east-1"}
    flags = [f"--storage-option={key}={value}" for key, value in options.items()]
    began = time.perf_counter()
    command = [sys.executable, "-m", "ckptstore.cli", *arguments, "--json", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = []
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.endswith("\n"):
                lines.append(json.loads(line))
            if len(lines) == kill_after:
                os.kill(process.pid, signal.SIGKILL)
    return lines, process.wait(), time.perf_counter() - began


def told(what: str, count: int, run: Any) -> None:
    """One row of the table."""
    lines, exit_code, seconds = run
    results = ", ".join(
        f"{number} {result}" for result, number in Counter(x["result"] for x in lines).items()
    )
    print(f"| {what} | {results} | {exit_code} | {seconds:.1f} | {seconds / count:.4f} |", flush=True)


def payload_written(seen: Any) -> int:
    """Bytes of requests that write anything but ckptstore's own small files."""
    return sum(
        each.size for each in seen if each.method in ("PUT", "POST") and "/_ckptstore/" not in each.path
    )


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--part", choices=["migrate", "workers", "adopt"])
    given = parser.parse_args()
    count, trials = (20, 2) if given.smoke else (given.count, given.trials)
    many = f"--workers={given.workers}"
    with moto() as server:
        server.bucket = server.new_bucket()
        fill(server, "experiments", count, trials)
        source = f"s3://{server.bucket}/experiments/**"
        print(f"{versions('numpy', 's3fs', 'moto')}; {count} checkpoints, {given.workers} workers\n")
        print("| run | results | exit | s | s per checkpoint |\n|---|---|---|---|---|")
        if given.part in (None, "migrate"):
            migrated(server, source, count, many)
        if given.part in (None, "workers"):
            compared(server, source, count, many)
        if given.part in (None, "adopt"):
            adopted(server, source, count, trials, many)


def migrated(server: Server, source: str, count: int, many: str) -> None:
    """Info, a dry run, a run that is killed, the same again until nothing is left to do."""
    copies = f"s3://{server.bucket}/migrated"
    told("info", count, ckptstore(server, "info", source, many))
    told("migrate --dry-run", count, ckptstore(server, "migrate", source, copies, "--dry-run", many))
    told("migrate, killed", count, ckptstore(server, "migrate", source, copies, many, kill_after=count // 2))
    told("the same again", count, ckptstore(server, "migrate", source, copies, many))
    told("and again", count, ckptstore(server, "migrate", source, copies, many))
    made = bulk.find(copies, storage_options=server.options)
    assert len(made) == count, len(made)
    assert all(item.committed for item in made)
    told("verify the copies", count, ckptstore(server, "verify", f"{copies}/**", many))


def compared(server: Server, source: str, count: int, many: str) -> None:
    """Many workers beside one."""
    for workers in (many, "--workers=1"):
        copies = f"s3://{server.bucket}/copies{workers}"
        told(f"migrate {workers}", count, ckptstore(server, "migrate", source, copies, workers))


def adopted(server: Server, source: str, count: int, trials: int, many: str) -> None:
    """Adopt through a proxy that counts, verify, damage one byte, verify again."""
    with fault_proxy(server.endpoint) as proxy:
        told("adopt", count, ckptstore(server, "adopt", source, many, endpoint=proxy.endpoint))
        seen = list(proxy.seen)
    writes = [each for each in seen if each.method not in ("GET", "HEAD")]
    copies = [each for each in writes if each.method == "PUT" and each.size == 0]
    told("verify", count, ckptstore(server, "verify", source, many))
    key = f"experiments/trial_{trials - 1:05d}/checkpoint_000001/algorithm_state.pkl"
    data = bytearray(server.client().get_object(Bucket=server.bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    server.client().put_object(Bucket=server.bucket, Key=key, Body=bytes(data))
    run = ckptstore(server, "verify", source, many)
    told("verify, one byte flipped", count, run)
    print(
        f"\nadopt: {len(seen)} requests, {len(writes)} of them writes, {payload_written(seen)} payload bytes"
    )
    print(
        f"written, {len(copies)} copies by the server, {sum(each.size for each in writes)} bytes of manifests"
    )
    print("damaged:", *(line["url"] + ": " + line["problems"][0] for line in run[0] if not line["ok"]))
    store = CheckpointStore(f"s3://{server.bucket}/experiments/trial_00000", storage_options=server.options)
    print(
        f"trial_00000 lists {len(store.checkpoints())} checkpoints; threads left: {threading.active_count()}"
    )


if __name__ == "__main__":
    main()
