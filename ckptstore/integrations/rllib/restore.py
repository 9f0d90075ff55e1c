"""Builds an algorithm of the installed Ray from a checkpoint of any release, and restores into built ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from ckptstore.checkpoint import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointNotFound, InvalidRequest, UnreadableFormat
from ckptstore.format.names import CheckpointName
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import newstack, oldstack
from ckptstore.integrations.rllib.code import Code
from ckptstore.integrations.rllib.opening import NEW_STACK, Source, open_source
from ckptstore.integrations.rllib.report import RestoreReport, keep
from ckptstore.read.contents import Contents

ApiStack = Literal["old", "new"]

_DEFAULT_POLICY = "default_policy"


def from_checkpoint(
    ckpt_or_url: Source,
    config: Any = None,
    policy_ids: Collection[str] | None = None,
    policy_mapping_fn: Callable[..., str] | None = None,
    policies_to_train: Collection[str] | Callable[..., bool] | None = None,
    api_stack: ApiStack | None = None,
    trusted: bool = False,
) -> Any:
    """The algorithm that a checkpoint of any Ray since 2.1 holds, running on the installed Ray.

    RLlib's own objects are never unpickled: the config is read as data and rebuilt in the installed Ray's
    words, the algorithm is built, and its weights, optimizers, counters and all else are set in the env
    runners and the learner. What could not be carried is in ``report(algorithm)`` and logged once.

    `config` is a dict of attributes that override the checkpoint's, such as ``{"env": MyEnv}``, or a whole
    ``AlgorithmConfig`` to use instead. `policy_ids` takes some of the policies only; then a
    `policy_mapping_fn` that knows those is needed, and `policies_to_train` says which of them learn.
    `api_stack` is "old" for checkpoints up to 1.1 and "new" for later ones; ``"new"`` takes an old one over.

    A function or class that was pickled by value is used only with ``trusted=True``, which runs it, and
    only on the Python that wrote it; else it has to be passed and InvalidRequest says so. Raises
    CheckpointNotFound for unknown policies; UnreadableFormat for an algorithm that this Ray doesn't have or
    networks that don't fit; and what reading raises.
    """
    checkpoint = open_source(ckpt_or_url)
    source = checkpoint.rllib()
    if source.kind != "Algorithm":
        raise UnreadableFormat(checkpoint.url, f"it holds a {source.kind}", "Use policy_from_checkpoint")
    checkpoint.resume()
    wanted = _choose_policies(checkpoint.url, source, policy_ids)
    state = _state(checkpoint, source)
    policies = {policy_id: source.policy(policy_id, False, False) for policy_id in wanted}
    written = "new" if source.version in NEW_STACK else "old"
    stack = api_stack or written
    told = _build_report(checkpoint, source, stack, written, wanted)
    if told.converted:
        policies = newstack.convert(state, policies, told)
    target = _target(state, policies, config, stack == "new", told)
    if not isinstance(config, Mapping) and config is not None:
        built = _with_choice(target, wanted, policy_ids, policy_mapping_fn, policies_to_train)
    else:
        overrides = dict(config or {})
        code = Code(checkpoint, trusted)
        own: dict[str, configs.Translation] = {}
        if "policies" not in overrides:
            own, dropped = configs.single_policies(state["config"], wanted, target, stack == "new")
            told.dropped |= dropped
            told.renamed += [f"{name}: {line}" for name, item in own.items() for line in item.renamed]
        _policies(target, code, state, wanted, own, policy_mapping_fn, policies_to_train, overrides)
        _environment(target, code, state, overrides)
        if stack == "new":
            newstack.specify_modules(target, policies, told)
        for name, value in overrides.items():
            if not hasattr(target, name):
                raise InvalidRequest("config", f"this Ray's config has no {name!r}", "Check its spelling")
            setattr(target, name, value)
        built = target
    algo = _build(built)
    try:
        _set(algo, source, state, policies, written, told)
    except BaseException:
        algo.stop()
        raise
    keep(algo, told)
    return algo


def restore(algo: Any, ckpt: Source) -> RestoreReport:
    """Set a built algorithm to what a checkpoint of any release holds; returns what became of it.

    Every policy of `algo` must be in the checkpoint; others that are there stay out and are reported. The
    config of `algo` stays as it is. Raises as `from_checkpoint` does.
    """
    checkpoint = open_source(ckpt)
    source = checkpoint.rllib()
    if source.kind != "Algorithm":
        raise UnreadableFormat(checkpoint.url, f"it holds a {source.kind}", "Name an algorithm's checkpoint")
    checkpoint.resume()
    stack = "new" if algo.config.enable_rl_module_and_learner else "old"
    ids = newstack.module_ids(algo) if stack == "new" else oldstack.policy_ids(algo)
    wanted = _choose_policies(checkpoint.url, source, ids)
    written = "new" if source.version in NEW_STACK else "old"
    told = _build_report(checkpoint, source, stack, written, wanted)
    for policy_id in sorted(set(source.policy_ids) - set(wanted)):
        told.dropped[f"policies/{policy_id}"] = "this algorithm has no such policy"
    state = _state(checkpoint, source)
    policies = {policy_id: source.policy(policy_id, False, False) for policy_id in wanted}
    if told.converted:
        policies = newstack.convert(state, policies, told)
    _set(algo, source, state, policies, written, told)
    keep(algo, told)
    return told


def _build_report(
    checkpoint: Checkpoint, source: Contents, stack: str, written: str, wanted: list[str]
) -> RestoreReport:
    converted = stack == "new" and written == "old"
    return RestoreReport(checkpoint.url, source.ray_version, stack, converted, tuple(wanted))


def _build(config: Any) -> Any:
    """The algorithm of `config`, also where Ray trips over its own validation of an old replay buffer.

    Old-stack DQN turns the buffer's name into a class there, and then looks for a text in that class.
    """
    build = config.build_algo if hasattr(config, "build_algo") else config.build
    if config.enable_rl_module_and_learner or not isinstance(
        getattr(config, "replay_buffer_config", None), dict
    ):
        return build()
    config.validate()
    kind = config.replay_buffer_config.get("type")
    if not isinstance(kind, type):
        return build()
    config.replay_buffer_config["type"] = f"{kind.__module__}.{kind.__qualname__}"
    config.validate = _skip_validation
    algo = build()
    vars(algo.config).pop("validate", None)
    return algo


def _skip_validation() -> None:
    """In the place of the validation of a config that was validated."""


def _set(
    algo: Any,
    source: Contents,
    state: Mapping[str, Any],
    policies: Mapping[str, Any],
    written: str,
    told: RestoreReport,
) -> None:
    if told.api_stack == written == "old":
        oldstack.load(algo, state, policies, told)
    elif told.api_stack == "new":
        learner = source.component("learner") if "learner" in source.components else {}
        newstack.load(algo, state, policies, learner, told)
    else:
        raise UnreadableFormat(
            told.source,
            "it was written on the new API stack, and the algorithm is on the old one",
            "Leave out api_stack, or build the algorithm on the new one",
        )
    told.notes += [str(note) for note in source.notes()]


def _state(checkpoint: Checkpoint, source: Contents) -> dict[str, Any]:
    """The algorithm's state. Where it doesn't tell the iteration, the name of the directory may."""
    state = dict(source.state(False, False))
    name = CheckpointName.parse(checkpoint.name)
    if state["iteration"] is None and name is not None:
        state["iteration"] = name.step
    return state


def _choose_policies(url: str, source: Contents, policy_ids: Collection[str] | None) -> list[str]:
    known = source.policy_ids
    if policy_ids is None:
        return list(known)
    if isinstance(policy_ids, str):
        policy_ids = [policy_ids]
    unknown = sorted(set(policy_ids) - set(known))
    if unknown:
        raise CheckpointNotFound(
            url, f"it holds no policy {', '.join(map(repr, unknown))}", f"It holds: {', '.join(known)}"
        )
    return [policy_id for policy_id in known if policy_id in set(policy_ids)]


def _target(
    state: Mapping[str, Any], policies: Mapping[str, Any], config: Any, new_stack: bool, told: RestoreReport
) -> Any:
    """A config of the installed Ray with what the checkpoint's says."""
    if config is not None and not isinstance(config, Mapping):
        return config.copy(copy_frozen=False)
    target = algorithm_class(state, policies, told.source).get_default_config()
    target.api_stack(enable_rl_module_and_learner=new_stack, enable_env_runner_and_connector_v2=new_stack)
    found = configs.translate(state["config"], target, new_stack)
    for name, value in found.values.items():
        if not (told.converted and name == "replay_buffer_config"):
            setattr(target, name, value)
    if told.converted:
        newstack.adapt(target, state)
    told.renamed += found.renamed
    told.dropped.update({f"config/{name}": why for name, why in found.dropped.items()})
    told.carried.append("config")
    return target


