"""Build an algorithm of the installed Ray from a checkpoint of any release, or restore one that is built."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from ckptstore.checkpoint import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.format import names
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import connectors, newstack, oldstack
from ckptstore.integrations.rllib.code import Code
from ckptstore.integrations.rllib.report import RestoreReport, keep
from ckptstore.integrations.rllib.sources import CheckpointSource, open_source
from ckptstore.read.contents import Contents
from ckptstore.rllib_formats.versions import NEW_STACK

ApiStack = Literal["old", "new"]


def from_checkpoint(
    ckpt_or_url: CheckpointSource,
    config: Any = None,
    policy_ids: Collection[str] | None = None,
    policy_mapping_fn: Callable[..., str] | None = None,
    policies_to_train: Collection[str] | Callable[..., bool] | None = None,
    api_stack: ApiStack | None = None,
    trusted: bool = False,
    partial: bool = False,
) -> Any:
    """The algorithm in a checkpoint of any Ray since 2.1, running on the installed Ray.

    RLlib's own objects are never unpickled: the config is read as data and translated to the installed Ray,
    the algorithm is built, and weights, optimizers, counters and everything else are set in the env runners
    and the learner. What was lost is in ``report(algorithm)`` and logged once.

    `config` is a dict of attributes that override the checkpoint's, such as ``{"env": MyEnv}``, or a whole
    ``AlgorithmConfig`` to use instead. With `policy_ids` only those policies are restored; then a
    `policy_mapping_fn` that maps to them is needed, and `policies_to_train` says which of them learn.
    `api_stack` defaults to "old" for checkpoints up to 1.1 and to "new" for later ones; ``"new"`` converts an
    old one.

    With ``partial=True`` parts of a module that the installed Ray builds otherwise, such as SAC's critics,
    start anew, with their optimizers, and the report names them; what acts has to fit.

    A function or class that was pickled by value is used only with ``trusted=True``, which runs it, and
    only on the Python that wrote it; otherwise it has to be passed, and InvalidRequest says so. Raises
    CheckpointNotFound for unknown policies; UnreadableFormat for an algorithm that this Ray doesn't have, or
    for networks that don't fit; and what reading raises.
    """
    checkpoint, source = _open_algorithm(ckpt_or_url, "Use policy_from_checkpoint")
    wanted = choose_policies(checkpoint.url, source, policy_ids)
    state = _read_state(checkpoint, source)
    written = _stack_of(source)
    policies = {policy_id: source.policy(policy_id) for policy_id in wanted}
    policies |= newstack.read_learner_modules(source) if written == "new" else {}
    stack = api_stack or written
    report = _build_report(checkpoint, source, stack, written, wanted)
    if report.converted:
        policies = newstack.convert(state, policies, report)
    target = _build_config(state, policies, config, stack == "new", trusted, report)
    if not isinstance(config, Mapping) and config is not None:
        overrides: dict[str, Any] = {}
        built = _restrict_config(target, wanted, policy_ids, policy_mapping_fn, policies_to_train)
    else:
        overrides = {configs.find_attribute(target, name): value for name, value in (config or {}).items()}
        code = Code(checkpoint, trusted)
        own: dict[str, configs.Translation] = {}
        if "policies" not in overrides:
            own, dropped = configs.translate_single_policies(state["config"], wanted, target, stack == "new")
            report.dropped |= dropped
            report.renamed += [f"{name}: {line}" for name, item in own.items() for line in item.renamed]
        kinds = {} if stack == "new" else _find_policy_classes(code, policies, overrides)
        _set_policies(
            target, code, state, wanted, own, kinds, policy_mapping_fn, policies_to_train, overrides
        )
        _set_environment(target, code, state, overrides)
        if isinstance(overrides.get("model"), Mapping):  # as AlgorithmConfig.training() takes it
            overrides["model"] = {**target.model, **overrides["model"]}
        for name, value in overrides.items():
            setattr(target, name, value)
        report.dropped = {
            name: why for name, why in report.dropped.items() if name.removeprefix("config/") not in overrides
        }
        if "config/input_" in report.dropped:
            raise InvalidRequest(
                "input_",
                "it was trained on data of the machine that wrote it, which aren't read without trusted=True",
                _INPUT,
            )
        if stack == "new":
            if "_rl_module_spec" not in overrides:
                newstack.specify_modules(target, code, policies, overrides, report)
            connectors.set_connectors(target, code, state, overrides, report)
        if trusted:
            _use_code(target, code, state["config"], report)
        built = target
    algo = _build_checked(built, checkpoint.url)
    try:
        wrapped = any(str(policy["policy_class"]).endswith("Policy") for policy in policies.values())
        if stack == "new" and (report.converted or wrapped):
            _check_images(algo)
        _set(algo, source, state, policies, written, overrides, partial, report)
    except BaseException:
        algo.stop()
        raise
    keep(algo, report)
    return algo


def restore(algo: Any, ckpt: CheckpointSource, partial: bool = False) -> RestoreReport:
    """Set a built algorithm to the state in a checkpoint of any release, and report what became of it.

    Every policy of `algo` must be in the checkpoint; others in the checkpoint are left out and reported. The
    config of `algo` doesn't change. `partial` is as for `from_checkpoint`, and so are errors.
    """
    checkpoint, source = _open_algorithm(ckpt, "Name an algorithm's checkpoint")
    stack = "new" if algo.config.enable_rl_module_and_learner else "old"
    ids = newstack.module_ids(algo) if stack == "new" else oldstack.policy_ids(algo)
    written = _stack_of(source)
    beside = newstack.read_learner_modules(source) if written == "new" else {}
    wanted = choose_policies(checkpoint.url, source, [name for name in ids if name not in beside])
    report = _build_report(checkpoint, source, stack, written, wanted)
    for policy_id in sorted(set(source.policy_ids) - set(wanted)):
        report.dropped[f"{names.POLICIES}/{policy_id}"] = "this algorithm has no such policy"
    state = _read_state(checkpoint, source)
    policies = {policy_id: source.policy(policy_id) for policy_id in wanted} | beside
    if report.converted:
        policies = newstack.convert(state, policies, report)
    _set(algo, source, state, policies, written, (), partial, report)
    keep(algo, report)
    return report


def _open_algorithm(source: CheckpointSource, remedy: str) -> tuple[Checkpoint, Contents]:
    """The algorithm's checkpoint that `source` stands for; the next save has it as its parent."""
    checkpoint = open_source(source)
    contents = checkpoint.rllib()
    if contents.kind != "Algorithm":
        raise UnreadableFormat(checkpoint.url, f"it is of kind {contents.kind}, not Algorithm", remedy)
    checkpoint.resume()
    return checkpoint, contents


