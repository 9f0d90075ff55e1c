"""Turn records of well-known classes into plain descriptions, without their frameworks.

The safe decoder leaves an `Opaque` for every object a pickle would build. For the classes that RLlib's
checkpoints are full of, the meaning of the record is known, so callers get data they can use: versions as
text, spaces and random generators as dicts, sample batches as columns, tensors as arrays. A class is
recognised by its package and its own name, because modules moved between releases (``gym`` became
``gymnasium``, ``numpy.core`` became ``numpy._core``). What is not listed here stays an `Opaque`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore.codec import torchfile, trees
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.errors import UnsafeContent


def plain(value: Any, size: int = 0) -> Any:
    """`value` with every record of a well-known class replaced by its description.

    `size` is the file's, in bytes: tensors may take memory in proportion to it. Raises UnsafeContent
    where a record contradicts itself, for example a tensor larger than its storage.
    """
    meter = Meter(DEFAULT, size)
    try:
        return trees.rewrite(value, functools.partial(_describe, meter))
    except RecursionError as error:
        raise UnsafeContent("decoded value", "nested too deeply") from error


def _describe(meter: Meter, item: Opaque) -> Any:
    package, _, rest = item.name.partition(".")
    name = rest.rpartition(".")[2]
    if package == "torch":
        return torchfile.tensor(item, meter)
    if item.args is None and item.state is None:
        return item  # a class or function that is only mentioned
    describe = _CLASSES.get((package, name))
    if describe is None and package in {"gym", "gymnasium"} and rest.startswith("spaces."):
        describe = _other_space
    if describe is None and package == "ray" and item.entries and not item.args and item.state is None:
        describe = _to_dict
    if item.name == "functools.partial()":
        describe = _variable
    return item if describe is None else describe(item, name)


def _fields(item: Opaque) -> dict[str, Any]:
    """The attributes of the object: its state, with slots merged in."""
    state = item.state
    if (
        isinstance(state, tuple)
        and len(state) == 2
        and all(isinstance(part, (dict, type(None))) for part in state)
    ):
        return {**(state[0] or {}), **(state[1] or {})}
    return state if isinstance(state, dict) else {}


# packaging.version.Version: its pickle changed twice, its text never did.


def _version(item: Opaque, _name: str) -> Any:
    fields = _fields(item)
    inner = fields.get("_version")
    if isinstance(inner, Opaque) and inner.args and len(inner.args) == 6:
        epoch, release, dev, pre, post, local = inner.args  # packaging up to 25
    elif isinstance(item.state, tuple) and len(item.state) == 6:
        epoch, release, pre, post, dev, local = item.state  # packaging 26
    elif "_release" in fields:
        epoch, release = fields.get("_epoch", 0), fields["_release"]
        pre, post, dev, local = (fields.get(key) for key in ("_pre", "_post", "_dev", "_local"))
    elif item.args and len(item.args) == 1 and isinstance(item.args[0], str):
        return item.args[0]
    else:
        return item
    try:
        text = f"{epoch}!" if epoch else ""
        text += ".".join(str(int(part)) for part in release)
        text += f"{pre[0]}{pre[1]}" if pre else ""
        text += f".post{post[1]}" if post else ""
        text += f".dev{dev[1]}" if dev else ""
        return text + ("+" + ".".join(str(part) for part in local) if local else "")
    except (TypeError, ValueError, IndexError):
        return item


# numpy's random generators.


def _generator(item: Opaque, _name: str) -> Any:
    """Generator and RandomState: the name of the bit generator and its state as plain data."""
    bits = item.args[0] if item.args else None
    if isinstance(bits, str):  # before numpy 1.24 the name came here and the state by itself
        bits = {"bit_generator": bits}
    if isinstance(item.state, dict):
        bits = {**(bits if isinstance(bits, dict) else {}), **item.state}
    if not isinstance(bits, dict):
        return item
    return {"random": "RandomState" if "randomstate" in item.name else "Generator", **bits}


def _bit_generator(item: Opaque, _name: str) -> Any:
    state = item.state[0] if isinstance(item.state, tuple) and item.state else item.state
    return dict(state) if isinstance(state, dict) else item


def _gym_generator(item: Opaque, _name: str) -> Any:
    inner = item.args[0] if item.args else None
    if isinstance(inner, dict):
        return inner
    if isinstance(inner, str) and isinstance(item.state, dict):
        return {"random": "Generator", "bit_generator": inner, **item.state}
    return item


# Spaces of gym and gymnasium, in the words of RLlib's own JSON for them.


def _dtype_name(dtype: Any) -> str | None:
    if isinstance(dtype, np.dtype):
        return str(dtype.name)
    if isinstance(dtype, Opaque):
        return dtype.name.rpartition(".")[2]
    return None if dtype is None else str(dtype)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, (int, np.integer)) else value


def _space(item: Opaque, name: str) -> Any:
    # Some pickles hold what the constructor was called with, which says the same as the attributes.
    given = zip(_ARGUMENTS.get(name, ()), item.args or (), strict=False)
    fields = {**{key: value for key, value in given if value is not None}, **_fields(item)}
    kind, keep = _SPACES[name]
    result: dict[str, Any] = {"space": kind}
    for key in keep:
        if key in fields:
            result[key.lstrip("_")] = (
                _number(fields[key]) if key in {"n", "start", "max_length", "min_length"} else fields[key]
            )
    if name == "Discrete":
        result.setdefault("start", 0)  # gym before 0.22 had none
    if name in {"Box", "MultiDiscrete"}:
        shapes = [fields[key] for key in ("_shape", "shape") if fields.get(key) is not None]
        if not all(isinstance(shape, (tuple, list)) for shape in shapes):
            return item  # not a space that either library could have made
        result["shape"] = next((tuple(shape) for shape in shapes if shape), ())
        result["dtype"] = _dtype_name(fields.get("dtype"))
    if name == "Dict" and isinstance(result.get("spaces"), dict):
        result["spaces"] = dict(result["spaces"])
    return result


def _other_space(item: Opaque, name: str) -> Any:
    fields = _fields(item)
    if not all(isinstance(key, str) for key in fields):
        return item  # not a space that either library could have made
    return {"space": name.lower(), **{key.lstrip("_"): value for key, value in fields.items()}}


_SPACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Box": ("box", ("low", "high")),
    "Discrete": ("discrete", ("n", "start")),
    "MultiDiscrete": ("multi_discrete", ("nvec", "start")),
    "MultiBinary": ("multi_binary", ("n",)),
    "Dict": ("dict", ("spaces",)),
    "Tuple": ("tuple", ("spaces",)),
    "Text": ("text", ("min_length", "max_length", "_char_str")),
    "Sequence": ("sequence", ("feature_space", "stack")),
    "Graph": ("graph", ("node_space", "edge_space")),
    "OneOf": ("one_of", ("spaces",)),
}


_ARGUMENTS = {
    "Box": ("low", "high", "shape", "dtype"),
    "Discrete": ("n", "seed", "start"),
    "MultiDiscrete": ("nvec", "dtype"),
    "MultiBinary": ("n",),
    "Dict": ("spaces",),
    "Tuple": ("spaces",),
}


# RLlib's own.

_SPEC_FIELDS = ("policy_class", "observation_space", "action_space", "config")


def _sample_batch(item: Opaque, _name: str) -> Any:
    """Columns by name; the batch's own attributes apart from them."""
    columns = dict(item.entries or ())
    if item.args and isinstance(item.args[0], dict):
        columns = {**item.args[0], **columns}
    return {"sample_batch": columns, "attributes": _fields(item)}


