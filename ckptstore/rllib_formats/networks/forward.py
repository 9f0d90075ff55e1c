"""What a default module computes, written once for numbers and for the nodes of a graph.

`Network.run` takes one step: a batch of observations, and of states if there is an LSTM. It calls only `Ops`,
so that a file in another format and the numbers that it is compared with come from the same few lines. Every
weight has to be used, or known not to matter for acting; all others are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks import config
from ckptstore.rllib_formats.networks.moving import CLIP, Array, Module, refuse
from ckptstore.rllib_formats.networks.normal import Normal

T = TypeVar("T")

LARGEST = 2**22
"""The most numbers in one observation: it is made to check the weights, and a file may claim any shape."""


class Convolution(NamedTuple):
    """One layer of images."""

    layer: str
    stride: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    """Zeros before and after the rows, before and after the columns."""


class Ops(Protocol[T]):
    """The operations that networks are made of. Layers are named: ``<layer>.weight``, ``<layer>.bias``."""

    def normal(self, x: T, normal: Normal) -> T:
        """Observations minus a mean, divided by a deviation, clipped to a limit; in double precision."""

    def affine(self, x: T, layer: str) -> T:
        """``x @ weight.T + bias``."""

    def active(self, x: T, name: str) -> T:
        """The activation `name`, one of `config.ACTIVATIONS`, element by element."""

    def convolve(self, x: T, layers: list[Convolution], active: str) -> T:
        """Convolutions with an activation after each: from images with channels last to flat vectors."""

    def lstm(self, x: T, h: T, c: T, layer: str) -> tuple[T, T]:
        """One step of an LSTM: the new h and c."""

    def combine_dueling(self, advantage: T, value: T) -> T:
        """``advantage - advantage.mean(-1) + value``."""

    def expect(self, x: T, actions: int, support: Array) -> T:
        """For each of the `actions` the mean of `support` under the softmax of its share of `x`."""

    def with_deviation(self, mean: T, log_std: str) -> T:
        """The means, each row followed by the weight `log_std`."""

    def clip(self, x: T, limit: float) -> T:
        """The second half of each row clipped to [-limit, limit]."""


class Network(NamedTuple):
    """A module as a function of named inputs. All arrays are float32 and begin with the batch's axis."""

    module: Module
    weights: dict[str, Array]
    """The weights that it uses, float32, by their names in RLlib's newest module."""
    inputs: dict[str, tuple[int, ...]]
    """Name to the shape of one item of the batch."""
    outputs: dict[str, tuple[int, ...]]
    distribution: str | None
    """RLlib's name of the distribution over actions that ``action_dist_inputs`` define; None for Q values."""
    normal: Normal | None
    clip: float | None

    def run(self, ops: Ops[T], given: Mapping[str, T]) -> dict[str, T]:
        """All outputs for `given`, in the order of `outputs`."""
        walk = _Walk(self.module, ops, self.normal, self.clip, self.module.class_name)
        return walk.all(dict(given))


def network(module: Module, normal: Normal | None = None, *, clips: bool = False, where: str) -> Network:
    """`module` as a function. `clips` says whether its class clips the logarithms of deviations.

    Raises UnreadableFormat, naming what isn't understood, for layers or settings that aren't RLlib's own.
    """
    try:
        return _network(module, normal, clips, where)
    except UnreadableFormat:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error!s:.100}"
        raise refuse(where, f"its weights, config and spaces don't fit one another ({what})") from error