def _stack_of(source: Contents) -> ApiStack:
    return "new" if source.version in NEW_STACK else "old"


def _build_report(
    checkpoint: Checkpoint, source: Contents, stack: str, written: str, wanted: list[str]
) -> RestoreReport:
    converted = stack == "new" and written == "old"
    return RestoreReport(checkpoint.url, source.ray_version, stack, converted, tuple(wanted))


def _build_checked(config: Any, url: str) -> Any:
    """The algorithm of `config`; InvalidRequest where it needs what isn't here: packages, models, data, or an
    environment. UnreadableFormat where Ray fails at a network of its own.
    """
    check_models(config)
    _check_environment(config)
    try:
        with _name_tensorflow(config, url):
            return _build(config)
    except ImportError as error:
        raise InvalidRequest(
            url,
            f"Ray needs a package that isn't installed here: {error!s:.120}",
            'Install it; with TensorFlow\'s, api_stack="new" goes on in torch',
        ) from error
    except ValueError as error:
        if "No default encoder config" in str(error):
            what = "RLlib's networks of the new stack don't take observations of this space by themselves"
            flatten = "such as lambda env, spaces, device: FlattenObservations()"
            raise InvalidRequest(
                _CONNECTOR, what, f'Pass config={{"{_CONNECTOR}": ...}}, {flatten}'
            ) from error
        if config.input_ in configs.PLACES["input_"]:
            raise
        raise InvalidRequest("input_", f"Ray says: {error!s:.200}", _INPUT) from error
    except (TypeError, IndexError, KeyError, AttributeError) as error:
        if not _fails_at_network(error):
            raise
        raise UnreadableFormat(
            url,
            f"the installed Ray can't build its network: {type(error).__name__}: {error!s:.120}",
            "load(), weights() and migrate() of the checkpoint work without it",
        ) from error


