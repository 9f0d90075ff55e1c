"""Checkpoints that other trainers wrote, and what their own packages load from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

DATA = Path(__file__).parents[1] / "data" / "foreign"
ALL = sorted(path.name for path in DATA.iterdir() if path.is_dir())
KERAS = [name for name in ALL if name.startswith("keras")]
OTHERS = [name for name in ALL if name not in KERAS]


def files(name: str) -> dict[str, bytes]:
    """The files of one, by name."""
    top = DATA / name / "checkpoint"
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def only_file(name: str) -> Path:
    """The file that it is."""
    [path] = (DATA / name / "checkpoint").iterdir()
    return path


def said(name: str) -> dict[str, Any]:
    """What is known of it beside the weights."""
    document: dict[str, Any] = json.loads((DATA / name / "truth.json").read_text())
    return document


def truth(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Its weights; of types that numpy lacks the bits."""
    with np.load(DATA / name / "truth.npz") as found:
        return dict(found.items())


def assert_weights(name: str, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """The very weights that the framework loads: names, types, shapes and bits."""
    expected, kinds = truth(name), said(name)["kinds"]
    if name in KERAS:  # whose files have other names for them than the live model
        assert sorted(map(_bits, weights.values())) == sorted(map(_bits, expected.values()))
        return
    assert weights.keys() == expected.keys()
    for key, array in expected.items():
        assert (weights[key].dtype.name, weights[key].shape) == (kinds[key], array.shape), key
        assert weights[key].tobytes() == np.ascontiguousarray(array).tobytes(), key


def _bits(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, array.tobytes()


def upload(url: str, content: Mapping[str, bytes], options: Mapping[str, Any] | None = None) -> None:
    """Put files below `url`, by fsspec alone."""
    system, root = fsspec.core.url_to_fs(url, **(options or {}))
    for path, data in content.items():
        system.pipe_file(f"{root}/{path}", data)
