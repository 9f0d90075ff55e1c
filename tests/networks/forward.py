"""What RLlib's default modules compute, in numpy: enough of it to compare a converted network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.rllib_formats.networks import Module

ACTIVE: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "linear": lambda x: x,
}


def mlp(module: Module, prefix: str, x: Any, active: str, last: bool) -> Any:
    """The layers below `prefix`; the last one is active too if `last`."""
    found = sorted(
        int(name[len(prefix) + 1 : -len(".weight")])
        for name in module.weights
        if name.startswith(f"{prefix}.") and name.endswith(".weight")
    )
    for index in found:
        x = x @ module.weights[f"{prefix}.{index}.weight"].T + module.weights[f"{prefix}.{index}.bias"]
        if last or index != found[-1]:
            x = ACTIVE[active](x)
    return x


def convolutions(module: Module, prefix: str, x: Any) -> Any:
    """The layers of images below `prefix`, flattened."""
    active, position = ACTIVE[module.model_config["conv_activation"]], 0
    for _, kernel, stride, *padding in module.model_config["conv_filters"]:
        if padding in ([], ["same"]):
            position += 1
            pads = [(0, 0)]
            for size, length in zip(x.shape[1:3], kernel, strict=True):
                over = max((-(-size // stride) - 1) * stride + length - size, 0)
                pads.append((over // 2, over - over // 2))
            x = np.pad(x, [*pads, (0, 0)])
        weight = module.weights[f"{prefix}.{position}.weight"]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))[:, ::stride, ::stride]
        x = active(
            np.einsum("bhwcij,ocij->bhwo", windows, weight) + module.weights[f"{prefix}.{position}.bias"]
        )
        position += 2
    return x.reshape(len(x), -1)


def encoded(module: Module, prefix: str, x: Any) -> Any:
    """What the encoder called `prefix` makes of observations."""
    if module.model_config["conv_filters"]:
        return convolutions(module, f"{prefix}.net.0.cnn", x)
    return mlp(module, f"{prefix}.net.mlp", x, module.model_config["fcnet_activation"], True)


def lstm(module: Module, prefix: str, x: Any) -> Any:
    """One step of an LSTM from a state of zeros."""
    gates = x @ module.weights[f"{prefix}.weight_ih_l0"].T + module.weights[f"{prefix}.bias_ih_l0"]
    i, _, g, o = np.split(gates + module.weights[f"{prefix}.bias_hh_l0"], 4, axis=-1)

    def sigmoid(value: Any) -> Any:
        return 1 / (1 + np.exp(-value))

    return sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g))


def outputs(module: Module, obs: Any) -> tuple[Any, Any]:
    """Logits (Q values) and, of PPO, values for a batch of flat observations."""
    config, active = module.model_config, module.model_config["fcnet_activation"]
    head = config["head_fcnet_activation"]
    if "DefaultBC" in module.class_name:
        logits = mlp(module, "_pi_head.net.mlp", encoded(module, "_encoder", obs), head, False)
        if "_pi_head.log_std" in module.weights:
            spread = np.broadcast_to(module.weights["_pi_head.log_std"], logits.shape)
            logits = np.concatenate([logits, spread], axis=-1)
        return logits, None
    if "DQN" in module.class_name:
        trunk = encoded(module, "encoder", obs)
        advantage = mlp(module, "af.net.mlp", trunk, head, False)
        if (atoms := config.get("num_atoms", 1)) > 1:
            logits = advantage.reshape(len(obs), -1, atoms)
            if config["dueling"]:
                logits = logits - logits.mean(axis=-1, keepdims=True)
                logits = logits + mlp(module, "vf.net.mlp", trunk, head, False)[:, :, None]
            share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            support = config["v_min"] + np.arange(atoms) * (config["v_max"] - config["v_min"]) / (atoms - 1)
            return (share * support).sum(axis=-1), None
        if not config["dueling"]:
            return advantage, None
        value = mlp(module, "vf.net.mlp", trunk, head, False)
        return advantage - advantage.mean(axis=-1, keepdims=True) + value, None
    if any(name in module.class_name for name in ("SAC", "CQL", "TQC")):
        return mlp(
            module, "pi.net.mlp", mlp(module, "pi_encoder.net.mlp", obs, active, True), head, False
        ), None
    if config["use_lstm"]:
        trunk = lstm(
            module,
            "encoder.encoder.lstm",
            mlp(module, "encoder.encoder.tokenizer.net.mlp", obs, active, True),
        )
        other = trunk
    elif config["vf_share_layers"]:
        trunk = other = encoded(module, "encoder.encoder", obs)
    else:
        trunk = encoded(module, "encoder.actor_encoder", obs)
        other = encoded(module, "encoder.critic_encoder", obs)
    logits = mlp(module, "pi.net.mlp", trunk, head, False)
    if "pi.log_std" in module.weights:
        logits = np.concatenate(
            [logits, np.broadcast_to(module.weights["pi.log_std"], logits.shape)], axis=-1
        )
    return logits, mlp(module, "vf.net.mlp", other, head, False)[
        ..., 0
    ] if not module.inference_only else None
