"""Objects that are restored in place: what has `load_state_dict`, and random generators."""

from __future__ import annotations

import copy
import random
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.restore import values
from ckptstore.restore.findings import Change, Findings
from ckptstore.restore.report import Difference

# Wrappers that put a name of theirs before those of what they wrap: torch.compile, DDP and FSDP1.
_WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module)\.")
_LIKE_PARAMETER = (
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg",
    "acc_delta", "mu", "nu",
)  # fmt: skip
"""What optimizers keep for each parameter in its own shape."""

Rebuild = Callable[[str, Any, Any, Findings], Callable[[], Any]]


def is_live(value: Any) -> bool:
    """Whether it can be restored in place."""
    return has_loader(value) or _generator(value) is not None


def has_loader(value: Any) -> bool:
    """Whether it loads state dicts: its class says how."""
    return callable(getattr(type(value), "load_state_dict", None))


def compare(path: str, target: Any, saved: Any, findings: Findings, rebuild: Rebuild) -> None:
    """Note how `target` is to be restored from `saved`, or what keeps it from that."""
    if not has_loader(target):
        _compare_generator(path, target, saved, findings)
    elif not isinstance(saved, Mapping):
        remedy = ", saved whole: only trusted=True makes it again" if isinstance(saved, Opaque) else ""
        findings.different.append(Difference(path, values.describe(target), values.describe(saved) + remedy))
    elif values.is_module(target):
        _compare_module(path, target, saved, findings)
    else:
        _compare_stateful(path, target, saved, findings, rebuild)


# ---- modules


def _match_names(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, str]:
    """Of each name in `there` the one that it has in `here`; names of wrappers count only if they must."""
    left = [name for name in here if name not in there]
    bare = {_WRAPPERS.sub("", name): name for name in left}
    found = {name: name if name in here else bare.get(_WRAPPERS.sub("", name), name) for name in there}
    unique = len(bare) == len(left) and len(set(found.values())) == len(there)
    return found if unique else {name: name for name in there}


def _compare_module(path: str, module: Any, saved: Mapping[Any, Any], findings: Findings) -> None:
    here: Mapping[str, Any] = module.state_dict()
    if not all(isinstance(name, str) for name in saved):
        findings.different.append(Difference(path, "a module", values.describe(saved)))
        return
    names = _match_names(here, saved)
    found = {names[name]: value for name, value in saved.items() if names[name] in here}
    twins = values.find_twins(here, found)
    found.update({name: found[twin] for name, twin in twins.items()})
    fitting: OrderedDict[str, Any] = OrderedDict()
    for name, there in found.items():
        place, mine, value = values.join(path, name), here[name], there
        if not values.is_tensor(mine):
            if values.holds_record(value):
                findings.different.append(Difference(place, values.describe(mine), values.describe(value)))
                continue
        else:
            value = values.tensor_of(there)
            if not _fits(place, mine, value, there, findings):
                continue
        fitting[name] = value
        findings.loaded.append(place)
    findings.unexpected += [values.join(path, name) for name in saved if names[name] not in here]
    findings.missing += [values.join(path, name) for name in here if name not in found]
    if hasattr(saved, "_metadata"):
        fitting._metadata = saved._metadata  # type: ignore[attr-defined]
    how = {} if len(fitting) == len(here) else {"strict": False}
    findings.changes.append(
        Change(path, lambda: module.load_state_dict(fitting, **how), lambda: _snapshot_module(module))
    )


def _fits(place: str, mine: Any, value: Any, saved: Any, findings: Findings) -> bool:
    """Whether a tensor can be loaded into `mine`; notes what differs."""
    if value is None:
        findings.different.append(Difference(place, values.describe(mine), values.describe(saved)))
        return False
    if mine.is_meta:
        there = values.describe(value)
        findings.different.append(Difference(place, "a tensor on meta: call to_empty() first", there))
        return False
    if type(mine).__name__.startswith("Uninitialized"):
        return True
    if tuple(mine.shape) != tuple(value.shape):
        findings.different.append(Difference(place, values.describe(mine), values.describe(value)))
        return False
    if mine.dtype != value.dtype:
        findings.cast.append(Difference(place, values.describe_kind(mine), values.describe_kind(value)))
    return True