def _multi_agent_batch(item: Opaque, _name: str) -> Any:
    fields = _fields(item)
    return {"sample_batches": fields.get("policy_batches", {}), "count": fields.get("count")}


def _filter(item: Opaque, name: str) -> Any:
    return {"filter": name, **_fields(item)}


def _policy_spec(item: Opaque, _name: str) -> Any:
    """A policy's class, spaces and config. Up to Ray 1.13 it was a named tuple."""
    if item.args and len(item.args) == len(_SPEC_FIELDS):
        return dict(zip(_SPEC_FIELDS, item.args, strict=True))
    return _fields(item) or item


def _text(item: Opaque, _name: str) -> Any:
    """A subclass of str that adds nothing to it: the keys of Ray 2.20's metrics."""
    return item.args[0] if item.args and isinstance(item.args[0], str) else item


def _to_dict(item: Opaque, _name: str) -> Any:
    """A subclass of dict that adds nothing to it, as some default configs were."""
    return dict(item.entries or ())


def _attributes(item: Opaque, _name: str) -> Any:
    """Its attributes alone: the class adds no meaning to them."""
    return _fields(item) or item


# TensorFlow wraps what it finds as an attribute, and keeps the arrays of variables in a partial call.


def _list_wrapper(item: Opaque, _name: str) -> Any:
    inner = item.args[0] if item.args else None
    return list(inner) if isinstance(inner, (list, tuple)) else item


def _dict_wrapper(item: Opaque, _name: str) -> Any:
    inner = item.args[0] if item.args else None
    return dict(inner) if isinstance(inner, dict) else item


def _variable(item: Opaque, _name: str) -> Any:
    """The array of a variable of eager TensorFlow: ``partial(ResourceVariable, initial_value=...)()``."""
    call = item.args[0] if item.args else None
    state = call.state if isinstance(call, Opaque) else None
    if not isinstance(state, tuple) or len(state) < 3 or not isinstance(state[2], dict):
        return item
    target = state[0].name if isinstance(state[0], Opaque) else ""
    value = state[2].get("initial_value")
    if target.startswith("tensorflow.") and isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    return item


_CLASSES: dict[tuple[str, str], Callable[[Opaque, str], Any]] = {
    ("packaging", "Version"): _version,
    ("numpy", "__generator_ctor"): _generator,
    ("numpy", "__randomstate_ctor"): _generator,
    ("numpy", "__bit_generator_ctor"): _bit_generator,
    ("numpy", "Generator"): _generator,
    **{("numpy", name): _bit_generator for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")},
    ("gym", "_generator_ctor"): _gym_generator,
    ("ray", "SampleBatch"): _sample_batch,
    ("ray", "MultiAgentBatch"): _multi_agent_batch,
    ("ray", "NoFilter"): _filter,
    ("ray", "MeanStdFilter"): _filter,
    ("ray", "ConcurrentMeanStdFilter"): _filter,
    ("ray", "RunningStat"): _attributes,
    ("ray", "StrKey"): _text,
    ("ray", "PolicySpec"): _policy_spec,
    ("tensorflow", "ListWrapper"): _list_wrapper,
    ("tensorflow", "_DictWrapper"): _dict_wrapper,
    **{(package, name): _space for package in ("gym", "gymnasium") for name in _SPACES},
}
