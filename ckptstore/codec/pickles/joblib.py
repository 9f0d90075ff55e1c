"""Pickles of joblib, which have the data of each array right behind the instruction that describes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.codec import npy
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.machine import Machine
from ckptstore.codec.pickles.stepping import end_of_pickle
from ckptstore.errors import UnsafeContent

_WRAPPER = "NumpyArrayWrapper"


def is_wrapper(name: str) -> bool:
    """Whether `name` is the class whose state describes an array; scikit-learn had a joblib of its own."""
    return name.endswith(f"numpy_pickle.{_WRAPPER}")


def skip_arrays(machine: Machine) -> list[bytes]:
    """Make `machine` pass over the data of arrays; the list gets the pickles of those that hold objects."""
    inner: list[bytes] = []
    data = machine.data

    def skip(value: Any, pos: int) -> int:
        if type(value) is not Opaque or not is_wrapper(value.name):
            return pos
        state = value.state
        dtype = state.get("dtype") if isinstance(state, dict) else None
        if not isinstance(dtype, np.dtype):
            raise UnsafeContent("pickle", "an array of joblib's without a dtype")
        if dtype.hasobject:
            end = end_of_pickle(data, pos)
            inner.append(data[pos:end])
            return end
        if state.get("numpy_array_alignment_bytes") is not None:
            pos += 1 + (data[pos] if pos < len(data) else 0)
        end = pos + npy.count_of(npy.shape_of(state.get("shape"))) * dtype.itemsize
        if end > len(data):
            raise UnsafeContent("pickle", "an array of joblib's that reaches beyond the file")
        return end

    machine.after_build = skip
    return inner
