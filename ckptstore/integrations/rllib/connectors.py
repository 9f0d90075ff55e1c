"""Connectors of the new API stack: which an algorithm is built with, and their states in every env runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckptstore.codec import npy
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.errors import InvalidRequest
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib.code import Code
from ckptstore.integrations.rllib.oldstack import set_stat
from ckptstore.integrations.rllib.report import RestoreReport
from ckptstore.rllib_formats.pipelines import SLOTS

_OWN = "ray.rllib.connectors."
_ALGORITHMS = "ray.rllib.algorithms."
_FILTER = f"{_OWN}env_to_module.mean_std_filter.MeanStdFilter"
_SPACES = ("input_observation_space", "input_action_space")


def set_connectors(
    target: Any, code: Code, state: Mapping[str, Any], given: Mapping[str, Any], report: RestoreReport
) -> None:
    """Set in the config `target` the functions that make the pipelines' own connectors.

    Those in `given`, the caller's, are left alone. The checkpoint's function is used if it is trusted.
    Otherwise connectors of RLlib's own classes are built from what the checkpoint says of them, and
    InvalidRequest asks for all others by name: without them a policy would get other inputs.
    """
    pipelines = state["extra"].get("pipelines") or {}
    for slot in SLOTS:
        attribute = f"_{slot}"
        stored, items = state["config"].get(attribute), pipelines.get(slot)
        if attribute in given or not hasattr(target, attribute):
            report.dropped.pop(f"config/{attribute}", None)
            continue
        if not items and not configs.is_code(stored):
            continue
        remedy = f'Pass config={{"{slot}": ...}}, a function that makes what it was trained with'
        refusal = None
        if code.trusted and configs.is_code(stored):
            try:
                setattr(target, attribute, code.build(slot, stored, remedy))
                report.dropped.pop(f"config/{attribute}", None)
                continue
            except InvalidRequest as error:
                refusal = error
        if items == []:
            continue  # it made none
        if items and stored is None and all(str(item["class"]).startswith(_ALGORITHMS) for item in items):
            continue  # the algorithm's own config puts them there, and `build_states` looks whether it did
        built = [_build_connector(item, slot, state) for item in items or ()]
        if built and all(built):
            setattr(target, attribute, _make_function([item for item in built if item]))
            report.dropped.pop(f"config/{attribute}", None)
            continue
        if refusal is not None:
            raise refusal
        named = ", ".join(str(item["class"]) for item in items or ()) or "connectors that no file names"
        raise InvalidRequest(
            slot, f"observations and actions went through {named}", f"{remedy}, or trusted=True"
        )


def _build_connector(
    item: Mapping[str, Any], slot: str, state: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """RLlib's own class and its arguments; None for other classes, and for arguments that aren't plain."""
    name, kwargs = str(item["class"]), item.get("kwargs")
    kind = configs.resolve(Opaque(name)) if name.startswith(_OWN) else None
    if not isinstance(kind, type):
        return None
    if kwargs is None:
        own = state["connectors"].get(f"{slot}/{name.rpartition('.')[2]}")
        return (kind, _read_filter_arguments(own)) if name == _FILTER and own else None
    if not all(isinstance(value, Mapping) and "space" in value for value in item.get("args") or ()):
        return None
    found = configs.resolve({key: value for key, value in kwargs.items() if key not in _SPACES})
    return None if found is configs.UNKNOWN or _holds_space(found) else (kind, found)


def _holds_space(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("space"), str) or any(map(_holds_space, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_space, value))


def _read_filter_arguments(own: Mapping[Any, Any]) -> dict[str, Any]:
    """The arguments of a MeanStdFilter, by its state: up to Ray 2.43 nothing else says them."""
    first = next(iter(own.values()))
    kept = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
    return {"multi_agent": None not in own, **{key: first[key] for key in kept}}


def _make_function(built: list[tuple[Any, dict[str, Any]]]) -> Callable[..., list[Any]]:
    # A function inside a function is pickled with its code: what RLlib saves later opens without ckptstore.
    def make_connectors(env: Any = None, spaces: Any = None, device: Any = None) -> list[Any]:
        return [kind(**arguments) for kind, arguments in built]

    return make_connectors


def build_states(algo: Any, state: Mapping[str, Any], report: RestoreReport) -> dict[str, Any]:
    """The states of the pipelines, for ``set_state`` of an env runner of `algo`, which isn't changed.

    InvalidRequest for a state that no connector of `algo` would receive.
    """
    document: dict[str, Any] = {}
    for path, piece in state["connectors"].items():
        if not piece:
            continue
        slot, *names = path.split("/")
        connectors = _pipeline(algo, slot)
        inner = document.setdefault(slot, {})
        for name in names:
            connectors = [
                each for item in connectors for each in _inside(item) if type(each).__name__ == name
            ]
            inner = inner.setdefault(name, {})
        if not connectors:
            raise InvalidRequest(
                f"connector {'/'.join(names)}",
                f"{report.source} has its state, and the algorithm has no such connector",
                f'Pass config={{"{slot}": ...}}, or build the algorithm with {slot}=',
            )
        inner.update(_update_filters(piece) if names[-1:] == ["MeanStdFilter"] else piece)
    _check_own(algo, state, report)
    return {slot: found for slot, found in document.items() if found}


def _check_own(algo: Any, state: Mapping[str, Any], report: RestoreReport) -> None:
    """InvalidRequest unless `algo` has what the algorithm that was saved put in by itself."""
    for slot, items in (state["extra"].get("pipelines") or {}).items():
        if getattr(algo.config, f"_{slot}", None) is not None:
            continue
        names = {str(item["class"]) for item in items or () if str(item["class"]).startswith(_ALGORITHMS)}
        live = {type(item).__name__ for each in _pipeline(algo, slot) for item in _inside(each)}
        missing = sorted(name for name in names if name.rpartition(".")[2] not in live)
        if missing:
            raise InvalidRequest(
                slot,
                f"in {report.source} observations and actions went through {', '.join(missing)}, "
                "which this Ray's algorithm doesn't put there",
                f'Pass config={{"{slot}": ...}}, a function that makes what it was trained with',
            )


def _pipeline(algo: Any, slot: str) -> list[Any]:
    """The pipeline, in a list, of the local env runner, or of the algorithm that has none."""
    runner = getattr(algo, "env_runner", None)
    short = slot.removesuffix("_connector")
    found = getattr(runner, f"_{short}", None) if runner is not None else getattr(algo, slot, None)
    return [] if found is None else [found]


def _inside(connector: Any) -> Iterator[Any]:
    yield from getattr(connector, "connectors", ())


def _update_filters(piece: Mapping[Any, Any]) -> dict[Any, Any]:
    """The state of a MeanStdFilter as the installed Ray writes it: up to 2.40 the sums had other names."""
    from ray.rllib.utils.filter import RunningStat

    made, meter = {}, Meter(DEFAULT, 0)
    for agent, own in piece.items():
        stats = []
        for item in own["running_stats"]:
            stat = RunningStat(())
            set_stat(
                stat,
                {
                    key: npy.npy_base64(value, meter) if isinstance(value, (str, bytes)) else value
                    for key, value in item.items()
                },
            )
            stats.append(stat.to_state())
        made[agent] = {**own, "running_stats": stats}
    return made


def set_everywhere(algo: Any, document: Mapping[str, Any]) -> None:
    """Set `document` in the local and the remote env runners, for training and for evaluation."""
    for group in (algo.env_runner_group, algo.eval_env_runner_group):
        if group is not None:
            group.foreach_env_runner(lambda runner: runner.set_state(document))
    for slot in SLOTS:
        pipeline = getattr(algo, slot, None)
        if pipeline is not None and slot in document:
            pipeline.set_state(document[slot])


def set_schedules(algo: Any, policy_ids: list[str], steps: int) -> None:
    """Set what follows the config in the learners to its value after `steps`, as their next update would.

    These are rates of optimizers and coefficients of losses. RLlib's own restoring leaves the rate as it was
    saved, whatever the config says, and begins the coefficients anew, until that update is over.
    """

    def update(learner: Any) -> None:
        from ray.rllib.utils.schedules.scheduler import Scheduler

        for optimizer, schedule in learner._optimizer_lr_schedules.items():
            learner._set_optimizer_lr(optimizer, lr=float(schedule.update(timestep=steps)))
        for name, found in list(vars(learner).items()):
            if name.endswith("_schedulers_per_module"):
                for policy_id in policy_ids:
                    schedule = found[policy_id]
                    if isinstance(schedule, Scheduler):
                        schedule.update(timestep=steps)

    algo.learner_group.foreach_learner(update)
