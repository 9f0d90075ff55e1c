"""Build single policies and modules, without an algorithm or an environment around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import newstack, oldstack
from ckptstore.integrations.rllib.report import RestoreReport
from ckptstore.integrations.rllib.restore import check_models, choose_policies, find_algorithm_class
from ckptstore.integrations.rllib.sources import CheckpointSource, open_source
from ckptstore.rllib_formats.networks import new_stack
from ckptstore.rllib_formats.versions import NEW_STACK


def policy_from_checkpoint(ckpt_or_url: CheckpointSource, policy_ids: Collection[str] | None = None) -> Any:
    """The policy in a policy's checkpoint, or a dict of the policies in an algorithm's, ready to act.

    A policy is RLlib's ``Policy`` from the old API stack and its ``RLModule`` from the new one. Only those in
    `policy_ids` are fetched. No environment is made. Raises CheckpointNotFound for unknown ids and
    UnreadableFormat for a policy that the installed Ray can't build, or for what holds no policy.
    """
    checkpoint = open_source(ckpt_or_url)
    source = checkpoint.rllib()
    wanted = choose_policies(checkpoint.url, source, policy_ids)
    if not source.policy_ids:
        raise UnreadableFormat(
            checkpoint.url,
            f"it is of kind {source.kind or 'unknown'} and holds no policy",
            "Name the checkpoint of an algorithm or of a policy",
        )
    modules = source.kind in ("RLModule", "MultiRLModule", "LearnerGroup", "Learner")
    new = modules or source.version in NEW_STACK
    report = RestoreReport(
        checkpoint.url, source.ray_version, "new" if new else "old", policies=tuple(wanted)
    )
    found = {}
    for policy_id in wanted:
        stored = source.policy(policy_id)
        # From Ray 2.5 to 2.37 a policy of the old stack may wrap a module.
        build = _build_module if new or new_stack.is_one(stored) else _build_policy
        found[policy_id] = build(policy_id, stored, report)
    return found[wanted[0]] if source.kind in ("Policy", "RLModule") else found


def _build_policy(policy_id: str, stored: Mapping[str, Any], report: RestoreReport) -> Any:
    from ray.rllib.algorithms.registry import get_policy_class
    from ray.rllib.utils.policy import create_policy_for_framework

    state = {"algorithm_class": None, "config": stored["config"]}
    what = f"{report.source} policy {policy_id!r}"
    target = find_algorithm_class(state, {policy_id: stored}, what).get_default_config()
    target.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    for name, value in configs.translate(stored["config"], target, False).values.items():
        setattr(target, name, value)
    target.env = None
    check_models(target)
    name = str(stored["policy_class"]).rpartition(".")[2]
    made = get_policy_class(name)
    if made is None:
        raise UnreadableFormat(what, f"this Ray has no {name!r}", "Pass a config to from_checkpoint instead")
    scopes = {str(name).partition("/")[0] for name in stored["weights"]}
    static = str(target.framework_str) == "tf" and len(scopes) == 1  # its names begin with the id it had
    policy = create_policy_for_framework(
        scopes.pop() if static else policy_id,
        made,
        target.to_dict(),
        build_space(stored["observation_space"]),
        build_space(stored["action_space"]),
    )
    document = oldstack.build_policy_state(stored, report)
    oldstack.fit(policy, document, stored, what, report)
    policy.set_state(document)
    return policy


def _build_module(policy_id: str, stored: Mapping[str, Any], report: RestoreReport) -> Any:
    what = f"{report.source} policy {policy_id!r}"
    kind = newstack.find_module_class(stored, policy_id, None)
    target: Any
    if kind is not None:
        from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        target, spec = AlgorithmConfig(), RLModuleSpec(module_class=kind)
        catalog = configs.resolve(stored["extra"].get("catalog_class"))
        spec.catalog_class = catalog if isinstance(catalog, type) else None
    else:
        target = find_algorithm_class({}, {policy_id: stored}, what).get_default_config()
        target.api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
        spec = target.get_default_rl_module_spec()
    spec.observation_space = build_space(stored["observation_space"])
    spec.action_space = build_space(stored["action_space"])
    spec.model_config = newstack.build_model_config(target, stored)
    spec.inference_only = bool(stored["extra"].get("inference_only"))
    module = spec.build()
    if hasattr(module, "make_target_networks") and not spec.inference_only:
        module.make_target_networks()  # as a learner would
    ours = module.get_state()
    oldstack.check_weights(ours, stored["weights"], what, optional=newstack.CONSTANTS)
    module.set_state({**ours, **stored["weights"]})
    return module


def build_space(described: Mapping[str, Any] | None) -> Any:
    """The gymnasium space for a description in the model.

    A box that observations are flattened into has the space of the environment in ``original_space``, where
    RLlib's models look for it. Raises UnreadableFormat for a kind that isn't known.
    """
    import gymnasium.spaces as made

    if described is None:
        return None
    kind = str(described["space"]).replace("-", "_")
    if kind == "box":
        low, high = (np.asarray(described[side], described["dtype"]) for side in ("low", "high"))
        box = made.Box(low, high, tuple(described["shape"]), np.dtype(described["dtype"]))
        if described.get("original_space"):
            box.original_space = build_space(described["original_space"])
        return box
    if kind == "discrete":
        return made.Discrete(int(described["n"]), start=int(described.get("start", 0)))
    if kind == "multi_discrete":
        return made.MultiDiscrete(np.asarray(described["nvec"]))
    if kind == "multi_binary":
        return made.MultiBinary(described["n"])
    inner = described.get("spaces") or {}
    if kind == "tuple":
        return made.Tuple([build_space(item) for item in inner])
    if kind == "dict":
        items = inner.items() if isinstance(inner, Mapping) else inner
        return made.Dict({key: build_space(item) for key, item in items})
    raise UnreadableFormat(
        "space",
        f"spaces of the kind {kind!r:.40} can't be built",
        "Use from_checkpoint, with the environment",
    )
