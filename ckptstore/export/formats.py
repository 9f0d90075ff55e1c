"""Export one policy as one file: the table of formats, and the formats that hold weights alone."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.backends.urls import parse_url, to_file_url
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.export import onnx as onnxfile
from ckptstore.export import torchscript
from ckptstore.format import strictjson
from ckptstore.format.manifest import DIRECTORY
from ckptstore.read.contents import Contents
from ckptstore.rllib_formats.networks import Network, find_network

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Exportable(Protocol):
    """What exporting needs of a `Checkpoint`."""

    @property
    def name(self) -> str:
        """Its directory's name."""

    @property
    def id(self) -> str:
        """Identity of the save that made it."""

    @property
    def kind(self) -> str:
        """What it is: "Algorithm", "Directory", ..."""

    @property
    def version(self) -> str:
        """RLlib's ``checkpoint_version``."""

    @property
    def step(self) -> int:
        """The training step it was saved at."""

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of its policies."""

    def weights(self, policy_id: str | None, /) -> Arrays:
        """The weights of one policy, or those that another trainer saved: parameter name to array."""

    def rllib(self) -> Contents:
        """Its files, read as RLlib's."""


class Exported(NamedTuple):
    """What was written."""

    path: str
    """The file, as the caller named it."""
    policy_id: str
    """Empty for what another trainer saved, which has no policies."""
    format: str
    bytes: int
    difference: float | None = None
    """Of a network: the largest difference between the file's outputs in a trial and those of the weights."""
    unproven: tuple[str, ...] = ()
    """Of a network: what that trial can't show, as both sides of it take the same for granted."""


class _File(NamedTuple):
    data: bytes
    difference: float | None = None
    unproven: tuple[str, ...] = ()


Format = Callable[[Exportable, str], _File]
"""Makes the file of one policy."""


def export(
    checkpoint: Exportable,
    dest: str | os.PathLike[str],
    policy_id: str | None = None,
    *,
    format: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write one policy to the new file `dest`, all of it or nothing; see `Checkpoint.export`."""
    scheme, path = parse_url(dest)
    folder, name = _split(path) if scheme else _split_local(path)
    ending = name.rpartition(".")[2]
    kind = format or _ENDINGS.get(ending, ending)
    if kind not in FORMATS:
        raise InvalidRequest(
            "format",
            f"{kind!r} isn't one of {', '.join(FORMATS)}",
            "Name one of them, or use it as the ending of the file's name",
        )
    if policy_id is None and checkpoint.kind == DIRECTORY:
        policy_id = ""
    elif policy_id is None:
        if len(checkpoint.policy_ids) != 1:
            raise InvalidRequest(
                "policy_id",
                f"{checkpoint.name} holds {len(checkpoint.policy_ids)} policies",
                "Name one of them",
            )
        policy_id = checkpoint.policy_ids[0]
    data, difference, unproven = FORMATS[kind](checkpoint, policy_id)
    with translate_errors(path):
        try:
            open_backend(folder, storage_options).publish(name, data)
        except FileExistsError as error:
            raise InvalidRequest(path, "the file already exists", "Name a new file") from error
    return Exported(path, policy_id, kind, len(data), difference, unproven)


def _split(path: str) -> tuple[str, str]:
    """The directory and the name of the file that the URL `path` names."""
    folder, _, name = path.rpartition("/")
    if not name or name in (".", "..") or folder.endswith(":/"):
        raise _not_a_file(path)
    return folder, name


def _split_local(path: str) -> tuple[str, str]:
    folder, name = os.path.split(os.path.abspath(path))
    if not name or path.endswith(("/", os.sep, "/.", "/..")) or path in (".", ".."):
        raise _not_a_file(path)
    return to_file_url(folder), name


def _not_a_file(path: str) -> InvalidRequest:
    return InvalidRequest(path, "it isn't the path of a file", "Name the file to write, such as pol1.npz")


def _about(checkpoint: Exportable, policy_id: str) -> dict[str, str]:
    """Metadata that say where the weights are from; as text, since safetensors takes nothing else."""
    return {
        "policy": policy_id,
        "checkpoint": checkpoint.name,
        "checkpoint_id": checkpoint.id,
        "checkpoint_version": checkpoint.version,
        "step": str(checkpoint.step),
    }


def _weights(checkpoint: Exportable, policy_id: str, kinds: str, remedy: str) -> Arrays:
    """The weights in this machine's byte order; InvalidRequest if a dtype isn't among `kinds`."""
    arrays = {}
    for name, array in checkpoint.weights(policy_id or None).items():
        if array.dtype.kind not in kinds or array.dtype.hasobject:
            raise InvalidRequest(f"{checkpoint.name} weight {name!r}", f"its dtype is {array.dtype}", remedy)
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return arrays


def _npz(checkpoint: Exportable, policy_id: str) -> _File:
    """A file for `numpy.load`. Not by `numpy.savez`, which can't write an array called "file"."""
    arrays = _weights(checkpoint, policy_id, "biufcSU", "Export to safetensors")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without a date: the same weights give the same file
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return _File(buffer.getvalue())


def _safetensors(checkpoint: Exportable, policy_id: str) -> _File:
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
            _describe(checkpoint, policy_id), f"safetensors says: {error}", "Export to npz"
        ) from error
    return _File(data)