def _network(module: Module, normal: Normal | None, clips: bool, where: str) -> Network:
    described = {"observation_space": module.observation_space, "action_space": module.action_space}
    shape, size = config.observation_shape(described, where), config.outputs(described, where)
    if min(shape, default=1) < 1 or math.prod(shape) > LARGEST:
        raise refuse(where, f"it observes boxes of the shape {shape!s:.80}")
    _refuse_settings(module, where)
    kind = module.action_space["space"]
    gaussian, q = kind == "box", module.network == "DQN"
    if q and kind != "discrete":
        raise refuse(where, "its actions aren't discrete")
    clip = float(module.weights[f"{_head(module)}.{CLIP}"][0]) if clips and gaussian else None
    recorder = Numbers(module.weights, where)
    walk = _Walk(module, recorder, normal, clip, where)
    inputs = {"obs": shape, **walk.states()}
    one = {name: np.zeros((1, *size), np.float32) for name, size in inputs.items()}
    outputs = {name: value.shape[1:] for name, value in walk.all(one).items()}
    first = "qf_preds" if q else "action_dist_inputs"
    if outputs[first] != (size,):
        raise refuse(where, f"its head gives {outputs[first]} numbers where its actions take {size}")
    _refuse_leftovers(module, recorder.used, where)
    weights = {name: _float32(name, module.weights[name], where) for name in recorder.used}
    distribution = {"discrete": "Categorical", "box": "DiagGaussian"}.get(kind, "MultiCategorical")
    if kind in config.COMPOSED:
        distribution = "MultiActionDistribution"
    if module.network == "SAC" and gaussian:
        distribution = "SquashedGaussian"
    return Network(module, weights, inputs, outputs, None if q else distribution, normal, clip)


_ACTORS = {"SAC": "pi_encoder", "BC": "_encoder"}
"""The encoder of the policy, for networks that have no other output."""


def _head(module: Module) -> str:
    return "_pi_head" if module.network == "BC" else "pi"


def _count_atoms(module: Module) -> int:
    """Of the distribution over each Q value that DQN learns; 1 for none."""
    return int(module.model_config.get("num_atoms", 1)) if module.network == "DQN" else 1


def _refuse_settings(module: Module, where: str) -> None:
    for name in ("lstm_use_prev_action", "lstm_use_prev_reward", "fcnet_use_layernorm"):
        if module.model_config.get(name):
            raise refuse(where, f"it is built with {name}=True")
    if module.model_config.get("head_fcnet_use_layernorm"):
        raise refuse(where, "it is built with head_fcnet_use_layernorm=True")


def _refuse_leftovers(module: Module, used: Mapping[str, None], where: str) -> None:
    """Refuse weights that weren't used, except target networks, SAC's critics and constants."""
    idle = ("_target_", "target_", "_old_", *(("qf",) if module.network == "SAC" else ()))
    if _count_atoms(module) > 1:
        idle = (*idle, "vf.")  # it is added to all logits of an action, which changes no softmax
    left = [
        name
        for name in module.weights
        if name not in used and not name.endswith(f".{CLIP}") and not name.startswith(idle)
    ]
    if left:
        names = ", ".join(repr(name) for name in left[:3])
        raise refuse(where, f"the weights {names} ({len(left)} in all) belong to no known layer")


