"""Export networks of live policies and modules as files for serving."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import UnreadableFormat
from ckptstore.export import onnx as onnxfile
from ckptstore.export import torchscript
from ckptstore.export.formats import about_network
from ckptstore.export.trial import Live
from ckptstore.integrations.rllib.saving import enter_session
from ckptstore.rllib_formats.networks import Network, find_network
from ckptstore.rllib_formats.networks.forward import Numbers
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

    With `onnx`, an opset or True, the file is ``model.onnx``, run and compared with the weights and with the
    live policy before it is committed. Without, a policy is exported by RLlib itself: as a ``model.pt``
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
            with enter_session(policy):
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


def _read_network(policy: Any, step: int) -> tuple[Network, dict[str, str], str, Live]:
    """The network, its metadata, the policy's name in errors, and what asks `policy` itself."""
    what = type(policy).__name__
    with tempfile.TemporaryDirectory() as directory:  # through files, as there is one reader for policies
        if hasattr(policy, "export_checkpoint"):
            policy.export_checkpoint(directory)
        else:
            policy.save_to_path(directory)
        source = Checkpoint.open(directory).rllib()
        [policy_id] = source.policy_ids
        network = find_network(source.policy(policy_id), where=what)
    about = about_network(network, {"policy": policy_id, "step": str(step)})
    ask = _ask_policy if hasattr(policy, "compute_actions") else _ask_module
    return network, about, what, functools.partial(ask, policy, network)


def _ask_policy(policy: Any, network: Network, given: Mapping[str, Any]) -> dict[str, Any]:
    """The distribution's inputs by a policy of the old stack, which gets observations after the filter."""
    obs = given["obs"]
    if network.normal is not None:
        obs = Numbers({}, type(policy).__name__).normal(obs, network.normal).astype(np.float32)
    states = [given[name] for name in ("state_in_h", "state_in_c") if name in given]
    *_, extra = policy.compute_actions(obs, state_batches=states, explore=False)
    return {next(iter(network.outputs)): np.asarray(extra["action_dist_inputs"])}


def _ask_module(module: Any, network: Network, given: Mapping[str, Any]) -> dict[str, Any]:
    """The distribution's inputs, or the Q values, by a module of the new stack."""
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    recurrent = len(tensors) > 1
    batch: dict[str, Any] = {"obs": tensors.pop("obs")}
    if recurrent:
        batch["obs"] = batch["obs"][:, None]  # one step of time
        states: dict[str, Any] = {}
        batch["state_in"] = states
        for name, value in tensors.items():
            *roles, part = name.removeprefix("state_in_").split("_")
            inner = states.setdefault(roles[0], {}) if roles else states
            inner[part] = value[:, None]  # RLlib's has an axis for layers
    with torch.no_grad():
        if "qf_preds" in network.outputs:
            return {"qf_preds": module.compute_q_values(batch)["qf_preds"].numpy()}
        made = module.forward_inference(batch)["action_dist_inputs"].numpy()
    return {"action_dist_inputs": made[:, 0] if recurrent else made}


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
