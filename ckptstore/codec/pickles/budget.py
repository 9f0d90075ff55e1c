"""How much a file may make the safe decoder do before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from ckptstore.errors import UnsafeContent

_BASE = 256 * 2**20


@dataclass(frozen=True)
class Budget:
    """Limits for decoding one pickle. The first two grow with the input, so honest files of any size pass.

    `steps`: one for each byte of input walked and about one for each byte of memory that an opcode
    makes out of nothing (an empty set is one byte in the file and 216 in memory). The densest honest
    file, a list of empty dicts, takes 33 for each of its bytes.
    `bytes`: what calls may produce: copies of arrays, sets made of lists, expanded views.
    `steps_per_input_byte`, `per_input_byte`: added to `steps` and `bytes` for each byte of input.
    `depth`: nesting of the result; beyond it, code that walks the value recursively would fail.
    `key_nodes`: size of one dict key or set member when written out. A tuple that holds the one before
    twice, sixty times over, is a short file whose hash takes longer than a life.
    """

    steps: int = _BASE
    bytes: int = _BASE
    steps_per_input_byte: int = 40
    per_input_byte: int = 8
    depth: int = 1000
    key_nodes: int = 4_000_000


DEFAULT = Budget()


class Meter:
    """Counts what calls produce against `Budget.bytes`."""

    __slots__ = ("left",)

    def __init__(self, budget: Budget, size: int) -> None:
        self.left = budget.bytes + budget.per_input_byte * size

    def charge(self, amount: int) -> None:
        """Take `amount` bytes. Raises UnsafeContent once the budget is spent."""
        self.left -= amount
        if self.left < 0:
            raise UnsafeContent("pickle", "decodes to more memory than its size allows")
