"""Export networks of live policies and modules as files for serving."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import UnreadableFormat
from ckptstore.export import onnx as onnxfile
from ckptstore.export import torchscript
from ckptstore.export.formats import about_network
from ckptstore.rllib_formats.networks import Network, find_network
from ckptstore.store import CheckpointStore


def export_model(
    policy: Any,
    url: CheckpointStore | str | os.PathLike[str],
    onnx: int | bool | None = None,
    *,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    labels: Iterable[str] = (),
    if_exists: Literal["error", "replace"] = "replace",
) -> Checkpoint:
    """Commit the network of one policy, or one module of the new API stack, to the store at `url`.

    With `onnx`, an opset or True, the file is ``model.onnx``, run and compared with the weights before it is
    committed, as ``Checkpoint.export`` does. Without, a policy is exported by RLlib itself: as a ``model.pt``
    that needs RLlib to be loaded, or a SavedModel. RLlib can't export a module, whose ``model.pt`` is
    TorchScript. The step is the policy's global timestep, or 0, unless `step` is given. Raises
    UnreadableFormat for a network that can't be exported, and what `CheckpointStore.stage` raises.
    """
    store = url if isinstance(url, CheckpointStore) else CheckpointStore(url)
    number = int(getattr(policy, "global_timestep", 0)) if step is None else step
    staged = store.stage(number, metrics=metrics, labels=labels, if_exists=if_exists)
    with staged as path:
        if onnx:
            opset = onnxfile.OPSET if onnx is True else onnx
            data, _ = onnxfile.dumps(*_read_network(policy, number), opset=opset)
            _write(os.path.join(path, "model.onnx"), data)
        elif hasattr(policy, "export_model"):
            policy.export_model(os.fspath(path))
            if not os.listdir(path):  # RLlib only logs that it couldn't
                raise UnreadableFormat(
                    type(policy).__name__, "RLlib can't export its model", "Pass onnx=True, or export_policy"
                )
        else:
            data, _ = torchscript.dumps(*_read_network(policy, number))
            _write(os.path.join(path, "model.pt"), data)
    assert staged.checkpoint is not None
    return staged.checkpoint


def _read_network(policy: Any, step: int) -> tuple[Network, dict[str, str], str]:
    """The network, its metadata, and the policy's name in errors."""
    what = type(policy).__name__
    with tempfile.TemporaryDirectory() as directory:  # through files, as there is one reader for policies
        if hasattr(policy, "export_checkpoint"):
            policy.export_checkpoint(directory)
        else:
            policy.save_to_path(directory)
        source = Checkpoint.open(directory).rllib()
        [policy_id] = source.policy_ids
        network = find_network(source.policy(policy_id, False, False), where=what)
    return network, about_network(network, {"policy": policy_id, "step": str(step)}), what


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