def _fails_at_network(error: Exception) -> bool:
    """Whether Ray's own code or torch's raised it while Ray built a network: no class of the user's did."""
    passed = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    below = next((n for n, name in enumerate(passed) if name.startswith(_NETWORKS)), None)
    return below is not None and all(name.startswith(("ray.", "torch.")) for name in passed[below:])


@contextlib.contextmanager
def _name_tensorflow(config: Any, url: str) -> Iterator[None]:
    """InvalidRequest for what Ray's policies of TensorFlow need, and say only by an error of their own."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        framework, needed = str(config.framework_str), "tensorflow_probability"
        if framework not in ("tf", "tf2"):
            raise
        if isinstance(error, AssertionError) and find_spec(needed) is None:  # of squashed Gaussians
            raise InvalidRequest(
                url, f"Ray needs {needed}, which isn't installed here", "Install it"
            ) from error
        if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() not in ("1", "true"):
            raise InvalidRequest(
                url,
                f"Ray's policies of TensorFlow need Keras 2: {error!s:.120}",
                "Install tf_keras, and set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported",
            ) from error
        raise


_NETWORKS = ("ray.rllib.models.", "ray.rllib.core.models.")
_CONNECTOR = "env_to_module_connector"
_INPUT = 'Pass config={"input_": ...}, your data, or "sampler" to go without'


def _check_images(algo: Any) -> None:
    """Raise InvalidRequest where the old stack made numbers of images, and nothing does so now."""
    space: Any = getattr(getattr(algo.env_runner, "env", None), "single_observation_space", None)
    if len(getattr(space, "shape", None) or ()) != 3 or space.dtype.kind == "f":
        return
    if algo.config._env_to_module_connector is None:
        raise InvalidRequest(
            _CONNECTOR,
            f"the environment's images are {space.dtype}, which the old stack made float32",
            f'Pass config={{"{_CONNECTOR}": ...}}, a function that makes a connector for that',
        )


def check_models(config: Any) -> None:
    """Raise InvalidRequest for a model of one's own that isn't registered in this process."""
    from ray.rllib.models.catalog import ModelCatalog
    from ray.tune.registry import RLLIB_MODEL, _global_registry

    name = (config.model or {}).get("custom_model") if not config.enable_rl_module_and_learner else None
    if isinstance(name, str) and not _global_registry.contains(RLLIB_MODEL, name):
        raise InvalidRequest(
            f"model {name!r}",
            "the network is of a class of your own, which isn't registered here",
            f"Call {ModelCatalog.__name__}.register_custom_model({name!r}, ...) first",
        )


def _check_environment(config: Any) -> None:
    """Raise InvalidRequest for an environment that is named, and not registered in this process."""
    import gymnasium
    from ray.tune.registry import ENV_CREATOR, _global_registry

    env = config.env
    if not isinstance(env, str) or configs.may_import(env) or _global_registry.contains(ENV_CREATOR, env):
        return
    try:
        gymnasium.spec(env)
    except gymnasium.error.Error as error:
        raise InvalidRequest(
            "env",
            f"no environment is registered as {env!r:.80} in this process",
            f'Call ray.tune.register_env({env!r:.80}, ...) first, or pass config={{"env": ...}}',
        ) from error


def _build(config: Any) -> Any:
    """The algorithm of `config`, even where Ray fails in its own validation of an old replay buffer.

    Old-stack DQN turns the buffer's name into a class there, and then searches that class for a text.
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
    """Replace `validate` of a config that is valid already."""


