"""Random generators and kinds of arrays, made again from what a file of ours says of them.

Each is made by a constructor that is called here, from a state of which every number has been looked at:
numpy's own ``__setstate__`` reads outside of an array where a position lies. In a file of RLlib's they stay
records, which `codec.known` describes. What doesn't look as it was written stays a record as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.arrays import Arrays
from ckptstore.codec.pickles.dtypes import NotPlainError

_BITS: dict[str, Any] = {
    "MT19937": np.random.MT19937,
    "PCG64": np.random.PCG64,
    "PCG64DXSM": np.random.PCG64DXSM,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}
_BIT_NAMES = {
    f"numpy.random.{module}.{name}": name
    for module, name in (
        ("_mt19937", "MT19937"),
        ("_pcg64", "PCG64"),
        ("_pcg64", "PCG64DXSM"),
        ("_philox", "Philox"),
        ("_sfc64", "SFC64"),
    )
}
KINDS: dict[str, Any] = {
    "numpy.matrix": np.matrix,
    "numpy.matrixlib.defmatrix.matrix": np.matrix,
    "numpy.recarray": np.recarray,
    "numpy.rec.recarray": np.recarray,
    "numpy.core.records.recarray": np.recarray,
    "numpy.memmap": np.ndarray,  # the file that it mapped is another place's
    "numpy.core.memmap.memmap": np.ndarray,
}


_GENERATOR_BYTES = 8192  # of memory and of time, roughly: a file may name the same state again and again
_LARGEST_POOL = 64  # words; numpy takes 4, and mixes each with each
_LONGEST_SEED = 2**16


def _need(condition: bool) -> None:
    if not condition:
        raise NotPlainError


def _int(value: Any, below: int) -> int:
    _need(type(value) is int or isinstance(value, np.integer))
    _need(0 <= value < below)
    return int(value)


def _ints(value: Any, kind: str, length: int) -> np.ndarray[Any, Any]:
    _need(type(value) is np.ndarray and value.dtype == np.dtype(kind) and value.shape == (length,))
    array: np.ndarray[Any, Any] = value
    return array


# ---- numpy's generators


def _bit_state(name: str, state: Any) -> dict[str, Any]:
    """The state of the bit generator `name`, each number in its range."""
    _need(type(state) is dict and state.get("bit_generator") == name and type(state.get("state")) is dict)
    inner = state["state"]
    if name == "MT19937":
        # A position beyond the key is where numpy would go on reading.
        made: dict[str, Any] = {"key": _ints(inner.get("key"), "u4", 624), "pos": _int(inner.get("pos"), 625)}
        return {"bit_generator": name, "state": made}
    rest: dict[str, Any] = {
        "has_uint32": _int(state.get("has_uint32"), 2),
        "uinteger": _int(state.get("uinteger"), 2**32),
    }
    if name in ("PCG64", "PCG64DXSM"):
        made = {key: _int(inner.get(key), 2**128) for key in ("state", "inc")}
    elif name == "Philox":
        made = {"counter": _ints(inner.get("counter"), "u8", 4), "key": _ints(inner.get("key"), "u8", 2)}
        rest |= {
            "buffer": _ints(state.get("buffer"), "u8", 4),
            "buffer_pos": _int(state.get("buffer_pos"), 5),
        }
    else:
        made = {"state": _ints(inner.get("state"), "u8", 4)}
    return {"bit_generator": name, "state": made, **rest}


def _bit_name(what: Any) -> str:
    """The name of a bit generator, given as text or by a reference to its class."""
    name = _BIT_NAMES.get(what.name) if isinstance(what, Opaque) and what.is_reference else what
    if type(name) is not str or name not in _BITS:
        raise NotPlainError
    return name


def _bit_generator(name: str, seed: Any, state: Any) -> Any:
    _need(seed is None or type(seed) is np.random.SeedSequence)
    made = _BITS[name](0 if seed is None else seed)
    made.state = _bit_state(name, state)
    return made


def _finish_bits(name: str, args: tuple[Any, ...], state: Any) -> Any:
    """``PCG64(seed_sequence)`` with its state, as our writer has it."""
    _need(len(args) == 1)
    return _bit_generator(_BIT_NAMES[name], args[0], state)


def _finish_native_bits(_: str, args: tuple[Any, ...], state: Any) -> Any:
    """numpy's own: ``__bit_generator_ctor(name or class)`` with the state; since 2.0 with its seed, too."""
    _need(len(args) == 1)
    seed = None
    if type(state) is tuple and len(state) == 2:
        state, seed = state
    return _bit_generator(_bit_name(args[0]), seed, state)


def _finish_seed(_: str, args: tuple[Any, ...], state: Any) -> Any:
    """A seed sequence: its fields in the order of their names."""
    _need(type(state) is tuple and len(state) == 5)
    entropy, spawned, _pool, pool_size, spawn_key = state
    _need(_are_words(entropy) and type(spawn_key) is tuple and all(map(_is_word, spawn_key)))
    _need(len(spawn_key) <= _LONGEST_SEED)
    return np.random.SeedSequence(
        entropy,
        spawn_key=spawn_key,
        pool_size=_int(pool_size, _LARGEST_POOL + 1),
        n_children_spawned=_int(spawned, 2**32),
    )


def _is_word(value: Any) -> bool:
    return (type(value) is int and 0 <= value < 2**4096) or (
        isinstance(value, np.integer) and int(value) >= 0
    )