def algorithm_class(state: Mapping[str, Any], policies: Mapping[str, Any], url: str) -> Any:
    """The installed Ray's class for the algorithm that wrote the checkpoint."""
    from ray.rllib.algorithms.registry import ALGORITHMS, ALGORITHMS_CLASS_TO_NAME

    name = (state.get("algorithm_class") or "").rpartition(".")[2]
    if not name:  # up to Ray 2.0, or a policy by itself: its class tells
        names = {str(policy["policy_class"]).rpartition(".")[2] for policy in policies.values()}
        names = {item.removeprefix("Default") for item in names}
        name = next((known for known in ALGORITHMS if any(item.startswith(known) for item in names)), "")
    if name not in ALGORITHMS_CLASS_TO_NAME:
        raise UnreadableFormat(
            url,
            f"this Ray has no algorithm {name!r}" if name else "nothing tells its algorithm",
            "Pass config=, an AlgorithmConfig of the algorithm's own",
        )
    return ALGORITHMS[ALGORITHMS_CLASS_TO_NAME[name]]()[0]


def _with_choice(
    target: Any,
    wanted: list[str],
    policy_ids: Collection[str] | None,
    mapping: Callable[..., str] | None,
    trained: Collection[str] | Callable[..., bool] | None,
) -> Any:
    """The caller's own config, with what was asked for beside it."""
    if policy_ids is not None:
        policies = target.policies
        if isinstance(policies, Mapping):
            target.policies = {name: spec for name, spec in policies.items() if name in wanted}
        else:
            target.policies = set(wanted)
    if mapping is not None:
        target.multi_agent(policy_mapping_fn=mapping)
    if trained is not None:
        target.policies_to_train = trained if callable(trained) else list(trained)
    return target


