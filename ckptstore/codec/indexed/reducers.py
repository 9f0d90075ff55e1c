"""How arrays, and objects that offer their memory, are written so that every reader can open them.

numpy 2 writes its own helpers as ``numpy._core.multiarray.scalar``, ``._reconstruct`` and
``numpy._core.numeric._frombuffer``. numpy 1.24 has no ``numpy._core`` at all and 1.26 has no
``numpy._core.numeric``; the old spelling ``numpy.core`` warns under numpy 2. So nothing here is written
through those helpers:

========================  =============================================================
array                     ``numpy.ndarray(shape, dtype, buffer, offset, strides, order)``
scalar                    ``numpy.float32(1.5)``, else ``numpy.take(array_of_one, 0)``
array of objects          ``numpy.ndarray((0,), dtype)``, then its state
subclass of ndarray       ``copyreg._reconstructor(cls, numpy.ndarray, (0,))``, then its state
memory map                as an array: the file that it maps is another's
masked array              ``numpy.ma.MaskedArray(data, mask, ...)``
array of StringDType      ``numpy.ndarray((0,), dtype)``, then its state
``numpy.bool_`` (a type)  by that name: numpy 2 calls it ``numpy.bool``, which 1.24 has not
RandomState               by the name of its generator, as numpy 1 does
Generator                 ``numpy.random.Generator(bit_generator)``
bit generator             ``numpy.random.PCG64(seed_sequence)``, then its state
random key of jax         the call of its class with the implementation and an array
========================  =============================================================

A ``numpy.recarray`` needs the numpy generation that wrote it when it is unpickled, as its module was renamed.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np

from ckptstore.codec.pickles import made
from ckptstore.codec.tensors import Call, Method, Storages, is_tensor_subclass, refuse_lossy, tensor_types

DEFAULT_REDUCER = NotImplemented
"""Returned by :meth:`Reducers.reduce` for what is not an array: let cloudpickle do it."""

Reduced = Any  # a reduce tuple, a global's name, or DEFAULT_REDUCER
# Plain functions: bound methods in a dict of their own object would keep every array until the next gc.
Reducer = Callable[["Reducers", Any], Reduced]

# The helper itself, found without spelling the module that was renamed.
_RECONSTRUCT: Any = np.empty(0, object).__reduce__()[0]
_RANDOM_STATE: Any = np.random.RandomState(0).__reduce__()[0]
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_BIT_TYPES: tuple[type, ...] = tuple(getattr(np.random, name) for name in _BIT_GENERATORS)

# Python's own number holds these exactly, except for the payload of a signalling NaN (see _scalar).
_EXACT: dict[type, Any] = {t: t for code in "?bhilqBHILQefdFD" if (t := np.dtype(code).type)}
_EXACT[np.str_] = str
_EXACT[np.bytes_] = bytes

# What is one of these has content of its own, whatever else it offers.
_CONTENT = (
    bytes,
    bytearray,
    str,
    int,
    float,
    complex,
    list,
    tuple,
    dict,
    set,
    frozenset,
    pickle.PickleBuffer,
)

_NAMED = (types.FunctionType, types.MethodType)
_FUNCTIONS = ("_ArrayFunctionDispatcher", "cython_function_or_method", "ufunc", "method_descriptor")

_PICKLING = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


class Reducers:
    """The reducers of one dump. `made` collects, by id, every buffer they make."""

    def __init__(self, made: dict[int, pickle.PickleBuffer]) -> None:
        self._made = made
        self._storages = Storages()
        self._by_type: dict[type, Reducer] = {np.ndarray: Reducers._array}
        self.strange: set[str] = set()
        """Names of what was pickled that the default load may make nothing of: a hint, never too short."""

    def reduce(self, obj: Any) -> Reduced:
        """A reduce tuple for `obj`, or DEFAULT_REDUCER. Asked for every object but the plainest."""
        kind = type(obj)
        reducer = self._by_type.get(kind)
        if reducer is None:
            reducer = self._by_type[kind] = self._reducer_for(kind)
            reducer = self._by_type[kind] = self._note(kind, reducer)
        return reducer(self, obj)

    def _note(self, kind: type, reducer: Reducer) -> Reducer:
        """`reducer`, noting what may be strange: once for a kind, each time for functions and the like."""
        if kind in _NAMED or kind.__name__ in _FUNCTIONS:
            return _function
        if kind.__name__ == "dtype" and kind.__module__ == "torch":
            return _torch_dtype
        if not issubclass(kind, (type, np.dtype, types.BuiltinFunctionType)) and kind not in (Call, Method):
            self._note_name(kind)
        return reducer

    def _note_name(self, thing: Any) -> None:
        name = f"{thing.__module__}.{getattr(thing, '__qualname__', thing)}"
        if name not in made.NAMES:
            self.strange.add(name)

    def _reducer_for(self, kind: type) -> Reducer:
        """Chosen once for each type, since a checkpoint may hold a million small objects."""
        if issubclass(kind, type):
            return _class
        if issubclass(kind, np.ndarray):
            if _has_reducer(kind):
                return _default
            if kind is np.memmap:
                return _memory_map
            return _reduce_masked if _is_masked(kind) else _subclass
        if kind is np.random.Generator:
            return _generator
        if kind in _BIT_TYPES:
            return _bit_generator
        if issubclass(kind, np.generic):
            return _default if _has_reducer(kind) else Reducers._scalar
        if issubclass(kind, np.random.RandomState):
            return _random_state
        if kind in tensor_types():
            return Reducers._tensor
        if kind is types.BuiltinFunctionType:
            return _builtin
        if kind in (Call, Method):
            return _call
        if is_tensor_subclass(kind):
            return _tensor_subclass
        if kind.__name__ == "PRNGKeyArray" and kind.__module__.startswith("jax."):
            return _jax_key
        if kind is memoryview:
            return Reducers._reduce_by_protocol
        if issubclass(kind, (*_CONTENT, pickle.PickleBuffer)):
            return _default
        if all(hasattr(kind, name) for name in _TENSOR):
            return Reducers._reduce_by_protocol  # a tensor is its array, however its library would pickle it
        if _pickles_itself(kind):
            return _default
        if any(hasattr(kind, name) for name in ("__dlpack__", "__array__", "__buffer__")) or _is_buffer(kind):
            return Reducers._reduce_by_protocol
        return _default

    def _buffer(self, flat: np.ndarray[Any, Any]) -> pickle.PickleBuffer:
        """`flat`, one-dimensional bytes, as a buffer that the writer will recognise as ours."""
        buffer = pickle.PickleBuffer(flat)  # type: ignore[arg-type]
        self._made[id(buffer)] = buffer
        return buffer

    def _array(self, array: np.ndarray[Any, Any]) -> Reduced:
        dtype = array.dtype
        if dtype.hasobject:
            reduced: Any = array.__reduce__()
            return np.ndarray, ((0,), "b"), reduced[2]
        if dtype.kind == "T":  # numpy's variable-width strings live in an arena, not in the array
            return np.ndarray, ((0,), "b"), array.__reduce__()[2]
        order = "C"
        if not array.flags.c_contiguous:
            if array.flags.f_contiguous:
                order = "F"
            else:
                writeable, array = array.flags.writeable, np.ascontiguousarray(array)
                array.flags.writeable = writeable
        return np.ndarray, (array.shape, dtype, self._buffer(_flat(array, order)), 0, None, order)

    def _scalar(self, scalar: np.generic) -> Reduced:
        kind = type(scalar)
        if scalar.dtype.type is not kind:
            return DEFAULT_REDUCER  # a subclass of the user's
        if kind in _EXACT and bool(scalar == scalar):
            # A signalling NaN would come back quiet from Python's float, so NaNs are written as arrays.
            # numpy's str() and item() drop zeros at the end of text, which slicing by Python does not.
            plain = _EXACT[kind]
            return kind, (plain.__getitem__(scalar, slice(None)) if plain in (str, bytes) else scalar.item(),)
        return np.take, (np.array([scalar], scalar.dtype), 0)

    def _tensor(self, tensor: Any) -> Reduced:
        return self._storages.reduce(tensor, self._buffer)

    def _reduce_by_protocol(self, obj: Any) -> Reduced:
        """Something that shares its memory, as an array; as itself where it declines to."""
        array = _borrow(obj)
        if array is None or type(array) is not np.ndarray or array.dtype.hasobject or array.dtype.kind == "T":
            return DEFAULT_REDUCER
        return self._array(array)


def _flat(array: np.ndarray[Any, Any], order: str) -> np.ndarray[Any, Any]:
    if array.nbytes == 0:
        flat = np.empty(0, np.uint8)
        flat.flags.writeable = array.flags.writeable
        return flat
    return (array.T if order == "F" else array).reshape(-1).view(np.uint8)


def _default(reducers: Reducers, obj: object) -> Reduced:
    return DEFAULT_REDUCER


def _function(reducers: Reducers, obj: Any) -> Reduced:
    reducers._note_name(obj)
    return DEFAULT_REDUCER


def _torch_dtype(reducers: Reducers, obj: Any) -> Reduced:
    if obj not in reducers._storages.dtypes:
        reducers.strange.add("torch.dtype")
    return DEFAULT_REDUCER


def _builtin(reducers: Reducers, obj: Any) -> Reduced:
    # By its name in torch: pickle would write it as a method of a class that is torch's own affair.
    if obj is not getattr(sys.modules.get("torch"), "from_numpy", None):
        reducers._note_name(obj)
    return "from_numpy" if obj is getattr(sys.modules.get("torch"), "from_numpy", None) else DEFAULT_REDUCER


def _call(reducers: Reducers, obj: Call | Method) -> Reduced:
    return obj.reduced


def _tensor_subclass(reducers: Reducers, obj: Any) -> Reduced:
    return refuse_lossy(obj)  # else as torch pickles it


def _class(reducers: Reducers, obj: type) -> Reduced:
    if obj not in reducers._by_type and obj is not np.dtype:  # else it is called, to make one of it
        reducers.strange.add(f"{obj.__module__}.{obj.__qualname__}")
    return "bool_" if obj is np.bool_ else DEFAULT_REDUCER


def _subclass(reducers: Reducers, array: np.ndarray[Any, Any]) -> Reduced:
    reduced = array.__reduce_ex__(5)
    if isinstance(reduced, tuple) and reduced[0] is _RECONSTRUCT and len(reduced[1]) == 3:
        return copyreg._reconstructor, (reduced[1][0], np.ndarray, (0,)), *reduced[2:]  # type: ignore[attr-defined]
    return reduced


def _memory_map(reducers: Reducers, array: np.ndarray[Any, Any]) -> Reduced:
    return reducers._array(array.view(np.ndarray))


def _reduce_masked(reducers: Reducers, array: Any) -> Reduced:
    if array.baseclass is not np.ndarray:
        return _subclass(reducers, array)
    fill = array._fill_value
    given = (array.data, array.mask, None, False, True, 0, fill, True, array.hardmask)
    return np.ma.MaskedArray, given


def _is_masked(kind: type) -> bool:
    return "numpy.ma" in sys.modules and kind is np.ma.MaskedArray  # numpy imports it when it is first used


def _generator(reducers: Reducers, generator: np.random.Generator) -> Reduced:
    return np.random.Generator, (generator.bit_generator,)


def _bit_generator(reducers: Reducers, bits: Any) -> Reduced:
    seed = getattr(bits, "seed_seq", None) or getattr(bits, "_seed_seq", None)  # before numpy 1.25
    if type(seed) is not np.random.SeedSequence:
        return DEFAULT_REDUCER  # a seed of the user's own, or none
    return type(bits), (seed,), bits.state


def _jax_key(reducers: Reducers, key: Any) -> Reduced:
    # As jax pickles it, with an array of its own inside, it would come back with one of numpy's, and broken.
    jax: Any = sys.modules["jax"]
    return type(key), (key._impl, np.asarray(jax.random.key_data(key)))


def _random_state(reducers: Reducers, state: np.random.RandomState) -> Reduced:
    reduced = state.__reduce__()
    values = state.get_state(legacy=False)
    name = values.get("bit_generator") if isinstance(values, dict) else None
    if isinstance(reduced, tuple) and reduced[0] is _RANDOM_STATE and name in _BIT_GENERATORS:
        return _RANDOM_STATE, (name,), values
    return reduced


_TENSOR = ("__dlpack__", "shape", "dtype")
"""What arrays of jax, cupy and TensorFlow have, and columns of Arrow, which hold more, do not."""


def _has_reducer(kind: type) -> bool:
    return kind in copyreg.dispatch_table or kind in cloudpickle.Pickler.dispatch_table


def _pickles_itself(kind: type) -> bool:
    return _has_reducer(kind) or any(
        getattr(kind, name, None) is not getattr(object, name, None) for name in _PICKLING
    )


def _is_buffer(kind: type) -> bool:
    """Before Python 3.12, types written in C share their memory without a method that shows it."""
    return sys.version_info < (3, 12) and kind.__module__ == "mmap"


def _borrow(obj: Any) -> np.ndarray[Any, Any] | None:
    """An array over the object's own memory, or None if it does not really offer that."""
    for borrow in (np.from_dlpack, _from_array, _from_buffer):
        try:
            array: np.ndarray[Any, Any] | None = borrow(obj)
        except Exception:  # noqa: BLE001  # whatever the refusal, try the next
            continue
        if array is not None:
            return array
    return None


def _from_array(obj: Any) -> np.ndarray[Any, Any] | None:
    return np.asarray(obj) if hasattr(type(obj), "__array__") else None


def _from_buffer(obj: Any) -> np.ndarray[Any, Any]:
    return np.asarray(memoryview(obj))