def _are_words(value: Any) -> bool:
    if type(value) is np.ndarray:
        return bool(value.ndim == 1 and value.dtype.kind == "u" and value.size <= _LONGEST_SEED)
    if type(value) in (list, tuple):
        return len(value) <= _LONGEST_SEED and all(map(_is_word, value))
    return _is_word(value)


def _generator(_: Arrays, args: tuple[Any, ...]) -> Any:
    """``Generator(bit_generator)``; where numpy 1 gives a name instead, the state is still to come."""
    _need(bool(args) and type(args[0]) in _BITS.values())
    return np.random.Generator(args[0])


def _finish_generator(_: str, args: tuple[Any, ...], state: Any) -> Any:
    """As numpy 1 has it: ``__generator_ctor(name)`` and the state of the bit generator."""
    _need(1 <= len(args) <= 2)
    return np.random.Generator(_bit_generator(_bit_name(args[0]), None, state))


def _finish_random_state(_: str, args: tuple[Any, ...], state: Any) -> Any:
    _need(1 <= len(args) <= 2 and type(state) is dict)
    bits = args[0]
    name = bits if type(bits) is str else type(bits).__name__
    gauss, has_gauss = state.get("gauss", 0.0), _int(state.get("has_gauss", 0), 2)
    _need(type(gauss) is float)
    made = np.random.RandomState(_BITS[_bit_name(name)](0) if type(bits) is str else bits)
    made.set_state({**_bit_state(name, state), "gauss": gauss, "has_gauss": has_gauss})
    return made


# ---- Python's


def _finish_python_random(_: str, args: tuple[Any, ...], state: Any) -> Any:
    _need(not args and type(state) is tuple and len(state) == 3)
    version, words, gauss = state
    _need(version == 3 and type(words) is tuple and len(words) == 625)
    _need(gauss is None or type(gauss) is float)
    made = random.Random(0)
    made.setstate((3, (*(_int(word, 2**32) for word in words[:-1]), _int(words[-1], 625)), gauss))
    return made


# ---- Arrays


def _make_masked(_: Arrays, args: tuple[Any, ...]) -> Any:
    """``MaskedArray(data, mask, None, False, True, 0, fill_value, True, hard_mask)``."""
    _need(len(args) == 9 and args[2:6] == (None, False, True, 0) and args[7] is True)
    data, mask, fill, hard = args[0], args[1], args[6], args[8]
    _need(type(data) is np.ndarray and type(hard) is bool)
    _need(fill is None or (type(fill) is np.ndarray and fill.ndim == 0))
    if type(mask) is np.ndarray:
        _need(mask.shape == data.shape and mask.dtype == np.ma.make_mask_descr(data.dtype))
    else:
        _need(mask is np.ma.nomask)
    return np.ma.MaskedArray(data, mask, fill_value=fill, hard_mask=hard)


def _make_masked_constant(_: Arrays, args: tuple[Any, ...]) -> Any:
    _need(not args)
    return np.ma.masked


def _string_dtype(_: Arrays, args: tuple[Any, ...]) -> Any:
    """numpy 2's strings of any length, and what stands for a missing one."""
    make: Any = getattr(getattr(np, "dtypes", None), "StringDType", None)
    _need(make is not None and 1 <= len(args) <= 2 and args[0] in (0, 1) and type(args[0]) in (int, bool))
    if len(args) == 1:
        return make(coerce=bool(args[0]))
    _need(args[1] is None or type(args[1]) in (float, str))
    return make(coerce=bool(args[0]), na_object=args[1])


MAKERS: dict[str, Callable[[Arrays, tuple[Any, ...]], Any]] = {
    "numpy.random._generator.Generator": _generator,
    "numpy.random._pickle.__generator_ctor": _generator,
    "numpy.ma.MaskedArray": _make_masked,
    "numpy.ma.core.MaskedArray": _make_masked,
    "numpy.ma.core.MaskedConstant": _make_masked_constant,
    "numpy.ma.MaskedConstant": _make_masked_constant,
    "numpy._core._internal._convert_to_stringdtype_kwargs": _string_dtype,
}
"""What is whole once it is called."""

FINISHERS: dict[str, Callable[[str, tuple[Any, ...], Any], Any]] = {
    **dict.fromkeys(_BIT_NAMES, _finish_bits),
    "numpy.random._pickle.__bit_generator_ctor": _finish_native_bits,
    "numpy.random._pickle.__generator_ctor": _finish_generator,
    "numpy.random._pickle.__randomstate_ctor": _finish_random_state,
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _finish_seed,
    "random.Random": _finish_python_random,
}


def finish(arrays: Arrays, record: Opaque, name: str, args: tuple[Any, ...], state: Any) -> Any:
    """What the `record` of calling `name` with `args` is, now that its `state` is known.

    Raises NotPlainError for what isn't known here.
    """
    finisher = FINISHERS.get(name)
    if finisher is not None:
        arrays.charge(_GENERATOR_BYTES)
        return finisher(name, args, state)
    if name == "copyreg._reconstructor" and len(args) == 3:
        kind, empty = KINDS.get(record.name), type(args[2]) is tuple and args[2] == (0,)
    else:
        known = name.endswith(".multiarray._reconstruct") and len(args) == 3 and isinstance(args[0], Opaque)
        kind, empty = (KINDS.get(args[0].name), args[1] == (0,)) if known else (None, False)
    if kind is None or not empty:
        raise NotPlainError
    array = arrays.make_empty()
    arrays.fill(array, state)
    return array if kind is np.ndarray else array.view(kind)
