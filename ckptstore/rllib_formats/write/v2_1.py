"""Write the model as version 2.1: the tree of components of the new API stack.

Ray since 2.41 restores modules, optimizers and counters from it. Classes are named, not imported (see
`constructors`). What the new stack can't hold is set aside in the algorithm's state under `ASIDE`, by its
path, in the form that `inert` describes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.format import names
from ckptstore.format.layout import Item, literal, pickle_item
from ckptstore.format.strictjson import dumps
from ckptstore.rllib_formats.networks import Module, families, new_stack_module
from ckptstore.rllib_formats.networks.families import FAMILIES
from ckptstore.rllib_formats.paths import CTOR
from ckptstore.rllib_formats.write import constructors
from ckptstore.rllib_formats.write.constructors import Call, Named
from ckptstore.rllib_formats.write.inert import describe, holds_record
from ckptstore.rllib_formats.write.report import LaidOut, PolicyReport, Reporter

VERSION = "2.1"
ASIDE = "ckptstore"
_MODULES = "learner_group/learner/rl_module"
_MULTI = Named("ray.rllib.core.rl_module.multi_rl_module", "MultiRLModule")
_SPEC = Named("ray.rllib.core.rl_module.rl_module", "RLModuleSpec")
_BESIDE = (CTOR, "metadata.json", "module_state.pkl", "module_state.msgpack")
_TARGET = re.compile("_?(?:target|old)_")
_STEPS = "num_env_steps_sampled_lifetime"
_FORMER_STEPS = ("num_env_steps_sampled", "num_steps_sampled")


def lay_out(kind: str, model: Mapping[str, Any]) -> LaidOut:
    """The files of `model` and a report about each policy.

    With `kind` "Policy" or "RLModule" the files of one module by itself, with "MultiRLModule" those of
    several in one, else those of an algorithm. Raises UnreadableFormat for a network that isn't recognised
    and InvalidRequest for a value that isn't plain data.
    """
    policies = model["policies"]
    _check(policies)
    modules = {
        policy_id: new_stack_module(policy, f"{names.POLICIES}/{policy_id}")
        for policy_id, policy in policies.items()
    }
    aside: dict[str, Any] = {}
    alone = kind in ("Policy", "RLModule")
    with_learner = not alone and kind != "MultiRLModule"
    reports = {
        policy_id: _report(policy_id, policies[policy_id], module, with_learner, aside)
        for policy_id, module in modules.items()
    }
    notes = [
        note
        for policy_id, module in modules.items()
        for note in _notes(policy_id, module, policies[policy_id])
    ]
    if alone:
        [module] = modules.values()
        return LaidOut("RLModule", _module("", module), reports, PolicyReport(), tuple(notes))
    if kind == "MultiRLModule":
        return LaidOut("MultiRLModule", _multi("", modules), reports, PolicyReport(), tuple(notes))
    items, report = _algorithm(model, modules, aside, notes)
    return LaidOut("Algorithm", items, reports, report, tuple(notes))


def _check(policy_ids: Iterable[str]) -> None:
    """Refuse ids that can't be directories beside the files of the MultiRLModule."""
    for policy_id in names.check_policy_ids(policy_ids):
        if policy_id in _BESIDE:
            raise InvalidRequest(
                f"policy id {policy_id!r}",
                "RLlib has a file of that name beside the modules",
                "Rename it in a step of your own",
            )


