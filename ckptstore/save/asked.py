"""What stands at the top of a save is asked for its state dict, where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptstore.errors import CheckpointError, InvalidRequest
from ckptstore.format.layout import UNSET, Contents


class Raw:
    """A value of a save that is pickled as it is, although it has a `state_dict` that could be asked for.

    Example:
        >>> store.save(1, {"model": Raw(model)})  # the module itself, which only trusted=True makes again
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        raise TypeError("Raw stands around a whole value of state or components, not inside of one")


def ask(given: Contents) -> Contents:
    """`given` with what a checkpoint keeps of it: state dicts for what has one at the top, `Raw` unwrapped.

    InvalidRequest names what raised when it was asked.
    """
    state, components = given.state, given.components
    if has_state_dict(state) or isinstance(state, Raw):
        state = _ask("state", state)
    elif isinstance(state, Mapping) and state is not UNSET:
        state = _ask_each("state", state)
    if components is not None:
        components = _ask_each("components", components)
    return replace(given, state=state, components=components)


def has_state_dict(value: Any) -> bool:
    """Whether it can be asked for its state: its class says how. A class itself can't."""
    return callable(getattr(type(value), "state_dict", None))


def _ask_each(what: str, values: Mapping[Any, Any]) -> Any:
    """`values` themselves where none has to be asked, so that what is saved is what was given."""
    if not any(has_state_dict(value) or isinstance(value, Raw) for value in values.values()):
        return values
    return {key: _ask(f"{what}[{key!r}]", value) for key, value in values.items()}


def _ask(what: str, value: Any) -> Any:
    if isinstance(value, Raw):
        return value.value
    if not has_state_dict(value):
        return value
    try:
        return value.state_dict()
    except CheckpointError:
        raise
    except Exception as error:
        kind = type(value).__qualname__
        raise InvalidRequest(
            what,
            f"the state_dict() of the {kind} raised {error!r:.200}",
            "Pass Raw(value) to pickle it whole",
        ) from error
