"""One policy as one file that other tools read: a table of formats, open for more."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ckptstore import strictjson
from ckptstore.backends import open_backend
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.failures import translated

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Exported(NamedTuple):
    """What was written."""

    path: str
    """The file, as it was named."""
    policy_id: str
    format: str
    bytes: int


def export(
    checkpoint: Checkpoint,
    dest: str | os.PathLike[str],
    policy_id: str | None = None,
    *,
    format: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write one policy to the new file `dest`, whole or not at all; see `Checkpoint.export`."""
    path = os.fspath(dest)
    folder, name = _split(path)
    kind = format or name.rpartition(".")[2]
    if kind not in FORMATS:
        raise InvalidRequest(
            "format", f"{kind!r} is none of {', '.join(FORMATS)}", "Name one, or end the file's name in it"
        )
    if policy_id is None:
        if len(checkpoint.policy_ids) != 1:
            raise InvalidRequest(
                "policy_id", f"{checkpoint.name} holds {len(checkpoint.policy_ids)} policies", "Name one"
            )
        policy_id = checkpoint.policy_ids[0]
    data = FORMATS[kind](checkpoint, policy_id)
    with translated(path):
        try:
            open_backend(folder, storage_options).publish(name, data)
        except FileExistsError as error:
            raise InvalidRequest(path, "it is there already", "Name a new file") from error
    return Exported(path, policy_id, kind, len(data))


def _split(path: str) -> tuple[str, str]:
    """The directory and the name of a file to be made."""
    folder, _, name = path.rpartition("/") if "://" in path else os.path.abspath(path).rpartition(os.sep)
    if not name or name in (".", "..") or path.endswith(("/", os.sep)) or folder.endswith(":/"):
        raise InvalidRequest(path, "it names no file", "Name the file to write, such as pol1.npz")
    return folder or os.sep, name


def _about(checkpoint: Checkpoint, policy_id: str) -> dict[str, str]:
    """Where the weights are from: text, as safetensors takes nothing else."""
    return {
        "policy": policy_id,
        "checkpoint": checkpoint.name,
        "checkpoint_id": checkpoint.id,
        "checkpoint_version": checkpoint.version,
        "step": str(checkpoint.step),
    }


def _weights(checkpoint: Checkpoint, policy_id: str, kinds: str, remedy: str) -> Arrays:
    """The weights, in this machine's byte order, if their types are among `kinds`."""
    arrays = {}
    for name, array in checkpoint.weights(policy_id).items():
        if array.dtype.kind not in kinds or array.dtype.hasobject:
            raise InvalidRequest(f"{checkpoint.name} weight {name!r}", f"it holds {array.dtype}", remedy)
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return arrays


def _npz(checkpoint: Checkpoint, policy_id: str) -> bytes:
    """What `numpy.load` opens. Not by `numpy.savez`, which can't write an array called "file"."""
    arrays = _weights(checkpoint, policy_id, "biufcSU", "Export to safetensors")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # of no date: the same weights make the same file
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def _safetensors(checkpoint: Checkpoint, policy_id: str) -> bytes:
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise InvalidRequest(
            "format", "safetensors is not installed", "pip install 'ckptstore[export]'"
        ) from error
    arrays = _weights(checkpoint, policy_id, "biufV", "Export to npz")  # V: bfloat16 and its like
    try:
        data: bytes = save(dict(arrays), metadata=_about(checkpoint, policy_id))
    except Exception as error:  # it documents no exceptions
        raise InvalidRequest(
            f"{checkpoint.name} policy {policy_id!r}", f"safetensors says: {error}", "Export to npz"
        ) from error
    return data


def _json(checkpoint: Checkpoint, policy_id: str) -> bytes:
    """Nested lists, for languages without arrays. What JSON has no number for becomes text."""
    arrays = _weights(checkpoint, policy_id, "biufU", "Export to npz or safetensors")
    weights = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), "data": _finite(array.tolist())}
        for name, array in arrays.items()
    }
    body = {**_about(checkpoint, policy_id), "weights": weights}
    return (strictjson.dumps(body) + "\n").encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


FORMATS: dict[str, Callable[[Checkpoint, str], bytes]] = {
    "npz": _npz,
    "safetensors": _safetensors,
    "json": _json,
}
"""From a checkpoint and the id of one of its policies to the bytes of a file; by the file's extension."""
