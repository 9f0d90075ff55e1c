"""Decode a pickle of any protocol without running what it names.

A pickle is a program for a small stack machine. Ours executes the instructions that build plain data and
only notes the others: nothing is imported, nothing a file names is called. What it knows, it rebuilds by
constructors of its own (``values``, ``arrays``); everything else becomes an :class:`Opaque` record.

Every malformed, truncated or hostile input ends in UnsafeContent with the byte position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptstore.codec.pickles.budget import DEFAULT, Budget
from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.loop import run
from ckptstore.codec.pickles.machine import GlobalUse, Machine
from ckptstore.codec.pickles.torch_calls import Tensors

__all__ = ["GlobalUse", "globals_in", "loads"]


def loads(
    data: bytes | memoryview,
    buffers: Sequence[memoryview | bytearray | bytes] = (),
    budget: Budget = DEFAULT,
    tensors: Tensors | None = None,
    own: bool = False,
    classes: Classes | None = None,
) -> Any:
    """The value in `data`: plain Python and numpy values, and :class:`Opaque` for everything else.

    `buffers` is the memory of out-of-band arrays, in order: writable ones are used in place, read-only
    ones are copied where the array was writable. Bytes after the end of the pickle are ignored, as
    by ``pickle.loads``. `tensors` makes what torch tensors were written as; arrays by default. With `own`
    the data are of a file that we wrote, where random generators and kinds of arrays are made as well.
    `classes` are made too, of their fields. Raises UnsafeContent.
    """
    return run(Machine(data, buffers, budget, tensors=tensors, own=own, listed=classes))


def globals_in(data: bytes | memoryview, budget: Budget = DEFAULT) -> list[GlobalUse]:
    """What ``pickle.loads`` would import and call, in order, without doing so. Raises UnsafeContent."""
    uses: list[GlobalUse] = []
    run(Machine(data, None, budget, uses))
    return uses