def _algorithm(
    model: Mapping[str, Any], modules: Mapping[str, Module], aside: dict[str, Any], notes: list[str]
) -> tuple[list[Item], PolicyReport]:
    state, reporter = dict(model["state"]), Reporter()
    algorithm, learner = _find_trainer(state.get("algorithm_class"), model["policies"], modules)
    if state.get("algorithm_class") not in (None, algorithm):
        reporter.renamed.append(f"algorithm_class {state['algorithm_class']} -> {algorithm}")
    document: dict[str, Any] = {}
    if isinstance(state.get("iteration"), int):
        document["training_iteration"] = state["iteration"]
        reporter.carried.append("iteration")
    old = model["components"].get("learner")
    old = old if isinstance(old, Mapping) else {}
    trained = state.get("policies_to_train")
    learned = {
        "should_module_be_updated": list(trained) if isinstance(trained, (list, tuple)) else None,
        "weights_seq_no": int(old.get("weights_seq_no") or 1),
        "optimizer": {
            f"{policy_id}_{name}": {
                "module_id": policy_id,
                "state": describe(item, f"optimizer/{policy_id}"),
            }
            for policy_id, module in modules.items()
            for name, item in module.optimizer.items()
        },
    }
    counted = [state["counters"].get(name) for name in (_STEPS, *_FORMER_STEPS)]
    steps = next((value for value in counted if value is not None), None)
    runner = {_STEPS: int(steps)} if isinstance(steps, (int, float)) else {}
    if any(_filters(state)):
        notes.append("filters: observations were normalised; on the new stack a connector of yours does that")
    for field in ("config", "counters", "policy_mapping_fn", "filters", "metrics", "last_result", "extra"):
        _put(aside, reporter, field, state.get(field))
    _put(aside, reporter, "replay_buffers", state.get("replay_buffers"))
    if not isinstance(trained, (list, tuple)):
        _put(aside, reporter, "policies_to_train", trained)
    for name, value in model["components"].items():
        if name not in ("learner", "env_runner"):
            _put(aside, reporter, f"{names.COMPONENTS}/{name}", value)
    if aside:
        document[ASIDE] = {"aside": aside}
    info = {"class_and_ctor_args_file": CTOR, "state_file": "algorithm_state", "checkpoint_version": VERSION}
    group = "ray.rllib.core.learner.learner_group.LearnerGroup"
    items = [
        literal(names.RLLIB_JSON, (dumps(info) + "\n").encode("ascii")),
        literal(CTOR, _constructor(Named.parse(algorithm), ({},))),
        pickle_item(names.STATE, document),
        *_component("learner_group/", Named.parse(group), {}),
        *_component("learner_group/learner/", Named.parse(learner), learned),
        *_multi(f"{_MODULES}/", modules),
        *_runner(runner, state.get("connectors") or {}, len(modules) > 1),
    ]
    reporter.carried += ["connectors"] if state.get("connectors") else []
    return items, reporter.report()


def _find_trainer(
    class_name: str | None, policies: Mapping[str, Any], modules: Mapping[str, Module]
) -> tuple[str, str]:
    """The algorithm and the Learner that go on: the class's own or a policy's, if they have its module."""
    trained = [policy_id for policy_id, module in modules.items() if module.network != "none"]
    candidates = [families.of_algorithm(class_name)]
    for policy_id in trained[:1]:
        found = families.of_policy(str(policies[policy_id].get("policy_class")))
        candidates.append(found[0] if found else None)
    wanted = {modules[policy_id].class_name for policy_id in trained[:1]}
    for name in [*filter(None, candidates), *FAMILIES]:
        family = FAMILIES[name]
        if family.algorithm and family.learner and wanted <= {family.module}:
            return family.algorithm, family.learner
    raise AssertionError(wanted)


def _component(prefix: str, what: Named, state: dict[str, Any], name: str = "state") -> list[Item]:
    return [
        literal(f"{prefix}metadata.json", _metadata(name)),
        literal(prefix + CTOR, _constructor(what, ())),
        pickle_item(f"{prefix}{name}.pkl", state),
    ]


def _runner(state: dict[str, Any], connectors: Mapping[str, Any], several: bool) -> list[Item]:
    kind = "multi" if several else "single"
    what = Named(f"ray.rllib.env.{kind}_agent_env_runner", f"{kind.capitalize()}AgentEnvRunner")
    items = _component("env_runner/", what, state)
    for path, value in connectors.items():
        file = names.relative_path(f"env_runner/{path}/state.pkl", "connectors")
        items.append(pickle_item(file, describe(value, f"connectors/{path}")))
    return items


def _multi(prefix: str, modules: Mapping[str, Module]) -> list[Item]:
    specs = {policy_id: _spec(policy_id, module) for policy_id, module in modules.items()}
    kwargs = {
        "observation_space": None,
        "action_space": None,
        "inference_only": all(module.inference_only for module in modules.values()),
        "learner_only": False,
        "model_config": None,
        "rl_module_specs": specs,
    }
    items = [
        literal(f"{prefix}metadata.json", _metadata("module_state")),
        literal(prefix + CTOR, _constructor(_MULTI, (), kwargs)),
        pickle_item(f"{prefix}module_state.pkl", {}),
    ]
    for policy_id, module in modules.items():
        items += _module(f"{prefix}{policy_id}/", module)
    return items


