"""Single policies and modules, without an algorithm or an environment around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import newstack, oldstack
from ckptstore.integrations.rllib.opening import NEW_STACK, Source, open_source
from ckptstore.integrations.rllib.report import RestoreReport
from ckptstore.integrations.rllib.restore import _choose_policies, algorithm_class


def policy_from_checkpoint(ckpt_or_url: Source, policy_ids: Collection[str] | None = None) -> Any:
    """The policy in a policy's checkpoint, or a dict of those in an algorithm's, ready to act.

    From the old API stack RLlib's ``Policy``, from the new one its ``RLModule``. Only the policies in
    `policy_ids` are fetched. No environment is made. Raises CheckpointNotFound for unknown ids and
    UnreadableFormat for what the installed Ray can't build.
    """
    checkpoint = open_source(ckpt_or_url)
    source = checkpoint.rllib()
    wanted = _choose_policies(checkpoint.url, source, policy_ids)
    modules = source.kind in ("RLModule", "MultiRLModule", "LearnerGroup", "Learner")
    new = modules or source.version in NEW_STACK
    told = RestoreReport(checkpoint.url, source.ray_version, "new" if new else "old", policies=tuple(wanted))
    found = {}
    for policy_id in wanted:
        stored = source.policy(policy_id, False, False)
        found[policy_id] = _module(policy_id, stored, told) if new else _policy(policy_id, stored, told)
    return found[wanted[0]] if source.kind in ("Policy", "RLModule") else found


def _policy(policy_id: str, stored: Mapping[str, Any], told: RestoreReport) -> Any:
    from ray.rllib.algorithms.registry import get_policy_class

    state = {"algorithm_class": None, "config": stored["config"]}
    what = f"{told.source} policy {policy_id!r}"
    target = algorithm_class(state, {policy_id: stored}, what).get_default_config()
    target.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    for name, value in configs.translate(stored["config"], target, False).values.items():
        setattr(target, name, value)
    target.env = None
    name = str(stored["policy_class"]).rpartition(".")[2]
    made = get_policy_class(name)
    if made is None:
        raise UnreadableFormat(what, f"this Ray has no {name!r}", "Pass a config to from_checkpoint instead")
    policy = made(space(stored["observation_space"]), space(stored["action_space"]), target.to_dict())
    document = oldstack.policy_state(stored, told)
    oldstack.fits(policy.get_weights(), document["weights"], what)
    policy.set_state(document)
    return policy


def _module(policy_id: str, stored: Mapping[str, Any], told: RestoreReport) -> Any:
    what = f"{told.source} policy {policy_id!r}"
    target = algorithm_class({}, {policy_id: stored}, what).get_default_config()
    target.api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
    spec = target.get_default_rl_module_spec()
    spec.observation_space = space(stored["observation_space"])
    spec.action_space = space(stored["action_space"])
    spec.model_config = newstack.model_config(target, stored)
    spec.inference_only = bool(stored["extra"].get("inference_only"))
    module = spec.build()
    if hasattr(module, "make_target_networks") and not spec.inference_only:
        module.make_target_networks()  # which a learner would do
    ours = module.get_state()
    oldstack.fits(ours, stored["weights"], what, optional=newstack.CONSTANTS)
    module.set_state({**ours, **stored["weights"]})
    return module


def space(described: Mapping[str, Any] | None) -> Any:
    """The gymnasium space that a description in the model stands for."""
    import gymnasium.spaces as made

    if described is None:
        return None
    kind = described["space"]
    if kind == "box":
        low, high = (np.asarray(described[side], described["dtype"]) for side in ("low", "high"))
        return made.Box(low, high, tuple(described["shape"]), np.dtype(described["dtype"]))
    if kind == "discrete":
        return made.Discrete(int(described["n"]), start=int(described.get("start", 0)))
    raise UnreadableFormat("space", f"spaces of the kind {kind!r} can't be made", "Build the policy yourself")
