"""PPO: a trunk, or two, under a policy head and a value head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.rllib_formats.networks import config, trunk
from ckptstore.rllib_formats.networks.moving import Module, Mover, check_chain, parameters, refuse

CLASS = "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module.DefaultPPOTorchRLModule"
CATALOG = "ray.rllib.algorithms.ppo.ppo_catalog.PPOCatalog"

_LEFTOVER = "a layer that RLlib made under an LSTM and never used"


def convert(policy: Mapping[str, Any], where: str) -> Module:
    """The module for `policy`, one of PPO's or of another algorithm with the same network."""
    model = config.old_model(policy, where)
    mover = Mover(policy["weights"], where)
    shape, outputs = config.observation_shape(policy, where), config.outputs(policy, where)
    settings = {**config.DEFAULTS, "max_seq_len": int(model.get("max_seq_len") or 20)}
    free = bool(model.get("free_log_std"))
    if free and policy["action_space"].get("space") != "box":
        raise refuse(where, "it has free_log_std, and its actions aren't one box")
    if model.get("no_final_linear"):
        raise refuse(where, "it is built with no_final_linear=True")
    if model.get("use_lstm"):
        _recurrent(mover, model, shape, settings, free)
        heads = ("_logits_branch._model.0", "_value_branch._model.0", None)
        latent = settings["lstm_cell_size"]
    elif len(shape) == 3:
        heads, latent = _images(mover, model, shape, settings)
    else:
        heads, latent = _flat(mover, model, shape, settings)
    _heads(mover, heads, latent, outputs, free)
    settings["free_log_std"] = free
    mover.done()
    old = [name for name in mover.order if not name.endswith("num_batches_tracked")]
    optimizer = mover.moments((policy.get("optimizer") or {}).get("0"), old, parameters(mover.made))
    return Module(
        CLASS,
        CATALOG,
        policy["observation_space"],
        policy["action_space"],
        settings,
        False,
        mover.made,
        {"default_optimizer": optimizer} if optimizer else {},
        mover.report_renames(),
        tuple(mover.dropped),
    )


def _flat(
    mover: Mover, model: Mapping[str, Any], shape: tuple[int, ...], settings: dict[str, Any]
) -> tuple[tuple[str, str, Any], int]:
    if len(shape) != 1:
        raise refuse(mover.where, f"it flattens observations of the shape {shape}")
    if not mover.has("_hidden_layers.0._model.0"):
        raise refuse(mover.where, trunk.EMPTY)
    shared = not mover.has("_value_branch_separate.0._model.0")
    if shared != bool(model.get("vf_share_layers")):
        raise refuse(mover.where, "its weights and its config disagree on vf_share_layers")
    base = "encoder.encoder.net.mlp" if shared else "encoder.actor_encoder.net.mlp"
    sizes = trunk.move_dense(mover, model, shape[0], "_hidden_layers", base)
    if not shared:
        other = "encoder.critic_encoder.net.mlp"
        if trunk.move_dense(mover, model, shape[0], "_value_branch_separate", other) != sizes:
            raise refuse(mover.where, "its value branch has layers of other sizes")
    settings |= {
        "fcnet_hiddens": sizes,
        "fcnet_activation": config.read_activation(model, mover.where),
        "vf_share_layers": shared,
    }
    return ("_logits._model.0", "_value_branch._model.0", None), sizes[-1]


def _images(
    mover: Mover, model: Mapping[str, Any], shape: tuple[int, ...], settings: dict[str, Any]
) -> tuple[tuple[str, str, Any], int]:
    if model.get("post_fcnet_hiddens"):
        raise refuse(mover.where, "it has post_fcnet_hiddens after its convolutions")
    active = config.activation(model.get("conv_activation"), mover.where)
    filters = trunk.filters_of(model, shape, mover.where)
    shared = bool(model.get("vf_share_layers"))
    base = "encoder.encoder.net.0.cnn" if shared else "encoder.actor_encoder.net.0.cnn"
    trunk.move_convolutions(mover, filters, shape[2], active, "_convs", base)
    value = "_value_branch._model.0"
    if not shared:
        other = "encoder.critic_encoder.net.0.cnn"
        trunk.move_convolutions(mover, filters, shape[2], active, "_value_branch_separate", other)
        value = f"_value_branch_separate.{len(filters)}._model.0"
    settings |= {"conv_filters": filters, "conv_activation": active, "vf_share_layers": shared}
    # A convolution of one pixel, with or without a module in front that pads it by nothing.
    policy = "_logits._model.1" if mover.has("_logits._model.1") else "_logits._model.0"
    return (policy, value, _squeeze), filters[-1][0]


def _recurrent(
    mover: Mover, model: Mapping[str, Any], shape: tuple[int, ...], settings: dict[str, Any], free: bool
) -> None:
    """Move an LSTM on a fully connected network; its value head uses the LSTM, whatever the config says."""
    for name in ("lstm_use_prev_action", "lstm_use_prev_reward", "_time_major"):
        if model.get(name):
            raise refuse(mover.where, f"it is built with {name}=True")
    if free or len(shape) != 1:
        raise refuse(mover.where, "it is an LSTM on images, or with free_log_std")
    mover.drop_unused("_value_branch_separate.", _LEFTOVER)
    base = "encoder.encoder"
    sizes = trunk.move_dense(mover, model, shape[0], "_hidden_layers", f"{base}.tokenizer.net.mlp")
    for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        mover.one(f"lstm.{part}", f"{base}.lstm.{part}")
    cells = mover.made[f"{base}.lstm.weight_hh_l0"].shape[-1]
    if mover.made[f"{base}.lstm.weight_ih_l0"].shape != (4 * cells, sizes[-1]):
        raise refuse(mover.where, f"its LSTM doesn't take the {sizes[-1]} outputs of its hidden layers")
    settings |= {
        "fcnet_hiddens": sizes,
        "fcnet_activation": config.read_activation(model, mover.where),
        "vf_share_layers": True,
        "use_lstm": True,
        "lstm_cell_size": int(cells),
    }


def _heads(mover: Mover, heads: tuple[str, str, Any], latent: int, outputs: int, free: bool) -> None:
    policy, value, change = heads
    mean = outputs // 2 if free else outputs
    if free:
        mover.one("_append_free_log_std.log_std", "pi.log_std")
    mover.clip("pi")
    mover.layer(policy, "pi.net.mlp.0", change)
    mover.clip("vf")
    plain = value.startswith("_value_branch.")
    mover.layer(value, "vf.net.mlp.0", None if plain else change)
    for head, size in (("pi", mean), ("vf", 1)):
        check_chain(mover.made, latent, [f"{head}.net.mlp.0"], mover.where)
        if mover.made[f"{head}.net.mlp.0.bias"].shape != (size,):
            raise refuse(mover.where, f"its head {head!r} doesn't give {size} numbers")


def _squeeze(array: Any) -> Any:
    """A convolution of one pixel as a fully connected layer."""
    if array.ndim != 4 or array.shape[2:] != (1, 1):
        return array
    return array.reshape(array.shape[:2])
