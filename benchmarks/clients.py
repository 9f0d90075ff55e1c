"""Other ways to keep policies on S3, each in the fastest setting that its documentation has.

A client puts and gets bodies that are ready. A trainer is given the policies and does what its own library
does with them; `load` has every array in memory. None of them keeps digests. Those that aren't installed are
left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.peers import Data, arrays, touch
from tests.servers import KEY, SECRET, Server

THREADS = 8
Put = Callable[[str, memoryview], object]
Get = Callable[[str], Any]
Kind = TypeVar("Kind")


class Trainer(NamedTuple):
    """`save(prefix, data)` and `load(prefix)`; `prepare(prefix)` is what it does once for a run."""

    prepare: Callable[[str], object]
    save: Callable[[str, Data], object]
    load: Callable[[str], object]


def get_all(get: Get, keys: Iterable[str]) -> None:
    """Get all, some at a time, and touch them.

    None is let go before all are there: who loads a checkpoint has the whole of it in the end, and memory
    that is given back at once is cheap.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        bodies = list(pool.map(get, keys))
    for body in bodies:
        touch(np.frombuffer(body, np.uint8))


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


def pyarrow_place(server: Server) -> Any:
    """pyarrow's S3, one request for what fits into one.

    Its CRC64 with each PUT stays: without it the whole body is signed, which takes twice as long.
    """
    from pyarrow import fs

    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    return fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=server.endpoint.partition("://")[2],
        scheme="http", region="us-east-1", background_writes=True, allow_delayed_open=True,
    )  # fmt: skip


def pyarrow_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """pyarrow's streams."""
    place = pyarrow_place(server)

    def put(key: str, data: memoryview) -> None:
        with place.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(data)

    def get(key: str) -> Any:
        with place.open_input_file(f"{bucket}/{key}") as file:
            return file.read_buffer()

    return put, get


def s3fs_options(server: Server) -> dict[str, Any]:
    """Without the second checksum of every body."""
    config = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": 2 * THREADS,
    }
    return {**server.options, "config_kwargs": config}


def s3fs_client(server: Server, bucket: str) -> tuple[Put, Get]:
    """s3fs with the whole body in one `pipe_file`, and `cat_file`."""
    import s3fs

    place = s3fs.S3FileSystem(**s3fs_options(server), skip_instance_cache=True)
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


def ray_train(server: Server, bucket: str) -> Trainer:
    """Ray Train: a local directory, as RLlib writes it, which its storage context then persists.

    The directory lies where temporary files do. Loading is `Checkpoint.as_directory` and reading that.
    """
    from ray.train import Checkpoint
    from ray.train.v2._internal.execution.storage import StorageContext

    logging.getLogger("ray").setLevel(logging.ERROR)
    place = pyarrow_place(server)
    contexts: dict[str, Any] = {}

    def prepare(prefix: str) -> None:
        contexts[prefix] = StorageContext(f"{bucket}/{prefix}", "run", storage_filesystem=place)

    def save(prefix: str, data: Data) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for name, policy in data.items():
                os.makedirs(os.path.join(directory, "policies", name))
                with open(os.path.join(directory, "policies", name, "policy_state.pkl"), "wb") as file:
                    pickle.dump(policy, file, protocol=5)
            contexts[prefix].persist_current_checkpoint(Checkpoint(directory), "checkpoint_000001")

    def load(prefix: str) -> object:
        found = {}
        persisted = Checkpoint(f"{bucket}/{prefix}/run/checkpoint_000001", filesystem=place)
        with persisted.as_directory() as directory:
            for name in os.listdir(os.path.join(directory, "policies")):
                with open(os.path.join(directory, "policies", name, "policy_state.pkl"), "rb") as file:
                    found[name] = pickle.load(file)
        return found

    return Trainer(prepare, save, load)


def lightning(server: Server, bucket: str) -> Trainer:
    """Lightning: its `TorchCheckpointIO`, which is torch.save and then `fs.pipe`."""
    import fsspec
    import torch
    from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

    fsspec.config.conf["s3"] = s3fs_options(server)  # it takes no storage options
    logging.getLogger("fsspec").setLevel(logging.ERROR)
    files = TorchCheckpointIO()

    def save(prefix: str, data: Data) -> None:
        state = {name: torch.from_numpy(array) for name, array in arrays(data)}
        files.save_checkpoint(state, f"s3://{bucket}/{prefix}/all.ckpt")

    return Trainer(
        lambda prefix: None,
        save,
        lambda prefix: files.load_checkpoint(f"s3://{bucket}/{prefix}/all.ckpt", weights_only=True),
    )


TRAINERS = {"Ray Train": ray_train, "Lightning": lightning}


def installed(
    makers: Mapping[str, Callable[[Server, str], Kind]], server: Server, bucket: str
) -> dict[str, Kind]:
    """Those whose packages are there, set up for this bucket."""
    warnings.simplefilter("ignore")  # theirs
    found = {}
    for name, make in makers.items():
        with contextlib.suppress(ImportError):
            found[name] = make(server, bucket)
    return found
