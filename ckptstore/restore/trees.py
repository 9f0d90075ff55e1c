"""Trees of plain values, arrays and records of objects, rebuilt like the target's."""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import classes
from ckptstore.codec.pickles.dtypes import NotPlainError
from ckptstore.restore import live, values
from ckptstore.restore.findings import Findings
from ckptstore.restore.report import Difference

_PLAIN = (str, bytes, int, float, bool, complex, type(None))
Build = Callable[[], Any]


def compare(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    """Compare `saved` with `target`, and return what makes the new value once everything fits.

    Live objects are noted in `findings`, and are their own new value.
    """
    if live.is_live(target):
        live.compare(path, target, saved, findings, compare)
        return lambda: target
    if values.is_array(target):
        return _array(path, target, saved, findings)
    if isinstance(target, enum.Enum):
        return _enum(path, target, saved, findings)
    if isinstance(target, _PLAIN):
        return _plain(path, target, saved, findings)
    if values.is_own(target):
        if not isinstance(saved, Opaque):  # data, where the target has a class or function in its place
            return _differ(path, target, saved, findings)
        findings.kept.append(path)
        return lambda: target
    if isinstance(target, tuple):
        return _tuple(path, target, saved, findings)
    if type(target) in (list, deque):
        return _list(path, target, saved, findings)
    if isinstance(target, dict):
        return _dict(path, target, saved, findings)
    if isinstance(target, (set, frozenset, bytearray)) or type(target) is type(saved):
        return _take(path, target, saved, findings)
    return _object(path, target, saved, findings)


def keep(value: Any) -> Build:
    """Makes `value` of what is compared: it is there already."""
    return lambda: value


def _differ(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    findings.different.append(Difference(path, values.describe(target), values.describe(saved)))
    return lambda: target


def _take(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    """As it was decoded."""
    if type(saved) is not type(target) or values.holds_record(saved):
        return _differ(path, target, saved, findings)
    findings.loaded.append(path)
    return lambda: saved


# ---- leaves


def _array(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    if values.is_key(target):
        return _key(path, target, saved, findings)
    found = values.tensor_of(saved) if values.is_tensor(target) else values.array_of(saved)
    if found is None and type(saved) in (int, float, bool) and target.shape == ():
        found = values.tensor_of(np.asarray(saved)) if values.is_tensor(target) else np.asarray(saved)
        found = found.astype(target.dtype) if isinstance(found, np.ndarray) else found.to(target.dtype)
    if found is None or tuple(found.shape) != tuple(target.shape):
        return _differ(path, target, saved, findings)
    if found.dtype != target.dtype:
        findings.cast.append(Difference(path, values.describe_kind(target), values.describe_kind(found)))
    findings.loaded.append(path)
    if values.is_tensor(target):
        return lambda: _like_tensor(target, found)
    if values.is_jax(target):
        return lambda: _like_jax(target, found.astype(target.dtype))
    if isinstance(target, np.ndarray):
        return lambda: found.astype(target.dtype, copy=False)
    return lambda: found.astype(target.dtype)[()]


def _like_tensor(target: Any, found: Any) -> Any:
    made = found.detach().to(device=target.device, dtype=target.dtype)
    if type(target).__name__ == "Parameter":
        return type(target)(made, target.requires_grad)
    return made.requires_grad_() if target.requires_grad and target.is_leaf else made


def _like_jax(target: Any, array: Any) -> Any:
    jax = values.framework("jax")
    sharding = getattr(target, "sharding", None)
    if sharding is None:
        return jax.numpy.asarray(array)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(target.shape, sharding, lambda index: array[index])


def _key(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    """Typed random keys: their numbers, for the same way to make random bits."""
    jax = values.framework("jax")
    name = str(jax.random.key_impl(target))
    data = _key_data(saved, name)
    expected = jax.random.key_data(target)
    if data is None or data.shape != expected.shape or data.dtype != expected.dtype:
        findings.different.append(Difference(path, f"{name} {target.shape}", values.describe(saved)))
        return lambda: target
    findings.loaded.append(path)
    return lambda: jax.random.wrap_key_data(_like_jax(expected, data), impl=jax.random.key_impl(target))


def _key_data(saved: Any, name: str) -> np.ndarray[Any, Any] | None:
    if isinstance(saved, Opaque) and values.short_name(saved) == "PRNGKeyArray":
        fields = values.fields_of_record(saved) or {}
        made = fields.get("_impl"), fields.get("_base_array")
        impl, data = values.content_of(saved) if len(values.content_of(saved)) == 2 else made
        said = values.content_of(impl) if isinstance(impl, Opaque) else ()
        return values.array_of(data) if name in [item for item in said if isinstance(item, str)] else None
    return None


def _enum(path: str, target: enum.Enum, saved: Any, findings: Findings) -> Build:
    member = _find_member(type(target), saved) if isinstance(saved, Opaque) else None
    if member is None:
        return _differ(path, target, saved, findings)
    findings.loaded.append(path)
    return keep(member)


def _find_member(kind: type[enum.Enum], saved: Opaque) -> enum.Enum | None:
    args = values.content_of(saved)
    if saved.name == "builtins.getattr" and len(args) == 2:  # as Python 3.11 has it
        known = isinstance(args[0], Opaque) and _name_of_class(args[0]) == kind.__name__
        return kind.__members__.get(args[1]) if known and isinstance(args[1], str) else None
    if values.short_name(saved) != kind.__name__:
        return None
    try:
        member: enum.Enum = classes.make(kind, args)
    except NotPlainError:
        return None
    return member


def _name_of_class(value: Opaque) -> str:
    if value.is_reference:
        return value.name.rpartition(".")[2]
    return next((item for item in value.args or () if isinstance(item, str)), "")


def _plain(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    if isinstance(saved, np.generic):
        saved = saved.item()
    if target is None:  # says nothing of what it may be
        if values.holds_record(saved):
            return _differ(path, target, saved, findings)
    elif type(target) is float and type(saved) is int and abs(saved) <= 2**53:
        saved = float(saved)
    elif saved is not None and type(saved) is not type(target):
        return _differ(path, target, saved, findings)
    findings.loaded.append(path)
    return keep(saved)


# ---- containers


def _tuple(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    kind, names = type(target), getattr(type(target), "_fields", None)
    items: Any = saved
    if isinstance(saved, Opaque) and names is not None and values.short_name(saved) == kind.__name__:
        items = values.content_of(saved)
    if not isinstance(items, (tuple, list)) or len(items) != len(target):
        return _differ_in_fields(path, target, saved, findings)
    if names is None and kind is not tuple:
        return _differ(path, target, saved, findings)
    builds = [
        compare(values.join(path, names[at] if names else at), mine, there, findings)
        for at, (mine, there) in enumerate(zip(target, items, strict=True))
    ]
    return lambda: tuple.__new__(kind, [build() for build in builds])


def _differ_in_fields(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    here = f"{type(target).__qualname__} of {len(target)}"
    there = values.describe(saved)
    if isinstance(saved, Opaque):
        there = f"{values.short_name(saved)} of {len(values.content_of(saved))}"
    findings.different.append(Difference(path, here, there))
    return lambda: target


def _list(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    """One of plain values is data, however long; others are compared item by item."""
    if type(saved) is not type(target):
        return _differ(path, target, saved, findings)
    if all(isinstance(item, _PLAIN) for item in target) and not values.holds_record(list(saved)):
        findings.loaded.append(path)
        return lambda: saved
    if len(target) != len(saved):
        return _differ(path, target, saved, findings)
    builds = [
        compare(values.join(path, at), mine, there, findings)
        for at, (mine, there) in enumerate(zip(target, saved, strict=True))
    ]
    if isinstance(target, deque):
        return lambda: deque((build() for build in builds), target.maxlen)
    return lambda: [build() for build in builds]


def _dict(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    items = saved
    if isinstance(saved, Opaque) and values.short_name(saved) == type(target).__name__:
        items = dict(saved.entries or ())
    if not isinstance(items, Mapping):
        return _differ(path, target, saved, findings)
    if not target and not values.holds_record(items):  # whatever it is to hold
        findings.loaded.append(path)
        return lambda: saved if type(saved) is type(target) else _refill(target, dict(items))
    builds: dict[Any, Build] = {}
    twins = values.find_twins(target, items)
    for key, mine in target.items():
        if key in items or key in twins:
            builds[key] = compare(values.join(path, key), mine, items[twins.get(key, key)], findings)
        else:
            findings.missing.append(values.join(path, key))
            builds[key] = keep(mine)
    findings.unexpected += [values.join(path, key) for key in items if key not in target]
    return lambda: _refill(target, {key: build() for key, build in builds.items()})


def _refill(target: Any, entries: dict[Any, Any]) -> Any:
    """A dict of the target's kind with these entries."""
    if type(target) is dict:
        return entries
    factory = getattr(target, "default_factory", None)
    made = type(target)(factory) if factory is not None else type(target)()
    made.update(entries)
    return made


# ---- objects


def _object(path: str, target: Any, saved: Any, findings: Findings) -> Build:
    """A dataclass, or another object of a class written in Python: by its fields, by no method of its own."""
    kind = type(target)
    fields: Mapping[Any, Any] | None = None
    if isinstance(saved, Opaque) and values.short_name(saved) == kind.__name__:
        fields = _record_fields(kind, saved)
    elif isinstance(saved, Mapping) and dataclasses.is_dataclass(kind):
        fields = saved
    mine = classes.fields_of(target)
    if fields is None or (not mine and fields) or not kind.__flags__ & (1 << 9):  # in C: not for us to make
        return _differ(path, target, saved, findings)
    builds: dict[str, Build] = {}
    for name, value in mine.items():
        if name in fields:
            builds[name] = compare(values.join(path, name), value, fields[name], findings)
        elif _holds_data(value):
            findings.missing.append(values.join(path, name))
            builds[name] = keep(value)
        else:
            findings.kept.append(values.join(path, name))
            builds[name] = keep(value)
    findings.unexpected += [values.join(path, name) for name in fields if name not in mine]

    def build() -> Any:
        made = object.__new__(kind)
        classes.set_fields(made, {name: make() for name, make in builds.items()})
        return made

    return build


def _record_fields(kind: type, saved: Opaque) -> dict[str, Any] | None:
    if isinstance(saved.state, list) and dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return dict(zip(names, saved.state, strict=True)) if len(names) == len(saved.state) else None
    return values.fields_of_record(saved)


def _holds_data(value: Any) -> bool:
    return values.is_array(value) or isinstance(value, (*_PLAIN, list, tuple, dict, set))
