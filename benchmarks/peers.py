"""Other ways to keep policies on a local disk, each as its own documentation advises for speed.

`save(directory, data)` returns when the bytes are on the medium, `load(directory)` with every array in
memory. None of them keeps digests. Those that aren't installed are left out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Data = dict[str, dict[str, dict[str, np.ndarray[Any, Any]]]]


class Peer(NamedTuple):
    """One contestant."""

    save: Callable[[str, Data], object]
    load: Callable[[str], object]
    packages: tuple[str, ...] = ()


def sync_tree(directory: str) -> None:
    """Make everything below `directory` durable, as its writer left it to others."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in [*(os.path.join(folder, file) for file in files), folder]:
            fd = os.open(name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def arrays(data: Data) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every array under one flat name."""
    for policy_id, policy in data.items():
        for name, array in policy["weights"].items():
            yield f"{policy_id}/{name}", array


def touch(loaded: Any) -> float:
    """Read one number of every page of every array in `loaded`, however nested."""
    if hasattr(loaded, "keys"):
        return sum(touch(loaded[key]) for key in loaded.keys())  # noqa: SIM118 - a TensorDict iterates rows
    array = np.asarray(loaded)
    return float(array.ravel()[:: max(1, 4096 // array.itemsize)].sum())


def _raw() -> Peer:
    def save(directory: str, data: Data) -> None:
        fd = os.open(os.path.join(directory, "raw"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        for _, array in arrays(data):
            view = array.data.cast("B")
            while len(view):
                view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.close(fd)

    def load(directory: str) -> object:
        path = os.path.join(directory, "raw")
        whole = np.empty(os.path.getsize(path), np.uint8)
        with open(path, "rb", buffering=0) as file:
            view = whole.data
            while len(view):
                view = view[file.readinto(view) :]
        return whole

    return Peer(save, load)


def _pickle() -> Peer:
    def save(directory: str, data: Data) -> None:
        for name, policy in data.items():
            with open(os.path.join(directory, name), "wb") as file:
                pickle.dump(policy, file, protocol=5)
                file.flush()
                os.fsync(file.fileno())

    return Peer(save, lambda directory: unpickled(directory, os.listdir(directory)))


def unpickled(directory: str, names: Iterable[str]) -> object:
    """What the pickles of these names hold."""
    found = {}
    for name in names:
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = pickle.load(file)
    return found


def _torch() -> Peer:
    import torch

    def save(directory: str, data: Data) -> None:
        torch.save(
            {name: torch.from_numpy(array) for name, array in arrays(data)}, os.path.join(directory, "all.pt")
        )
        sync_tree(directory)

    def load(directory: str) -> object:
        return torch.load(os.path.join(directory, "all.pt"), weights_only=True)

    return Peer(save, load, ("torch",))


def _safetensors() -> Peer:
    from safetensors.numpy import load_file, save_file

    def save(directory: str, data: Data) -> None:
        save_file(dict(arrays(data)), os.path.join(directory, "all.safetensors"))
        sync_tree(directory)

    return Peer(
        save, lambda directory: load_file(os.path.join(directory, "all.safetensors")), ("safetensors",)
    )


def _dcp() -> Peer:
    import torch
    import torch.distributed.checkpoint as dcp

    def save(directory: str, data: Data) -> None:
        writer = dcp.FileSystemWriter(directory, single_file_per_rank=False, thread_count=os.cpu_count() or 1)
        state = {name: torch.from_numpy(array) for name, array in arrays(data)}
        dcp.save(state, storage_writer=writer, no_dist=True)  # syncs its files
        sync_tree(directory)

    def load(directory: str) -> object:
        reader = dcp.FileSystemReader(directory)
        known = reader.read_metadata().state_dict_metadata
        state = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in known.items()}
        dcp.load(state, storage_reader=reader, no_dist=True)
        return state

    return Peer(save, load, ("torch",))


def _orbax() -> Peer:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    checkpointer = ocp.PyTreeCheckpointer()

    def save(directory: str, data: Data) -> None:
        checkpointer.save(os.path.join(directory, "tree"), data)
        sync_tree(directory)

    return Peer(
        save,
        lambda directory: checkpointer.restore(os.path.join(directory, "tree")),
        ("orbax-checkpoint", "jax"),
    )


def _torchrl() -> Peer:
    import torch
    from tensordict import TensorDict

    def save(directory: str, data: Data) -> None:
        state = TensorDict({name: torch.from_numpy(array) for name, array in arrays(data)})
        state.memmap(os.path.join(directory, "td"), num_threads=os.cpu_count() or 1)
        sync_tree(directory)

    return Peer(
        save,
        lambda directory: TensorDict.load_memmap(Path(directory, "td")).clone(),
        ("torchrl", "tensordict"),
    )


_MAKERS: dict[str, Callable[[], Peer]] = {
    "raw write + fsync": _raw,
    "pickle": _pickle,
    "safetensors": _safetensors,
    "torch.save": _torch,
    "torch DCP": _dcp,
    "Orbax": _orbax,
    "TorchRL (memmap)": _torchrl,
}


def peers() -> dict[str, Peer]:
    """Those whose packages are there, raw writes first."""
    found = {}
    warnings.simplefilter("ignore")  # theirs
    for name, make in _MAKERS.items():
        with contextlib.suppress(ImportError):
            found[name] = make()
    return found
