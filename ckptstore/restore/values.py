"""What values are, to whatever framework they belong; none is imported here."""

from __future__ import annotations

import functools
import sys
import types
from collections import OrderedDict
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque


def framework(name: str) -> Any:
    """The module `name` if the program has imported it, else None."""
    return sys.modules.get(name)


def is_tensor(value: Any) -> bool:
    """Whether it is torch's."""
    torch = framework("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value: Any) -> bool:
    """Whether it is a module of torch's."""
    torch = framework("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_jax(value: Any) -> bool:
    """Whether it is an array of jax's, or the description of one."""
    jax = framework("jax")
    return jax is not None and isinstance(value, (jax.Array, jax.ShapeDtypeStruct))


def is_key(value: Any) -> bool:
    """Whether it is an array of typed random keys of jax's."""
    jax = framework("jax")
    return is_jax(value) and bool(jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key))


def is_array(value: Any) -> bool:
    """Whether it is an array of whatever framework."""
    return isinstance(value, (np.ndarray, np.generic)) or is_tensor(value) or is_jax(value)


def is_own(value: Any) -> bool:
    """Whether it is code rather than data: a function, a class, a module."""
    kinds = (type, types.ModuleType, types.BuiltinFunctionType, types.FunctionType, types.MethodType)
    return isinstance(value, (*kinds, functools.partial)) or (
        callable(value) and not hasattr(value, "__dict__") and not is_array(value)
    )


def array_of(value: Any) -> np.ndarray[Any, Any] | None:
    """The array that a decoded `value` is; None if it is none."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if is_tensor(value):
        plain = value.detach().cpu()
        name = str(plain.dtype).removeprefix("torch.")
        try:
            array: np.ndarray[Any, Any] = plain.numpy()
        except TypeError:  # a type that numpy lacks
            return _view_as(plain.view(_ints_of(plain.element_size())).numpy(), name)
        return array
    if isinstance(value, Opaque) and value.name.startswith("torch.") and len(value.args or ()) == 1:
        held = (value.args or ())[0]
        return _view_as(held, value.name.removeprefix("torch.")) if type(held) is np.ndarray else None
    return None


def _ints_of(size: int) -> Any:
    return getattr(framework("torch"), f"int{8 * size}")


def _view_as(integers: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any] | None:
    kind = getattr(framework("ml_dtypes"), name, None)
    return integers.view(kind) if kind is not None else None


def tensor_of(value: Any) -> Any:
    """The tensor that a decoded `value` is, of torch's; None if it is none."""
    if is_tensor(value):
        return value
    array, torch = value, framework("torch")
    if isinstance(value, (np.ndarray, np.generic)) and torch is not None:
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        name = array.dtype.name  # ml_dtypes'
        if isinstance(kind := getattr(torch, name, None), torch.dtype):
            return torch.from_numpy(array.view(f"i{array.dtype.itemsize}")).view(kind)
    return None


def join(path: str, key: Any) -> str:
    """The path of `key` below `path`, which is empty for the target itself."""
    return f"{path}/{key}" if path else f"{key}"


def find_twins(here: Mapping[Any, Any], found: Container[Any]) -> dict[Any, Any]:
    """Of each name in `here` that isn't `found` one that is and has the very same tensor: tied weights.

    Safetensors holds such a tensor once, by one of its names.
    """
    missing = [name for name in here if name not in found]
    if not missing:
        return {}
    known = {place: name for name, value in here.items() if name in found and (place := _place_of(value))}
    places = {name: _place_of(here[name]) for name in missing}
    return {name: known[place] for name, place in places.items() if place in known}


def _place_of(value: Any) -> tuple[Any, ...] | None:
    """Where a plain tensor of torch's lies in memory, and how; None if it lies nowhere."""
    if not is_tensor(value) or type(value).__name__ not in ("Tensor", "Parameter", "Buffer"):
        return None
    if str(value.layout) != "torch.strided" or not value.data_ptr():  # sparse; on meta, or empty
        return None
    return value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()


def describe(value: Any) -> str:
    """A few words that say what it is."""
    if isinstance(value, Opaque):
        return f"a record of {value.name.removesuffix('()')}"
    if is_array(value):
        return f"{describe_kind(value)} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (list, tuple)):
        kind = type(value).__qualname__
        return f"a {kind} of {len(value)}"
    if isinstance(value, (str, int, float, bool, type(None))):
        return f"{value!r:.60}"
    return f"a {type(value).__qualname__}"


def describe_kind(value: Any) -> str:
    """The type of an array's elements."""
    return str(value.dtype).removeprefix("torch.")


def short_name(value: Any) -> str:
    """The name of the class that a record was made of, without its module; empty if it was none."""
    if not isinstance(value, Opaque):
        return ""
    if value.name.endswith("()") and value.args and isinstance(value.args[0], Opaque):
        args = value.args[0].args or ()  # a class that cloudpickle wrote by value
        return args[1] if len(args) > 1 and isinstance(args[1], str) else ""
    return value.name.rpartition(".")[2]


def content_of(value: Any) -> tuple[Any, ...]:
    """The arguments that a record was made with."""
    args = value.args or ()
    return args[1:] if value.name.endswith("()") and args and isinstance(args[0], Opaque) else args


def fields_of_record(value: Opaque) -> dict[str, Any] | None:
    """The attributes in a record's state; None where it holds something else."""
    state = value.state
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if not all(part is None or isinstance(part, dict) for part in parts):
        return None
    found = {name: item for part in parts for name, item in (part or {}).items()}
    return found if all(isinstance(name, str) for name in found) else None


def make_torch_values(value: Any, made: dict[int, Any] | None = None) -> Any:
    """Decoded plain data with the sizes, devices and types of torch that records in it stand for.

    State dicts of TensorDicts have them, as attributes of dicts too. Without torch they stay records.
    """
    made = {} if made is None else made
    if id(value) in made:
        return made[id(value)]
    if type(value) in (dict, OrderedDict):
        copied = made[id(value)] = type(value)()
        copied.update({key: make_torch_values(item, made) for key, item in value.items()})
        if hasattr(value, "_metadata"):
            copied._metadata = make_torch_values(value._metadata, made)
        return copied
    if type(value) is list:
        items = made[id(value)] = []
        items += [make_torch_values(item, made) for item in value]
        return items
    if type(value) is tuple:
        return tuple(make_torch_values(item, made) for item in value)
    return _make_torch_value(value) if isinstance(value, Opaque) else value


def _make_torch_value(record: Opaque) -> Any:
    torch, name, args = framework("torch"), record.name.removeprefix("torch."), record.args or ()
    if torch is None or name == record.name:
        return record
    if name in ("Size", "device") and not record.is_reference:
        try:
            return getattr(torch, name)(*args)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # lies
            return record
    found = getattr(torch, name, None) if record.is_reference else None
    return found if isinstance(found, torch.dtype) else record


def holds_record(value: Any) -> bool:
    """Whether there is a record of an object somewhere in decoded plain data."""
    todo, seen = [value], set[int]()
    while todo:
        item = todo.pop()
        if isinstance(item, Opaque):
            return True
        if not isinstance(item, (dict, list, tuple, set, frozenset)) or id(item) in seen:
            continue
        seen.add(id(item))
        todo += [*item.keys(), *item.values()] if isinstance(item, dict) else item
    return False