def _snapshot_module(module: Any) -> Callable[[], object]:
    held: OrderedDict[str, Any] = OrderedDict()
    for name, value in module.state_dict().items():
        held[name] = value.detach().clone() if values.is_tensor(value) else copy.deepcopy(value)
    return lambda: module.load_state_dict(held)


# ---- optimizers, schedulers, scalers, samplers and the user's own


def _compare_stateful(
    path: str, target: Any, saved: Mapping[Any, Any], findings: Findings, rebuild: Rebuild
) -> None:
    try:
        here = target.state_dict()
    except Exception as error:  # noqa: BLE001  # whatever a class of the user's raises
        findings.different.append(Difference(path, f"state_dict() raises {error!r:.100}", "a state dict"))
        return
    if not isinstance(here, Mapping) or (here and saved and not here.keys() & saved.keys()):
        findings.different.append(Difference(path, values.describe(here), values.describe(saved)))
        return
    if _is_optimizer(here) and (why := _compare_groups(path, target, here, saved)):
        findings.different.append(why)
        return
    fitting = values.make_torch_values(dict(saved))
    for key, value in fitting.items():
        if values.holds_record(value):
            if key not in here:
                findings.different.append(Difference(f"{path}/{key}", "nothing", values.describe(value)))
                return
            fitting[key] = rebuild(f"{path}/{key}", here[key], value, findings)()
    findings.loaded.append(path)
    findings.changes.append(
        Change(path, lambda: target.load_state_dict(fitting), lambda: _snapshot_stateful(target))
    )


def _snapshot_stateful(target: Any) -> Callable[[], object]:
    held = copy.deepcopy(target.state_dict())
    return lambda: target.load_state_dict(held)


def _is_optimizer(state: Mapping[Any, Any]) -> bool:
    return isinstance(state.get("param_groups"), list) and isinstance(state.get("state"), Mapping)


def _compare_groups(
    path: str, target: Any, here: Mapping[Any, Any], saved: Mapping[Any, Any]
) -> Difference | None:
    """By its groups: a fresh optimizer has nothing else yet."""
    if not _is_optimizer(saved):
        return Difference(path, "an optimizer's state", values.describe(saved))
    groups = [
        (group, there) for group, there in zip(here["param_groups"], saved["param_groups"], strict=False)
    ]
    if len(here["param_groups"]) != len(saved["param_groups"]):
        counts = (len(each["param_groups"]) for each in (here, saved))
        return Difference(f"{path}/param_groups", *(f"{count} groups" for count in counts))
    parameters = [each for group in getattr(target, "param_groups", ()) for each in group["params"]]
    ids: list[Any] = []
    for number, (group, there) in enumerate(groups):
        place = f"{path}/param_groups/{number}"
        if not isinstance(there, dict) or not isinstance(there.get("params"), list):
            return Difference(place, values.describe(group), values.describe(there))
        if len(group["params"]) != len(there["params"]):
            return Difference(place, f"{len(group['params'])} parameters", f"{len(there['params'])}")
        mine, other = (set(each) - {"params", "param_names", "initial_lr"} for each in (group, there))
        if mine - other and other - mine:  # one way only is another release of torch
            return Difference(place, f"{sorted(mine - other)}", f"{sorted(other - mine)}: another optimizer")
        ids += there["params"]
    for key, parameter in zip(ids, parameters, strict=False):
        for name, value in _entries(saved["state"], key):
            shape = getattr(value, "shape", None)
            if name in _LIKE_PARAMETER and shape is not None and tuple(shape) != tuple(parameter.shape):
                place = f"{path}/state/{key}/{name}"
                return Difference(place, str(tuple(parameter.shape)), str(tuple(shape)))
    return None


