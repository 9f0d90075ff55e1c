"""TorchScript: a network in plain torch that is traced, and loaded from its bytes before it is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.export.trial import Live, largest_difference
from ckptstore.format import strictjson
from ckptstore.rllib_formats.networks.forward import Convolution, Network
from ckptstore.rllib_formats.networks.normal import Normal

METADATA = "ckptstore.json"
"""The extra file inside, which says where the weights are from and names the inputs and outputs."""


def dumps(
    network: Network, about: Mapping[str, str], where: str, live: Live | None = None
) -> tuple[bytes, float]:
    """The file's bytes, and the largest difference that a trial has shown from the weights, and from `live`.

    The module takes the inputs in their order and returns a dict of the outputs. Raises InvalidRequest if
    torch isn't installed, and UnreadableFormat if the module doesn't compute what the weights do.
    """
    try:
        import torch
    except ImportError as error:
        raise InvalidRequest("format", "torch is not installed", "pip install 'ckptstore[torch]'") from error
    example = tuple(torch.zeros(2, *shape) for shape in network.inputs.values())
    metadata = {**about, "inputs": list(network.inputs), "outputs": list(network.outputs)}
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch recommends torch.export instead
            traced = torch.jit.trace(_module(network), example, strict=False, check_trace=False)
            torch.jit.save(traced, buffer, _extra_files={METADATA: strictjson.dumps(metadata)})
            loaded = torch.jit.load(io.BytesIO(buffer.getvalue()), map_location="cpu")
    except Exception as error:  # it documents none
        raise InvalidRequest(where, f"torch says: {error!s:.200}", "Export to npz or onnx") from error

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            made = loaded(*(torch.from_numpy(given[name]) for name in network.inputs))
        return {name: value.numpy() for name, value in made.items()}

    return buffer.getvalue(), largest_difference(network, run, where, live)


def _module(network: Network) -> Any:
    """A ``torch.nn.Module`` that runs `network`; its state dict has the names of the weights."""
    import torch

    class Step(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # torch has no types here, or has them
        def __init__(self) -> None:
            super().__init__()
            for name, value in network.weights.items():
                inner: Any = self
                *path, last = name.split(".")
                for part in path:
                    if not hasattr(inner, part):
                        inner.add_module(part, torch.nn.Module())
                    inner = getattr(inner, part)
                inner.register_parameter(last, torch.nn.Parameter(torch.from_numpy(value.copy())))

        def run(self, *given: Any) -> Any:
            tensors = dict(zip(network.inputs, given, strict=True))
            return network.run(_Tensors(dict(self.named_parameters())), tensors)

    # A trace takes the names and the number of the inputs from the signature.
    class FeedForward(Step):
        def forward(self, obs: Any) -> Any:
            return self.run(obs)

    class Recurrent(Step):
        def forward(self, obs: Any, state_in_h: Any, state_in_c: Any) -> Any:
            return self.run(obs, state_in_h, state_in_c)

    class Actor(Step):
        def forward(self, obs: Any, state_in_actor_h: Any, state_in_actor_c: Any) -> Any:
            return self.run(obs, state_in_actor_h, state_in_actor_c)

    class Both(Step):
        def forward(
            self,
            obs: Any,
            state_in_actor_h: Any,
            state_in_actor_c: Any,
            state_in_critic_h: Any,
            state_in_critic_c: Any,
        ) -> Any:
            return self.run(obs, state_in_actor_h, state_in_actor_c, state_in_critic_h, state_in_critic_c)

    kinds = {1: FeedForward, 3: Actor if "state_in_actor_h" in network.inputs else Recurrent, 5: Both}
    return kinds[len(network.inputs)]().eval()


class _Tensors:
    """`Ops` on tensors."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        import torch

        self._torch, self._weights = torch, weights

    def normal(self, x: Any, normal: Normal) -> Any:
        torch = self._torch
        made = (x.double() - torch.from_numpy(normal.mean)) / torch.from_numpy(normal.deviation)
        if normal.limit is not None:
            made = made.clamp(-normal.limit, normal.limit)
        return made.float()

    def affine(self, x: Any, layer: str) -> Any:
        weight, bias = self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]
        return self._torch.nn.functional.linear(x, weight, bias)

    def active(self, x: Any, name: str) -> Any:
        name = "silu" if name == "swish" else name
        return x if name == "linear" else getattr(self._torch.nn.functional, name)(x)

    def convolve(self, x: Any, layers: list[Convolution], active: str) -> Any:
        functional = self._torch.nn.functional
        x = x.permute(0, 3, 1, 2)
        for layer, stride, (rows, columns) in layers:
            weight, bias = self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]
            x = functional.conv2d(functional.pad(x, (*columns, *rows)), weight, bias, stride)
            x = self.active(x, active)
        return x.permute(0, 2, 3, 1).flatten(1)

    def lstm(self, x: Any, h: Any, c: Any, layer: str) -> tuple[Any, Any]:
        parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        h, c = self._torch.lstm_cell(x, (h, c), *(self._weights[f"{layer}.{part}"] for part in parts))
        return h, c

    def combine_dueling(self, advantage: Any, value: Any) -> Any:
        return advantage - advantage.mean(dim=-1, keepdim=True) + value

    def expect(self, x: Any, actions: int, support: Any) -> Any:
        weights = x.reshape(-1, actions, len(support)).softmax(dim=-1)
        return weights @ self._torch.tensor(support, dtype=self._torch.float32)

    def with_deviation(self, mean: Any, log_std: str) -> Any:
        return self._torch.cat([mean, self._weights[log_std].expand_as(mean)], dim=-1)

    def clip(self, x: Any, limit: float) -> Any:
        means, deviations = x.chunk(2, dim=-1)
        return self._torch.cat([means, deviations.clamp(-limit, limit)], dim=-1)
