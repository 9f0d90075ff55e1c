"""Stores to test on, and ways to look at them that don't go through ckptstore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RLLIB_1_0 = Path(__file__).parent / "data" / "rllib_1_0_ppo_multi5"


def tree_bytes(root: str | os.PathLike[str], among: Iterable[str] | None = None) -> dict[str, bytes]:
    """Every file below `root` by relative path, or those `among`, read by the system alone."""
    paths = Path(root).rglob("*") if among is None else [Path(root, path) for path in among]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}


def policies(count: int = 3, seed: int = 0, rows: int = 40) -> dict[str, dict[str, Any]]:
    """Small policies whose larger array is big enough to be indexed."""
    random = np.random.default_rng(seed)
    return {
        f"pol{index}": {
            "weights": {
                "dense/kernel": random.standard_normal((rows, 512)).astype(np.float32),
                "dense/bias": random.standard_normal(4).astype(np.float32),
            },
            "global_timestep": index,
        }
        for index in range(count)
    }


def assert_same(left: Any, right: Any) -> None:
    """Equal in type, value, dtype and shape, all the way down."""
    assert type(left) is type(right), (type(left), type(right))
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


def unlinked(path: Path) -> bytes:
    """Make the file one of its own, which other checkpoints don't share, and writable; its bytes."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return data


def flipped(path: Path) -> Iterator[int]:
    """Flip one bit at a time in the file, putting it back afterwards; yields the position."""
    data = unlinked(path)
    for index in range(0, len(data), max(1, len(data) // 50)):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        yield index
    path.write_bytes(data)
