"""Memory for what is read: the size that was asked for, nobody else's, and no more than is touched."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from ckptstore.read.memory import fresh

MIB = 2**20
SIZES = [0, 1, 4096, 4 * MIB - 1, 4 * MIB, 10 * MIB + 4999]
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts pages in /proc")


def resident() -> int:
    """Bytes of this process's memory that exist."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("size", SIZES)
def test_it_is_as_long_as_asked_and_can_be_written(size: int) -> None:
    view = fresh(size)
    assert (view.nbytes, len(view), view.format, view.readonly) == (size, size, "B", False)
    data = np.random.default_rng(0).bytes(size)
    view[:] = data
    assert view == data


@linux
@pytest.mark.parametrize("size", [4 * MIB, 10 * MIB + 4999])
def test_large_memory_begins_with_a_huge_page(size: int) -> None:
    assert np.frombuffer(fresh(size), np.uint8).ctypes.data % (2 * MIB) == 0


@linux
@pytest.mark.parametrize("size", [5 * MIB - 4096, 512 * MIB - 1])
def test_what_is_not_touched_takes_no_memory(size: int) -> None:
    gc.collect()
    before = resident()
    view = fresh(size)
    view[-1] = 1
    assert resident() - before < 2 * MIB


@linux
def test_the_end_takes_no_whole_huge_page() -> None:
    gc.collect()
    before = resident()
    views = [fresh(4 * MIB + 4096) for _ in range(20)]
    for view in views:
        np.frombuffer(view, np.uint8)[:] = 1
    assert resident() - before < 20 * 4.5 * MIB


@linux
def test_it_goes_back_with_the_last_array_of_it() -> None:
    view = fresh(64 * MIB)
    array = np.frombuffer(view[8 : 32 * MIB], np.float32)
    np.frombuffer(view, np.uint8)[:] = 1
    held = resident()
    del view
    assert float(array[-1]) > 0
    del array
    gc.collect()
    assert held - resident() > 60 * MIB


@linux
def test_a_kernel_without_huge_pages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[tuple[object, ...]] = []

    class Plain(mmap.mmap):
        def madvise(self, *arguments: object) -> None:
            refused.append(arguments)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(mmap, "mmap", Plain)
    fresh(8 * MIB)[-1] = 1
    assert refused


def test_more_than_there_is_is_a_memory_error() -> None:
    for size in (2**47, 2**62, 2**63 - 1):
        with pytest.raises(MemoryError):
            fresh(size)


FORKS = """
import os
from ckptstore.read.memory import fresh
for size in (9, 8 * 2**20):
    view = fresh(size)
    view[0] = 1
    child = os.fork()
    if not child:
        view[0] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert view[0] == 1, size
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_writes_into_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True)