def _entries(state: Mapping[Any, Any], key: Any) -> list[tuple[Any, Any]]:
    entry = state.get(key) if isinstance(key, (int, str)) else None
    return list(entry.items()) if isinstance(entry, Mapping) else []


# ---- random generators


def _generator(value: Any) -> str | None:
    torch = values.framework("torch")
    if torch is not None and isinstance(value, torch.Generator):
        return "torch"
    if isinstance(value, np.random.Generator):
        return "Generator"
    if isinstance(value, np.random.BitGenerator):
        return "bits"
    if isinstance(value, np.random.RandomState):
        return "RandomState"
    return "random" if isinstance(value, random.Random) else None


def _compare_generator(path: str, target: Any, saved: Any, findings: Findings) -> None:
    kind = _generator(target)
    state = {
        "torch": _torch_state,
        "Generator": lambda given, target: _bits_state(given, target.bit_generator),
        "bits": _bits_state,
        "RandomState": _random_state,
        "random": _python_state,
    }[kind or ""](saved, target)
    if state is None:
        here = f"a {type(target).__qualname__}"
        if kind == "Generator":
            here += f" of {type(target.bit_generator).__name__}"
        findings.different.append(Difference(path, here, _describe_generator(saved)))
        return
    get, put = _access(kind or "", target)

    def snapshot() -> Callable[[], object]:
        held = get()
        return lambda: put(held)

    findings.loaded.append(path)
    findings.changes.append(Change(path, lambda: put(state), snapshot, last=True))


def _describe_generator(saved: Any) -> str:
    if isinstance(saved, np.random.Generator):
        return f"a Generator of {type(saved.bit_generator).__name__}"
    return values.describe(saved)


def _access(kind: str, target: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """How to get its state and to set it."""
    if kind == "torch":
        return target.get_state, target.set_state
    if kind == "random":
        return target.getstate, target.setstate
    if kind == "RandomState":
        return (lambda: target.get_state(legacy=False)), target.set_state
    bits = target.bit_generator if kind == "Generator" else target
    return (lambda: (bits.state, getattr(bits, "seed_seq", None))), lambda state: _set_bits(bits, state)


def _set_bits(bits: Any, state: tuple[Any, Any]) -> None:
    """With the seed sequence where numpy has a way to set it (2.0 on): children of `spawn` come from it."""
    if state[1] is not None and int(np.__version__.partition(".")[0]) >= 2:
        bits.__setstate__(state)
    else:
        bits.state = state[0]


def _torch_state(saved: Any, target: Any) -> Any:
    if isinstance(saved, Opaque) and saved.name in ("torch._C.Generator", "torch.Generator"):
        saved = saved.state[2] if isinstance(saved.state, tuple) and len(saved.state) == 3 else None
    state = values.tensor_of(saved)
    mine = target.get_state()
    if state is None or state.dtype != mine.dtype or tuple(state.shape) != tuple(mine.shape):
        return None
    return state.cpu()


def _bits_state(saved: Any, bits: Any) -> Any:
    seed = None
    if isinstance(saved, np.random.Generator):
        saved = saved.bit_generator
    if isinstance(saved, np.random.BitGenerator):
        saved, seed = saved.state, getattr(saved, "seed_seq", None)
    if not isinstance(saved, Mapping) or saved.get("bit_generator") != type(bits).__name__:
        return None
    try:
        type(bits)(0).state = saved  # a trial: numpy looks at each number
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    return saved, seed


def _random_state(saved: Any, target: Any) -> Any:
    if isinstance(saved, np.random.RandomState):
        saved = saved.get_state(legacy=False)
    try:
        type(target)(type(target._bit_generator)(0)).set_state(saved)
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    return saved


def _python_state(saved: Any, target: Any) -> Any:
    if isinstance(saved, random.Random):
        saved = saved.getstate()
    try:
        random.Random(0).setstate(saved)
    except (TypeError, ValueError, OverflowError):
        return None
    return saved