def _json(checkpoint: Exportable, policy_id: str) -> _File:
    """Nested lists, for languages without arrays. NaN and infinities, which JSON lacks, become text."""
    arrays = _weights(checkpoint, policy_id, "biufU", "Export to npz or safetensors")
    weights = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), "data": _finite(array.tolist())}
        for name, array in arrays.items()
    }
    body = {**_about(checkpoint, policy_id), "weights": weights}
    return _File((strictjson.dumps(body) + "\n").encode("ascii"))


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _by(dumps: Callable[[Network, Mapping[str, str], str], tuple[bytes, float]]) -> Format:
    """The format in which `dumps` writes networks."""

    def make(checkpoint: Exportable, policy_id: str) -> _File:
        network = network_of(checkpoint, policy_id)
        unproven = (*network.module.unproven, _RLLIB)
        about = about_network(network, {**_about(checkpoint, policy_id), "unproven": "; ".join(unproven)})
        return _File(*dumps(network, about, _describe(checkpoint, policy_id)), unproven)

    return make


_RLLIB = "that RLlib computes the same: it wasn't asked, as rllib.export_model does"


def _describe(checkpoint: Exportable, policy_id: str) -> str:
    return f"{checkpoint.name} policy {policy_id!r}" if policy_id else checkpoint.name


def about_network(network: Network, about: Mapping[str, str]) -> dict[str, str]:
    """`about`, and what a program needs to turn the network's outputs into actions."""
    return {
        **about,
        "module": network.module.class_name.rpartition(".")[2],
        "action_distribution": network.distribution or "none: the largest of qf_preds",
        "action_space": strictjson.dumps(_text(network.module.action_space)),
        "observation_filter": "inside" if network.normal is not None else "none",
    }


def _text(value: Any) -> Any:
    """A space in values that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _text(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _finite(value.tolist())
    return [_text(item) for item in value] if isinstance(value, (list, tuple)) else value


def network_of(checkpoint: Exportable, policy_id: str) -> Network:
    """What a policy computes from the observations of its environment.

    Raises UnreadableFormat if its network isn't one of RLlib's own, or if observations pass through something
    before it that isn't in the checkpoint or isn't known here.
    """
    where = _describe(checkpoint, policy_id)
    try:
        source = checkpoint.rllib()
    except UnreadableFormat as error:
        raise UnreadableFormat(where, "its network isn't one of RLlib's", _REMEDY) from error
    policy = source.policy(policy_id)
    state = source.state() if source.kind == "Algorithm" else {}
    try:
        found = _find_filter(state, policy_id, where)
        network = find_network(policy, found, where)
    except UnreadableFormat as error:
        raise UnreadableFormat(error.what, error.why, _REMEDY) from error
    beside = [name for name in _list_connectors(state) if name != _FILTER]
    if beside:
        line = f"what its observations go through before it: {', '.join(beside)!s:.120}, not part of the file"
        network = network._replace(module=network.module._replace(unproven=(*network.module.unproven, line)))
    return network


_FILTER = "MeanStdFilter"


def _list_connectors(state: Mapping[str, Any]) -> list[str]:
    """Names of the classes of the new stack's connectors before its modules, but for RLlib's defaults."""
    pipelines = (state.get("extra") or {}).get("pipelines") or {}
    return [str(item["class"]).rpartition(".")[2] for item in pipelines.get("env_to_module_connector") or ()]


def _find_filter(state: Mapping[str, Any], policy_id: str, where: str) -> Any:
    """The filter of a policy's observations, in the form of the old stack, whichever stack wrote it."""
    old = (state.get("filters") or {}).get(policy_id)
    kept = [path for path in state.get("connectors") or {} if "meanstd" in str(path).lower()]
    if old is not None or not kept:
        return old
    [path, *more] = kept
    own = state["connectors"][path]
    if _list_connectors(state) != [_FILTER] or more or not isinstance(own, Mapping) or list(own) != [None]:
        raise UnreadableFormat(
            where, f"its observations went through {path!s:.80}, and not through that alone"
        )
    stored = own[None]
    names = {"demean": "de_mean_to_zero", "destd": "de_std_to_one", "clip": "clip_by_value"}
    return {
        "filter": _FILTER,
        "running_stats": stored["running_stats"],
        **{name: stored[theirs] for name, theirs in names.items()},
    }


_REMEDY = "Export its weights (npz, safetensors, json) and build the network yourself"


_ENDINGS = {"pt": "torchscript", "ts": "torchscript"}

FORMATS: dict[str, Format] = {
    "npz": _npz,
    "safetensors": _safetensors,
    "json": _json,
    "onnx": _by(onnxfile.dumps),
    "torchscript": _by(torchscript.dumps),
}
"""Functions that make the file of one policy of a checkpoint, by the usual extension of such files."""
