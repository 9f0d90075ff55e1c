"""What RLlib's default modules compute, in numpy: enough of it to compare a converted network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.networks import Module

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
    if "DQN" in module.class_name:
        trunk = mlp(module, "encoder.net.mlp", obs, active, True)
        advantage = mlp(module, "af.net.mlp", trunk, head, False)
        if not config["dueling"]:
            return advantage, None
        value = mlp(module, "vf.net.mlp", trunk, head, False)
        return advantage - advantage.mean(axis=-1, keepdims=True) + value, None
    if "SAC" in module.class_name:
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
        trunk = other = mlp(module, "encoder.encoder.net.mlp", obs, active, True)
    else:
        trunk = mlp(module, "encoder.actor_encoder.net.mlp", obs, active, True)
        other = mlp(module, "encoder.critic_encoder.net.mlp", obs, active, True)
    logits = mlp(module, "pi.net.mlp", trunk, head, False)
    if "pi.log_std" in module.weights:
        logits = np.concatenate(
            [logits, np.broadcast_to(module.weights["pi.log_std"], logits.shape)], axis=-1
        )
    return logits, mlp(module, "vf.net.mlp", other, head, False)[
        ..., 0
    ] if not module.inference_only else None