def _module(prefix: str, module: Module) -> list[Item]:
    kwargs = _arguments(prefix, module)
    return [
        literal(f"{prefix}metadata.json", _metadata("module_state")),
        literal(prefix + CTOR, _constructor(Named.parse(module.class_name), (), kwargs)),
        pickle_item(f"{prefix}module_state.pkl", module.weights),
    ]


def _arguments(prefix: str, module: Module) -> dict[str, Any]:
    return {
        "observation_space": constructors.space(module.observation_space, f"{prefix}observation_space"),
        "action_space": constructors.space(module.action_space, f"{prefix}action_space"),
        "inference_only": module.inference_only,
        "learner_only": False,
        "model_config": module.model_config,
        "catalog_class": Named.parse(module.catalog_class) if module.catalog_class else None,
    }


def _spec(policy_id: str, module: Module) -> Call:
    return Call(_SPEC, (Named.parse(module.class_name), *_arguments(f"{policy_id}/", module).values()))


def _constructor(what: Named, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> bytes:
    return constructors.dumps({"class": what, "ctor_args_and_kwargs": (args, kwargs or {})}, CTOR)


def _metadata(state: str) -> bytes:
    info = {"class_and_ctor_args_file": CTOR, "state_file": state, "checkpoint_version": VERSION}
    return (dumps(info) + "\n").encode("ascii")


def _report(
    policy_id: str, policy: Mapping[str, Any], module: Module, with_learner: bool, aside: dict[str, Any]
) -> PolicyReport:
    reporter = Reporter()
    reporter.renamed += module.renamed
    reporter.dropped += module.dropped
    reporter.carried += ["observation_space", "action_space", *([] if module.renamed else ["weights"])]
    if policy.get("policy_class") != module.class_name:
        reporter.renamed.append(f"policy_class {policy.get('policy_class')} -> {module.class_name}")
    else:
        reporter.carried.append("policy_class")
    stored = policy.get("optimizer")
    if isinstance(stored, Mapping) and stored:
        if not with_learner:
            reporter.dropped.append("optimizer: a module by itself has none")
        elif module.optimizer.keys() == stored.keys():
            reporter.carried.append("optimizer")
        elif module.optimizer:
            reporter.renamed.append(f"optimizer/{', '.join(stored)} -> {', '.join(module.optimizer)}")
        else:
            reporter.dropped.append("optimizer: it isn't one of torch over the parameters of this module")
    gone = {"weights", "optimizer", "policy_class", "observation_space", "action_space"}
    for field, value in policy.items():
        if field in gone:
            continue
        if with_learner:
            _put(aside, reporter, field, value, f"{names.POLICIES}/{policy_id}/{field}")
        elif not _empty(value):
            reporter.dropped.append(f"{field}: a module by itself has nowhere to keep it")
    return reporter.report()


def _put(aside: dict[str, Any], reporter: Reporter, field: str, value: Any, path: str | None = None) -> None:
    """Set `value` aside and report it, unless it is empty."""
    if _empty(value):
        return
    path = path or field
    aside[path] = describe(value, path)
    if holds_record(aside[path]):
        reporter.opaque.append(field)
    else:
        reporter.renamed.append(f"{field} -> {ASIDE}/aside")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (dict, list, tuple)) and not value)


def _notes(policy_id: str, module: Module, policy: Mapping[str, Any]) -> list[str]:
    notes, where = [], f"{names.POLICIES}/{policy_id}"
    if any(map(_TARGET.match, module.weights)) and not any(map(_TARGET.match, policy["weights"])):
        notes.append(f"{where}: target networks, which weren't stored, equal the networks that they follow")
    if module.inference_only and any(line.startswith("weights/q") for line in module.dropped):
        notes.append(f"{where}: a module for inference; training goes on with Q networks that start anew")
    return notes


def _filters(state: Mapping[str, Any]) -> list[Any]:
    found = state.get("filters") or {}
    return [item for item in found.values() if isinstance(item, Mapping) and item.get("filter") != "NoFilter"]
