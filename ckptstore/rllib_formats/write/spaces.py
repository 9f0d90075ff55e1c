"""Spell out a space of the model as RLlib does in a policy's spec: JSON with arrays in base64."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np


def rllib_json(space: Any) -> dict[str, Any]:
    """`space` as RLlib's ``space_to_dict`` gives it. Kinds that RLlib doesn't know stay as in the model."""
    if not isinstance(space, dict):
        return {"space": None}
    result: dict[str, Any] = {"space": _one(space)}
    if isinstance(space.get("original_space"), dict):
        result["original_space"] = rllib_json(space["original_space"])
    return result


def _one(space: Any) -> Any:
    if not isinstance(space, dict):
        return space
    kind = str(space.get("space")).replace("_", "-") if space.get("space") != "flex_dict" else "flex_dict"
    if kind == "box":
        return {
            "space": kind,
            "low": _array(space["low"]),
            "high": _array(space["high"]),
            "shape": tuple(space["shape"]),
            "dtype": np.dtype(space["dtype"]).str,
        }
    if kind == "discrete":
        return {"space": kind, "n": space["n"], "start": space.get("start", 0)}
    if kind == "multi-discrete":
        start = {"start": space["start"]} if np.any(space.get("start", 0)) else {}
        return {
            "space": kind,
            "nvec": _array(space["nvec"]),
            "dtype": np.dtype(space["dtype"]).str,
            **start,
        }
    if kind == "tuple":
        return {"space": kind, "spaces": [_one(item) for item in space["spaces"]]}
    if kind == "dict":
        return {"space": kind, "spaces": {key: _one(item) for key, item in space["spaces"].items()}}
    if kind == "text":
        charset = space.get("charset", space.get("char_str"))
        return {
            "space": kind,
            **{key: space[key] for key in ("min_length", "max_length")},
            "charset": charset,
        }
    return {**space, "space": kind}


def _array(value: Any) -> str:
    file = io.BytesIO()
    np.save(file, np.asarray(value), allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
