"""Functions and classes that a checkpoint holds as code, for callers that trust it."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from ckptstore.checkpoint import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, InvalidRequest
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib.saving import WRITER


class Code:
    """The code in a checkpoint, built on request if it is trusted and fits this Python."""

    def __init__(self, checkpoint: Checkpoint, trusted: bool) -> None:
        self._url = checkpoint.url
        self.trusted = trusted
        self._written_on = _read_python(checkpoint) if trusted else ""

    def build(self, name: str, value: Any, remedy: str) -> Any:
        """The function or class that `value` stands for; runs code of a trusted checkpoint.

        Raises InvalidRequest if the checkpoint isn't trusted, or if the code was pickled by value on another
        Python: this one would run that bytecode as other instructions, perhaps without an error.
        """
        found = configs.resolve(value)
        if found is not configs.UNKNOWN and not configs.is_code(value):
            return found
        if not isinstance(value, Opaque):
            raise InvalidRequest(name, f"{self._url} doesn't have it ({value!s:.80})", remedy)
        if not self.trusted:
            raise InvalidRequest(
                name,
                f"{self._url} holds it as code, which isn't run",
                f"{remedy}, or trusted=True on the Python that wrote it",
            )
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if value.args is not None and self._written_on != here:
            writer = (
                f"Python {self._written_on} wrote it"
                if self._written_on
                else "no file says which Python wrote it"
            )
            raise InvalidRequest(
                name, f"{writer}, and its code means something else on Python {here}", remedy
            )
        try:
            return _Builder().build(value)
        except (ImportError, AttributeError) as error:
            raise InvalidRequest(name, f"its code isn't here ({error!s:.120})", remedy) from error


def _read_python(checkpoint: Checkpoint) -> str:
    """The Python, such as "3.11", on which RLlib wrote the checkpoint; empty if no file says."""
    try:
        version = json.loads(checkpoint.read(WRITER))["python"]
        return ".".join(version.split(".")[:2])
    except CheckpointNotFound:  # by the manifest, where there is one: a stray says nothing
        return ""
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointCorrupt(
            f"{checkpoint.url}/{WRITER}", "it doesn't name a version of Python"
        ) from error


class _Builder:
    """Builds the objects that unpickling would have built."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def build(self, value: Any) -> Any:
        """`value` with the objects that its records describe."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, Opaque):
            return self._object(value)
        if isinstance(value, dict):
            result: dict[Any, Any] = {}
            self._made[id(value)] = result
            result.update({self.build(key): self.build(item) for key, item in value.items()})
            return result
        if isinstance(value, list):
            items: list[Any] = []
            self._made[id(value)] = items
            items.extend(self.build(item) for item in value)
            return items
        if isinstance(value, (tuple, set, frozenset)):
            return type(value)(self.build(item) for item in value)
        return value

    def _object(self, record: Opaque) -> Any:
        if record.args is None:
            made = self._made[id(record)] = _import(record.name)
            return made
        arguments = [self.build(item) for item in record.args]
        call = arguments.pop(0) if record.name.endswith("()") else _import(record.name)
        made = self._made[id(record)] = call(*arguments, **self.build(record.kwargs or {}))
        if record.state is not None:
            self._set(made, call, self.build(record.state))
        for item in record.items or ():
            (made.add if hasattr(made, "add") else made.append)(self.build(item))
        for key, item in record.entries or ():
            made[self.build(key)] = self.build(item)
        return made

    def _set(self, made: Any, call: Any, state: Any) -> None:
        module = sys.modules.get(getattr(call, "__module__", ""))
        setters = {"_make_function": "_function_setstate", "_make_skeleton_class": "_class_setstate"}
        setter = getattr(module, setters.get(getattr(call, "__name__", ""), ""), None)
        if setter is not None:
            setter(made, state)
        elif hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state)


def _import(name: str) -> Any:
    """The object with the dotted `name`, which may be an attribute of a class."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(f"no module has {name!r}")
