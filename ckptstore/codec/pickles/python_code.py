"""Find functions and classes that a pickle holds as bytecode, which only the Python that made it can run.

cloudpickle pickles what can't be imported by value: a call of ``types.CodeType`` with the instructions.
Another minor version takes the same bytes for other instructions, and crashes. Data and what is imported by
name are not affected.
"""

from __future__ import annotations

import opcode
from typing import Any, NamedTuple

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import DEFAULT
from ckptstore.codec.pickles.loop import run
from ckptstore.codec.pickles.machine import Machine
from ckptstore.errors import UnsafeContent

_MARKS = (b"CodeType", b"_create_code", b"_make_skel_func", b"marshal")
_MAKERS = frozenset(mark.decode() for mark in _MARKS[:-1])
_INSTRUCTIONS = 6  # which argument of CodeType the instructions are, since Python 3.8
_ARGUMENTS = 18


class CodeFound(NamedTuple):
    """What is known of the bytecode in a pickle."""

    fits: bool
    """False if this Python surely can't run it."""


def find_code(pickled: bytes) -> CodeFound | None:
    """The bytecode in a pickle whose arrays may have been cut out; None if it holds none. Runs nothing.

    A pickle that can't be decoded safely, and mentions such calls, counts as one that holds some.
    """
    if not any(mark in pickled for mark in _MARKS):
        return None
    machine = _Watching(pickled, None, DEFAULT)
    try:
        run(machine)
    except UnsafeContent:
        return CodeFound(True)
    return CodeFound(all(map(_fits, machine.codes))) if machine.codes else None


class _Watching(Machine):
    """Notes the arguments of every call that makes code."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.codes: list[tuple[Any, ...]] = []

    def call(
        self, stack: list[Any], callee: Any, args: Any, pos: int, kwargs: dict[str, Any] | None = None
    ) -> None:
        if type(callee) is Opaque and type(args) is tuple and _makes_code(callee):
            self.codes.append(args)
        super().call(stack, callee, args, pos, kwargs)


def _makes_code(callee: Opaque) -> bool:
    short = callee.name.rpartition(".")[2]
    if callee.args is None:
        return short in _MAKERS or callee.name == "marshal.loads"
    return short == "_builtin_type" and callee.args == ("CodeType",)  # cloudpickle's way to name it


def _fits(args: tuple[Any, ...]) -> bool:
    """Whether this Python might have made code of these arguments; most other minors give themselves away."""
    if len(args) < _ARGUMENTS - 2:  # not those of CodeType, but of another package's function around it
        return True
    code = args[_INSTRUCTIONS] if len(args) > _INSTRUCTIONS else None
    if len(args) != _ARGUMENTS or type(code) is not bytes:
        return len(args) not in (15, 16, 18)
    used = set(code[::2])
    return used >= _RESUME and all(not opcode.opname[each].startswith("<") for each in used)


_RESUME = frozenset({opcode.opmap["RESUME"]} if "RESUME" in opcode.opmap else ())
