"""DQN: a trunk under an advantage stream and, if it is dueling, a value stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.rllib_formats.networks import config, trunk
from ckptstore.rllib_formats.networks.moving import Module, Mover, check_chain, parameters, refuse

CLASS = "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module.DefaultDQNTorchRLModule"
CATALOG = "ray.rllib.algorithms.dqn.dqn_catalog.DQNCatalog"


def convert(policy: Mapping[str, Any], where: str) -> Module:
    """The module for `policy`, one of DQN's, or of SimpleQ's: then the trunk gives the Q values itself."""
    model, settings = config.old_model(policy, where), dict(policy["config"])
    outputs, actions = config.outputs(policy, where), policy["action_space"]
    if outputs != actions.get("n"):
        raise refuse(where, "its actions aren't discrete")
    if settings.get("noisy"):
        raise refuse(where, "its layers are noisy (noisy=True)")
    if settings.get("num_atoms", 1) != 1:
        raise refuse(where, f"it learns a distribution (num_atoms={settings['num_atoms']!r:.20})")
    if model.get("use_lstm") or model.get("post_fcnet_hiddens"):
        raise refuse(where, "it has an LSTM or post_fcnet_hiddens")
    mover = Mover(policy["weights"], where)
    made, latent = _trunk(mover, model, config.observation_shape(policy, where))
    mover.drop_unused("_value_branch", "the value head of RLlib's base network, which DQN never used")
    dueling, hidden = bool(settings.get("dueling")), list[int]()
    if mover.has("_logits._model.0"):
        if dueling or settings.get("hiddens"):
            raise refuse(where, "its config describes streams, but its trunk gives the Q values")
        _plain(mover, latent, actions["n"])
    else:
        hidden = _stream(
            mover, "advantage_module.dueling_A", "advantage_module.A", "af", latent, actions["n"]
        )
    if dueling:
        if _stream(mover, "value_module.dueling_V", "value_module.V", "vf", latent, 1) != hidden:
            raise refuse(where, "its two streams have layers of other sizes")
    else:
        mover.drop_unused("value_module.", "the value stream of a network that isn't dueling")
    mover.done()
    optimizer = mover.moments((policy.get("optimizer") or {}).get("0"), mover.order, parameters(mover.made))
    targets = ("encoder", "af", "vf") if dueling else ("encoder", "af")
    mover.copies({name: f"_target_{name}" for name in targets})
    return Module(
        CLASS,
        CATALOG,
        policy["observation_space"],
        actions,
        {**config.DEFAULTS, **made, "head_fcnet_hiddens": hidden, **_dqn_settings(settings, dueling)},
        False,
        mover.made,
        {"default_optimizer": optimizer} if optimizer else {},
        mover.report_renames(),
        tuple(mover.dropped),
    )


def _trunk(mover: Mover, model: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    if len(shape) == 3:
        active = config.activation(model.get("conv_activation"), mover.where)
        filters = trunk.filters_of(model, shape, mover.where)
        last = mover.left.get(f"_convs.{len(filters) - 1}._model.0.weight")
        if last is not None:  # the last one is as wide as the streams need it
            filters[-1][0] = int(last.shape[0])
        trunk.move_convolutions(mover, filters, shape[2], active, "_convs", "encoder.net.0.cnn")
        return {"conv_filters": filters, "conv_activation": active}, filters[-1][0]
    if len(shape) != 1:
        raise refuse(mover.where, f"it flattens observations of the shape {shape}")
    sizes = trunk.move_dense(mover, model, shape[0], "_hidden_layers", "encoder.net.mlp")
    active = config.read_activation(model, mover.where)
    return {"fcnet_hiddens": sizes, "fcnet_activation": active}, sizes[-1]


def _plain(mover: Mover, latent: int, outputs: int) -> None:
    """Move the last layer of the trunk where it gives the Q values itself."""
    mover.clip("af")
    mover.layer("_logits._model.0", "af.net.mlp.0")
    check_chain(mover.made, latent, ["af.net.mlp.0"], mover.where)
    if mover.made["af.net.mlp.0.bias"].shape != (outputs,):
        raise refuse(mover.where, f"its head doesn't give {outputs} numbers")


def _stream(mover: Mover, old: str, last: str, new: str, latent: int, outputs: int) -> list[int]:
    mover.clip(new)
    hidden: list[int] = []
    while mover.has(f"{old}_{len(hidden)}._model.0"):
        shape = mover.layer(f"{old}_{len(hidden)}._model.0", f"{new}.net.mlp.{2 * len(hidden)}")
        hidden.append(shape[0])
    if not hidden:
        raise refuse(mover.where, "it has no hidden layers of its own after the trunk (hiddens=[])")
    mover.layer(f"{last}._model.0", f"{new}.net.mlp.{2 * len(hidden)}")
    layers = [f"{new}.net.mlp.{2 * index}" for index in range(len(hidden) + 1)]
    check_chain(mover.made, latent, layers, mover.where)
    if mover.made[f"{layers[-1]}.bias"].shape != (outputs,):
        raise refuse(mover.where, f"its stream {last!r} doesn't give {outputs} numbers")
    return hidden


def _dqn_settings(settings: Mapping[str, Any], dueling: bool) -> dict[str, Any]:
    """What the model config of DQN's module holds besides the network."""
    explored = settings.get("exploration_config")
    explored = explored if isinstance(explored, Mapping) else {}
    steps, first, final = (
        explored.get(name, default)
        for name, default in (("epsilon_timesteps", 10000), ("initial_epsilon", 1.0), ("final_epsilon", 0.05))
    )
    return {
        "dueling": dueling,
        "double_q": bool(settings.get("double_q", True)),
        "num_atoms": 1,
        "v_min": float(settings.get("v_min", -10.0)),
        "v_max": float(settings.get("v_max", 10.0)),
        "std_init": 0.5,
        "epsilon": [(0, float(first)), (int(steps), float(final))],
    }