def _set(
    algo: Any,
    source: Contents,
    state: Mapping[str, Any],
    policies: Mapping[str, Any],
    written: str,
    given: Collection[str],
    partial: bool,
    report: RestoreReport,
) -> None:
    if report.api_stack == written == "old":
        oldstack.load(algo, state, policies, given, report)
    elif report.api_stack == "new":
        learner = source.component("learner") if "learner" in source.components else {}
        newstack.load(algo, state, policies, learner, given, partial, report)
    else:
        raise UnreadableFormat(
            report.source,
            "it was written on the new API stack, and the algorithm is on the old one",
            "Leave out api_stack, or build the algorithm on the new one",
        )
    report.notes += [str(note) for note in source.notes()]


def _read_state(checkpoint: Checkpoint, source: Contents) -> dict[str, Any]:
    """The algorithm's state; without an iteration in it, the directory's name may have one."""
    state = dict(source.state())
    name = names.CheckpointName.parse(checkpoint.name)
    if state["iteration"] is None and name is not None:
        state["iteration"] = name.step
    return state


def choose_policies(url: str, source: Contents, policy_ids: Collection[str] | None) -> list[str]:
    """Ids of the policies to restore, sorted: all, or `policy_ids`. CheckpointNotFound for unknown ones."""
    known = source.policy_ids
    if policy_ids is None:
        return list(known)
    if isinstance(policy_ids, str):
        policy_ids = [policy_ids]
    unknown = sorted(set(policy_ids) - set(known))
    if unknown:
        raise names.refuse_unknown_policies(url, unknown, known)
    return [policy_id for policy_id in known if policy_id in set(policy_ids)]


def _build_config(
    state: Mapping[str, Any],
    policies: Mapping[str, Any],
    config: Any,
    new_stack: bool,
    trusted: bool,
    report: RestoreReport,
) -> Any:
    """A config of the installed Ray with the settings of the checkpoint's."""
    if config is not None and not isinstance(config, Mapping):
        return config.copy(copy_frozen=False)
    target = find_algorithm_class(state, policies, report.source).get_default_config()
    target.api_stack(enable_rl_module_and_learner=new_stack, enable_env_runner_and_connector_v2=new_stack)
    found = configs.translate(state["config"], target, new_stack, places=trusted)
    for name, value in found.values.items():
        if not (report.converted and name == "replay_buffer_config"):
            setattr(target, name, value)
    if report.converted:
        newstack.adapt(target, state)
    report.renamed += found.renamed
    report.dropped.update({f"config/{name}": why for name, why in found.dropped.items()})
    report.carried.append("config")
    return target


_ALGORITHMS = {"VTraceTorchPolicy": "IMPALA", "VTraceTFPolicy": "IMPALA"}
"""Algorithms of Ray 1.x whose policies had another name."""


def find_algorithm_class(state: Mapping[str, Any], policies: Mapping[str, Any], url: str) -> Any:
    """The installed Ray's class of the algorithm that wrote the checkpoint."""
    from ray.rllib.algorithms.registry import ALGORITHMS, ALGORITHMS_CLASS_TO_NAME

    name = (state.get("algorithm_class") or "").rpartition(".")[2]
    if not name:  # up to Ray 2.0, or a policy by itself: go by the policy's class
        classes = {str(policy["policy_class"]).rpartition(".")[2] for policy in policies.values()}
        classes = {_ALGORITHMS.get(item, item).removeprefix("Default") for item in classes}
        name = next((known for known in ALGORITHMS if any(item.startswith(known) for item in classes)), "")
    own = configs.resolve(Opaque(state.get("algorithm_class") or ""))
    if name not in ALGORITHMS_CLASS_TO_NAME and isinstance(own, type):
        return own  # Ray's, and not in its registry, as TQC
    if name not in ALGORITHMS_CLASS_TO_NAME:
        works = "load(), weights() and migrate() of the checkpoint work" if policies else "load() works"
        raise UnreadableFormat(
            url,
            f"this Ray has no algorithm {name!r}" if name else "it doesn't say which algorithm wrote it",
            f"{works} without it; from_checkpoint takes config=, "
            "the AlgorithmConfig of one with the same networks",
        )
    try:
        return ALGORITHMS[ALGORITHMS_CLASS_TO_NAME[name]]()[0]
    except ImportError as error:
        what = f"Ray's {name} needs a package that isn't installed here: {error!s:.120}"
        raise InvalidRequest(url, what, "Install it") from error


