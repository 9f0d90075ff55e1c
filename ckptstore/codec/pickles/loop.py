"""The opcode loop; the opcodes of ordinary pickles are inlined for speed."""

from __future__ import annotations

import struct
from typing import Any

from ckptstore.codec.pickles.instructions import HANDLERS
from ckptstore.codec.pickles.machine import HOLE, Machine
from ckptstore.codec.pickles.nesting import check_depth
from ckptstore.errors import UnsafeContent

_unpack_float = struct.Struct(">d").unpack_from
_unpack_int = struct.Struct("<i").unpack_from
_unpack_uint = struct.Struct("<I").unpack_from


def run(machine: Machine) -> Any:
    """Execute to STOP and return the top of the stack.

    The instructions that make up nearly all of an ordinary pickle are spelled out here, because a call
    for each would double the time; the others are in `HANDLERS`. The most frequent three come first,
    the rest is split by opcode so that none is many comparisons away. Slices are not checked against
    the end: a short one is followed by reading an opcode beyond it, which fails.
    """
    data, memo, metastack = machine.data, machine.memo, machine.metastack
    stack: list[Any] = []
    pos = 0
    limit = machine.budget.steps + machine.budget.steps_per_input_byte * len(data)
    try:
        while pos < limit:
            op = data[pos]
            pos += 1
            if op == 0x94:  # MEMOIZE
                memo.append(stack[-1])
            elif op == 0x8C:  # SHORT_BINUNICODE
                end = pos + 1 + data[pos]
                stack.append(data[pos + 1 : end].decode("utf-8", "surrogatepass"))
                pos = end
            elif op == 0x68:  # BINGET
                value = memo[data[pos]]
                if value is HOLE:
                    machine.hole()
                stack.append(value)
                pos += 1
            elif op < 0x60:
                if op == 0x4B:  # BININT1
                    stack.append(data[pos])
                    pos += 1
                elif op == 0x47:  # BINFLOAT
                    stack.append(_unpack_float(data, pos)[0])
                    pos += 8
                elif op == 0x28:  # MARK
                    metastack.append(stack)
                    stack = []
                    limit -= 56
                elif op == 0x4E:  # NONE
                    stack.append(None)
                elif op == 0x43:  # SHORT_BINBYTES
                    end = pos + 1 + data[pos]
                    stack.append(data[pos + 1 : end])
                    pos = end
                elif op == 0x4A:  # BININT
                    stack.append(_unpack_int(data, pos)[0])
                    pos += 4
                elif op == 0x4D:  # BININT2
                    stack.append(data[pos] | data[pos + 1] << 8)
                    pos += 2
                elif op == 0x5D:  # EMPTY_LIST
                    stack.append([])
                    limit -= 56
                elif op == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif op == 0x52:  # REDUCE
                    args = stack.pop()
                    machine.call(stack, stack.pop(), args, pos)
                    limit -= 200
                elif op == 0x2E:  # STOP
                    value = stack.pop()
                    check_depth(value, machine.budget.depth)
                    return value
                else:
                    stack, pos = _run_rare(machine, op, stack, pos)
                    limit -= 100
            elif op < 0x80:
                if op == 0x6A:  # LONG_BINGET
                    value = memo[_unpack_uint(data, pos)[0]]
                    if value is HOLE:
                        machine.hole()
                    stack.append(value)
                    pos += 4
                elif op == 0x7D:  # EMPTY_DICT
                    stack.append({})
                    limit -= 64
                elif op == 0x75:  # SETITEMS
                    items = stack
                    stack = metastack.pop()
                    target = stack[-1]
                    if type(target) is dict and not len(items) & 1:
                        pairs = iter(items)
                        for key in pairs:
                            if type(key) is not str:  # start over, with a look at each key
                                machine.set_entries(target, items)
                                break
                            target[key] = next(pairs)
                    else:
                        machine.set_entries(target, items)
                elif op == 0x71:  # BINPUT
                    slot = data[pos]
                    pos += 1
                    if slot == len(memo):
                        memo.append(stack[-1])
                    else:
                        machine.put(slot, stack[-1])
                elif op == 0x74:  # TUPLE
                    items = stack
                    stack = metastack.pop()
                    stack.append(tuple(items))
                elif op == 0x65:  # APPENDS
                    items = stack
                    stack = metastack.pop()
                    machine.append(stack[-1], items)
                elif op == 0x61:  # APPEND
                    value = stack.pop()
                    machine.append(stack[-1], (value,))
                elif op == 0x62:  # BUILD
                    state = stack.pop()
                    machine.build(stack, state)
                    if machine.after_build is not None:
                        pos = machine.after_build(stack[-1], pos)
                elif op == 0x72:  # LONG_BINPUT
                    slot = _unpack_uint(data, pos)[0]
                    pos += 4
                    if slot == len(memo):
                        memo.append(stack[-1])
                    else:
                        machine.put(slot, stack[-1])
                else:
                    stack, pos = _run_rare(machine, op, stack, pos)
                    limit -= 100
            elif op == 0x86:  # TUPLE2
                value = stack.pop()
                stack[-1] = (stack[-1], value)
                limit -= 56
            elif op == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
                limit -= 48
            elif op == 0x87:  # TUPLE3
                value = stack.pop()
                middle = stack.pop()
                stack[-1] = (stack[-1], middle, value)
                limit -= 64
            elif op == 0x89:  # NEWFALSE
                stack.append(False)
            elif op == 0x88:  # NEWTRUE
                stack.append(True)
            elif op == 0x81:  # NEWOBJ
                args = stack.pop()
                machine.call(stack, stack.pop(), args, pos)
                limit -= 200
            elif op == 0x8F:  # EMPTY_SET
                stack.append(set())
                limit -= 216
            else:
                stack, pos = _run_rare(machine, op, stack, pos)
                limit -= 100
    except UnsafeContent as error:
        raise _refuse(pos, error.why) from error
    except IndexError as error:
        raise _refuse(pos, "cut short, or an opcode without what it needs") from error
    except RecursionError as error:
        raise _refuse(pos, "nested too deeply") from error
    except MemoryError as error:
        raise _refuse(pos, "asks for more memory than there is") from error
    except (
        ArithmeticError, LookupError, TypeError, ValueError, AttributeError, struct.error, Warning,
    ) as error:  # fmt: skip
        raise _refuse(pos, f"{type(error).__name__}: {str(error)[:200]}") from error
    raise _refuse(pos, "takes more steps than its size allows")


def _run_rare(machine: Machine, op: int, stack: list[Any], pos: int) -> tuple[list[Any], int]:
    """Execute one of the rarer instructions; returns the stack and position to continue with."""
    handler = HANDLERS[op]
    if handler is not None:
        return stack, handler(machine, stack, pos)
    if op == 0x30 and stack:  # POP
        stack.pop()
        return stack, pos
    items = stack
    stack = machine.metastack.pop()
    return stack, machine.end_mark(op, stack, items, pos)


def _refuse(pos: int, why: str) -> UnsafeContent:
    return UnsafeContent("pickle", f"at byte {max(pos - 1, 0)}: {why}")