def _policies(
    target: Any,
    code: Code,
    state: Mapping[str, Any],
    wanted: list[str],
    own: Mapping[str, configs.Translation],
    mapping: Callable[..., str] | None,
    trained: Collection[str] | Callable[..., bool] | None,
    overrides: dict[str, Any],
) -> None:
    from ray.rllib.policy.policy import PolicySpec

    mapping = mapping or overrides.pop("policy_mapping_fn", None)
    if trained is None:
        trained = overrides.pop("policies_to_train", None)
    if wanted == [_DEFAULT_POLICY] and not own:
        return
    if mapping is None and configs.is_code(state["policy_mapping_fn"]):
        mapping = code.real("policy_mapping_fn", state["policy_mapping_fn"], "Pass policy_mapping_fn=")
    stored = state["policies_to_train"]
    if trained is None and isinstance(stored, Opaque):
        trained = code.real("policies_to_train", stored, "Pass policies_to_train=")
    elif trained is None and isinstance(stored, (list, tuple, set)):
        trained = [name for name in stored if name in wanted]
    values = {policy_id: item.values for policy_id, item in own.items()}
    target.multi_agent(policies={name: PolicySpec(config=values.get(name)) for name in wanted})
    if mapping is not None:
        target.multi_agent(policy_mapping_fn=mapping)
    target.policies_to_train = trained if trained is None or callable(trained) else list(trained)


def _environment(target: Any, code: Code, state: Mapping[str, Any], overrides: dict[str, Any]) -> None:
    if "env" in overrides:
        target.env = overrides.pop("env")
        return
    env = state["config"].get("env")
    if isinstance(env, str) and configs.imports(env) and not code.trusted:
        raise InvalidRequest(
            "env", f"the checkpoint names {env!r:.80}, which isn't imported", 'Pass config={"env": ...}'
        )
    target.env = None if env is None else code.real("env", env, 'Pass config={"env": ...}')