def _restrict_config(
    target: Any,
    wanted: list[str],
    policy_ids: Collection[str] | None,
    mapping: Callable[..., str] | None,
    trained: Collection[str] | Callable[..., bool] | None,
) -> Any:
    """The caller's own config, limited to the wanted policies, with the given mapping and training."""
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


def _use_code(target: Any, code: Code, config: Mapping[str, Any], report: RestoreReport) -> None:
    """Set the settings that are code in a checkpoint to be trusted, such as ``learner_class``."""
    for key in [key for key, why in report.dropped.items() if why.startswith(configs.IS_CODE)]:
        name = key.removeprefix("config/")
        if not isinstance(config.get(name), Opaque):
            continue
        try:
            setattr(target, name, code.build(name, config[name], f'Pass config={{"{name}": ...}}'))
        except InvalidRequest as error:
            report.dropped[key] = f"{configs.IS_CODE}: {error.why}"
        else:
            del report.dropped[key]


def _find_policy_classes(
    code: Code, policies: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The classes of policies of the old stack that aren't their algorithm's own, such as heuristics.

    Ray's are imported, others are built if they are trusted, or asked for.
    """
    from ray.rllib.algorithms.registry import get_policy_class

    found: dict[str, Any] = {}
    for policy_id, policy in policies.items():
        name = str(policy["policy_class"] or "")
        module, _, short = name.rpartition(".")
        if not module or module.startswith("ray.rllib.policy.") or "policies" in overrides:
            continue  # RLlib's own
        if module.startswith("ray.rllib.algorithms.") or get_policy_class(short) is not None:
            continue
        kind = configs.resolve(Opaque(name))
        if not isinstance(kind, type):
            remedy = f'Pass config={{"policies": {{{policy_id!r}: PolicySpec(policy_class=...), ...}}}}'
            what = f"policy {policy_id!r} of the class {name:.100}"
            kind = code.build(what, policy["extra"].get("class") or Opaque(name), remedy)
        found[policy_id] = kind
    return found


def _set_policies(
    target: Any,
    code: Code,
    state: Mapping[str, Any],
    wanted: list[str],
    own: Mapping[str, configs.Translation],
    kinds: Mapping[str, Any],
    mapping: Callable[..., str] | None,
    trained: Collection[str] | Callable[..., bool] | None,
    overrides: dict[str, Any],
) -> None:
    from ray.rllib.policy.policy import PolicySpec

    mapping = mapping or overrides.pop("policy_mapping_fn", None)
    if trained is None:
        trained = overrides.pop("policies_to_train", None)
    if wanted == [names.DEFAULT_POLICY] and not own and not kinds:
        return
    if mapping is None and configs.is_code(state["policy_mapping_fn"]):
        mapping = code.build("policy_mapping_fn", state["policy_mapping_fn"], "Pass policy_mapping_fn=")
    stored = state["policies_to_train"]
    if trained is None and isinstance(stored, Opaque):
        trained = code.build("policies_to_train", stored, "Pass policies_to_train=")
    elif trained is None and isinstance(stored, (list, tuple, set)):
        trained = [name for name in stored if name in wanted]
    values = {policy_id: item.values for policy_id, item in own.items()}
    target.multi_agent(
        policies={name: PolicySpec(policy_class=kinds.get(name), config=values.get(name)) for name in wanted}
    )
    if mapping is not None:
        target.multi_agent(policy_mapping_fn=mapping)
    target.policies_to_train = trained if trained is None or callable(trained) else list(trained)


def _set_environment(target: Any, code: Code, state: Mapping[str, Any], overrides: dict[str, Any]) -> None:
    if "env" in overrides:
        target.env = overrides.pop("env")
        return
    env = state["config"].get("env")
    if isinstance(env, str) and configs.may_import(env) and not code.trusted:
        raise InvalidRequest(
            "env",
            f"the checkpoint names {env!r:.80}, which isn't imported without trusted=True",
            'Pass config={"env": ...}',
        )
    target.env = None if env is None else code.build("env", env, 'Pass config={"env": ...}')