def _float32(name: str, value: Array, where: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise refuse(where, f"the weight {name!r} holds {array.dtype}")
    return np.ascontiguousarray(array, np.float32)


class _Walk:
    """One pass through a module's layers."""

    def __init__(
        self, module: Module, ops: Any, normal: Normal | None, clip: float | None, where: str
    ) -> None:
        self.module, self.ops, self.normal, self.clip, self.where = module, ops, normal, clip, where
        self.settings = module.model_config
        self.shared = bool(self.settings.get("vf_share_layers"))
        self.critic = any(name.startswith("vf.") for name in module.weights)

    def all(self, given: dict[str, Any]) -> dict[str, Any]:
        if self.normal is not None:
            given = {**given, "obs": self.ops.normal(given["obs"], self.normal)}
        if self.module.network == "DQN":
            return self.dqn(given["obs"])
        if self.module.network in _ACTORS:
            return {"action_dist_inputs": self.act(_ACTORS[self.module.network], given["obs"])}
        return self.recurrent(given) if self.settings.get("use_lstm") else self.ppo(given["obs"])

    def states(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the input states, by name."""
        if not self.settings.get("use_lstm"):
            return {}
        if self.module.network != "PPO":
            raise refuse(self.where, "it is an LSTM of another network than PPO's")
        return {
            f"state_in_{role}{part}": (self.module.weights[f"{encoder}.lstm.weight_hh_l0"].shape[-1],)
            for role, encoder in self.encoders()
            for part in "hc"
        }

    def encoders(self) -> list[tuple[str, str]]:
        """Role (the prefix of RLlib's states) and name of each encoder: one for both heads, or one each."""
        if self.shared:
            return [("", "encoder.encoder")]
        critic = [("critic_", "encoder.critic_encoder")] if self.critic else []
        return [("actor_", "encoder.actor_encoder"), *critic]

    def ppo(self, x: Any) -> dict[str, Any]:
        return self.heads([self.encode(name, x) for _, name in self.encoders()])

    def recurrent(self, given: dict[str, Any]) -> dict[str, Any]:
        states: dict[str, Any] = {}
        found = []
        for role, name in self.encoders():
            x = self.encode(f"{name}.tokenizer", given["obs"])
            h, c = given[f"state_in_{role}h"], given[f"state_in_{role}c"]
            h, c = self.ops.lstm(x, h, c, f"{name}.lstm")
            states |= {f"state_out_{role}h": h, f"state_out_{role}c": c}
            found.append(h)
        return {**self.heads(found), **states}

    def heads(self, found: list[Any]) -> dict[str, Any]:
        """The outputs for the latents of the encoders."""
        made = {"action_dist_inputs": self.apply_head(found[0])}
        if self.critic:
            made["vf_preds"] = self.layers("vf.net.mlp", found[-1], self.head, False)
        return made

    def dqn(self, x: Any) -> dict[str, Any]:
        latent = self.encode("encoder", x)
        values = self.layers("af.net.mlp", latent, self.head, False)
        if (atoms := _count_atoms(self.module)) > 1:
            support = np.linspace(float(self.settings["v_min"]), float(self.settings["v_max"]), atoms)
            return {"qf_preds": self.ops.expect(values, int(self.module.action_space["n"]), support)}
        if self.settings.get("dueling"):
            values = self.ops.combine_dueling(values, self.layers("vf.net.mlp", latent, self.head, False))
        return {"qf_preds": values}

    @property
    def head(self) -> str:
        return config.activation(self.settings.get("head_fcnet_activation"), self.where)

    def act(self, encoder: str, x: Any) -> Any:
        return self.apply_head(self.encode(encoder, x))

    def apply_head(self, latent: Any) -> Any:
        head = _head(self.module)
        made = self.layers(f"{head}.net.mlp", latent, self.head, False)
        if f"{head}.log_std" in self.module.weights:
            made = self.ops.with_deviation(made, f"{head}.log_std")
        return made if self.clip is None else self.ops.clip(made, self.clip)

    def encode(self, name: str, x: Any) -> Any:
        if any(weight.startswith(f"{name}.net.0.cnn.") for weight in self.module.weights):
            active = config.activation(self.settings.get("conv_activation"), self.where)
            return self.ops.convolve(x, self.convolutions(f"{name}.net.0.cnn", active), active)
        active = config.activation(self.settings.get("fcnet_activation"), self.where)
        return self.layers(f"{name}.net.mlp", x, active, True)

    def layers(self, prefix: str, x: Any, active: str, last: bool) -> Any:
        """Fully connected layers with an activation between them, and after the last one if `last`."""
        numbers = sorted(
            int(name[len(prefix) + 1 : -len(".weight")])
            for name in self.module.weights
            if name.startswith(f"{prefix}.") and name.endswith(".weight")
        )
        if numbers != list(range(0, len(numbers) * config.step(active), config.step(active))):
            raise refuse(self.where, f"its layers {prefix!r} are numbered {numbers}")
        for number in numbers:
            x = self.ops.affine(x, f"{prefix}.{number}")
            if last or number != numbers[-1]:
                x = self.ops.active(x, active)
        return x

    def convolutions(self, prefix: str, active: str) -> list[Convolution]:
        filters, sizes = self.settings.get("conv_filters"), self.module.observation_space["shape"][:2]
        channels = self.module.observation_space["shape"][2]
        if not isinstance(filters, (list, tuple)):
            raise refuse(self.where, "its config doesn't hold the strides of its convolutions")
        found, position = [], 0
        for item in filters:
            same = len(item) == 3 or item[3] == "same"
            kernel, stride = _pair(item[1]), _pair(item[2])
            if min(stride) < 1:
                raise refuse(self.where, f"its convolutions have strides of {stride}")
            sides = zip(sizes, kernel, stride, strict=True)
            pads = tuple(_same_padding(*side) if same else (0, 0) for side in sides)
            if min(pads[0] + pads[1]) < 0:
                raise refuse(self.where, "its convolutions have strides larger than their kernels")
            position += int(same)
            layer, expected = f"{prefix}.{position}", (int(item[0]), channels, *kernel)
            shape = np.shape(self.module.weights[f"{layer}.weight"])
            if shape != expected:
                raise refuse(self.where, f"its layer {layer!r} has the shape {shape}, not {expected}")
            channels = expected[0]
            found.append(Convolution(layer, stride, (pads[0], pads[1])))
            position += config.step(active)
            sizes = [
                (size + sum(pad) - length) // step + 1
                for size, pad, length, step in zip(sizes, pads, kernel, stride, strict=True)
            ]
        return found


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (list, tuple)) else (value, value)
    return int(first), int(second)


def _same_padding(size: int, length: int, step: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's padding "same" has them."""
    over = (-(-size // step) - 1) * step + length - size
    return over // 2, over - over // 2


class Numbers:
    """`Ops` on arrays in double precision, which files are compared with. Records which weights are used."""

    def __init__(self, weights: Mapping[str, Array], where: str) -> None:
        self._weights, self._where = weights, where
        self.used: dict[str, None] = {}

    def weight(self, name: str, axes: int) -> Array:
        if name not in self._weights:
            raise refuse(self._where, f"there is no weight {name!r}")
        value = np.asarray(self._weights[name])
        if value.ndim != axes:
            raise refuse(self._where, f"the weight {name!r} has the shape {value.shape}")
        self.used[name] = None
        return value.astype(np.float64)

    def normal(self, x: Array, normal: Normal) -> Array:
        made = (x - normal.mean) / normal.deviation
        return made if normal.limit is None else np.clip(made, -normal.limit, normal.limit)

    def affine(self, x: Array, layer: str) -> Array:
        weight, bias = self.weight(f"{layer}.weight", 2), self.weight(f"{layer}.bias", 1)
        if weight.shape != (bias.size, x.shape[-1]):
            raise refuse(
                self._where, f"the layer {layer!r} has the shape {weight.shape} where {x.shape[-1]} come in"
            )
        return x @ weight.T + bias

    def active(self, x: Array, name: str) -> Array:
        if name in ("silu", "swish"):
            return x * _sigmoid(x)
        if name == "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        if name == "relu":
            return np.maximum(x, 0)
        return np.tanh(x) if name == "tanh" else x

    def convolve(self, x: Array, layers: list[Convolution], active: str) -> Array:
        for layer, (down, right), pads in layers:
            weight, bias = self.weight(f"{layer}.weight", 4), self.weight(f"{layer}.bias", 1)
            x = np.pad(x, [(0, 0), *pads, (0, 0)])
            windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
            made = np.einsum("bhwcij,ocij->bhwo", windows[:, ::down, ::right], weight)
            x = self.active(made + bias, active)
        return x.reshape(len(x), -1)

    def lstm(self, x: Array, h: Array, c: Array, layer: str) -> tuple[Array, Array]:
        gates = sum(
            value @ self.weight(f"{layer}.weight_{part}_l0", 2).T + self.weight(f"{layer}.bias_{part}_l0", 1)
            for part, value in (("ih", x), ("hh", h))
        )
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(c), c

    def combine_dueling(self, advantage: Array, value: Array) -> Array:
        return advantage - advantage.mean(axis=-1, keepdims=True) + value

    def expect(self, x: Array, actions: int, support: Array) -> Array:
        logits = x.reshape(len(x), actions, len(support))
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (weights / weights.sum(axis=-1, keepdims=True)) @ support

    def with_deviation(self, mean: Array, log_std: str) -> Array:
        return np.concatenate([mean, np.broadcast_to(self.weight(log_std, 1), mean.shape)], axis=-1)

    def clip(self, x: Array, limit: float) -> Array:
        means, deviations = np.split(x, 2, axis=-1)
        return np.concatenate([means, np.clip(deviations, -limit, limit)], axis=-1)


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2
