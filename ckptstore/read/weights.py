"""Flatten nested weights to names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointNotFound, InvalidRequest, UnreadableFormat
from ckptstore.format.names import show_ids
from ckptstore.read.contents import Contents, SavedContents

if TYPE_CHECKING:
    from ckptstore.read.trainers import TrainerContents

Array = npt.NDArray[Any]
T = TypeVar("T")


def flatten(weights: object, what: str) -> dict[str, Array]:
    """The arrays in `weights` by name: nested keys and list positions are joined with ``/``.

    UnreadableFormat about `what` if something else than an array is among them.
    """
    flat: dict[str, Array] = {}
    _collect(weights, "", flat, what)
    return flat


def ask_which(what: str, policy_ids: Sequence[str]) -> InvalidRequest:
    """The error for weights of `what` where no policy was named, and there is not just one."""
    if not policy_ids:
        return InvalidRequest(what, "it holds no policies", "Read `state` or `components`")
    remedy = f"Say which one, for example weights({policy_ids[0]!r}); they are {show_ids(policy_ids)}"
    return InvalidRequest(what, f"it holds {len(policy_ids)} policies", remedy)


def read_weights(
    contents: Contents, policy_id: str | None, names: Iterable[str] | None, url: str
) -> dict[str, Array]:
    """The weights of one policy, or of all that another trainer wrote; or those `names` of them, in order."""
    if policy_id is None:
        found = cast("TrainerContents", contents)
        arrays = found.arrays()
        return flatten(found.make(arrays if names is None else choose(arrays, names, url)), url)
    what = f"{url} policy {policy_id!r}"
    if names is None:
        return flatten(contents.weights(policy_id), what)
    outline, fill = contents.outline(policy_id)
    wanted = choose(flatten(outline, what), names, what)
    if fill(wanted.values()):
        return wanted
    return choose(flatten(contents.weights(policy_id), what), list(wanted), what)


def read_entry(
    contents: Contents, name: str | None, names: Iterable[str] | None, url: str
) -> dict[str, Array] | None:
    """The arrays in the dict that was saved as `name` in the state, read alone.

    None if there is no such dict, or a policy of that name.
    """
    if not isinstance(contents, SavedContents) or not isinstance(name, str) or contents.holds(name):
        return None
    found = contents.entry(name)
    if found is None:
        return None
    what, (entry, fill) = f"{url} {name!r}", found
    wanted = flatten(entry, what)
    wanted = wanted if names is None else choose(wanted, names, what)
    if fill(wanted.values()):
        return wanted
    return choose(flatten(contents.state()[name], what), list(wanted), what)


def choose(flat: Mapping[str, T], names: Iterable[str], what: str) -> dict[str, T]:
    """Those `names` of `flat`, in that order. CheckpointNotFound about `what` for one it doesn't have."""
    if isinstance(names, str):
        raise InvalidRequest("names", f"{names!r} is a str", "Pass a list of names")
    try:
        return {name: flat[name] for name in names}
    except KeyError as error:
        known = ", ".join(map(repr, list(flat)[:20])) + (", ..." if len(flat) > 20 else "")
        raise CheckpointNotFound(what, f"it holds no weight {error.args[0]!r}", f"It holds {known}") from None


def _collect(value: object, path: str, flat: dict[str, Array], what: str) -> None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        flat[path] = value
    elif isinstance(value, np.generic):
        flat[path] = np.asarray(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, f"{path}/{key}" if path else str(key), flat, what)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect(item, f"{path}/{index}" if path else str(index), flat, what)
    else:
        kind, remedy = type(value).__name__, "Read ckpt.policies[id], or `state`, for everything it holds"
        if isinstance(value, Opaque):
            kind = value.name
            if value.args and len(value.args) == 1 and isinstance(value.args[0], np.ndarray):
                remedy = "pip install ml_dtypes, which has such numbers"
        name = f"its weight {path!r}" if path else "what it has for weights"
        raise UnreadableFormat(what, f"{name} is of type {kind}, not an array", remedy)
