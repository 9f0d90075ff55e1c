"""The zip that Stable-Baselines3 saves a model in."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from ckptstore.codec import torchfile
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.errors import UnsafeContent
from ckptstore.trainer_formats.containers import AS_DATA, Decode, element_of, with_tensors
from ckptstore.trainer_formats.source import parse_json
from ckptstore.trainer_formats.zips import Zip

_VERSION = "_stable_baselines3_version"
_DATA = "data"
_SERIALIZED = ":serialized:"
POLICY = "policy"
"""The member with the weights of the networks, without its ``.pth``."""


def is_sb3(names: tuple[str, ...]) -> bool:
    """Whether a zip with such members is one."""
    return _DATA in names and (_VERSION in names or f"{POLICY}.pth" in names)


class Sb3:
    """One model: what its JSON says, and each file of torch by the name that ``set_parameters`` takes."""

    def __init__(self, archive: Zip) -> None:
        self._archive = archive
        self._open: dict[str, torchfile.TorchZip] = {}

    @property
    def name(self) -> str:
        """See `Container`."""
        version = self._text(_VERSION) if _VERSION in self._archive.names else ""
        return f"Stable-Baselines3 {version.strip():.20}".strip()

    def tree(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Container`."""
        found: dict[str, Any] = {}
        for name in self._archive.names:
            if name == _DATA:
                found[name] = self._data(decode)
            elif name.endswith(".pth"):
                data = self._archive.read(name)
                unpickle = decode.unpickle
                found[name.removesuffix(".pth")] = (
                    torchfile.loads(data, tensors=decode.tensor_maker(), classes=decode.classes)
                    if unpickle is None
                    else unpickle(data, True)
                )
            else:
                found[name] = self._text(name)
        return found

    def outline(self) -> dict[str, Any]:
        """See `Container`: the networks alone, which is where weights are."""
        name = f"{POLICY}.pth"
        if name not in self._archive.names:
            return {}
        if name not in self._open:
            data = self._archive.read(name)
            meter = Meter(DEFAULT, len(data))
            if not data.startswith(b"PK"):
                return {POLICY: torchfile.loads(data, tensors=AS_DATA.tensor_maker())}
            self._open[name] = torchfile.TorchZip(io.BytesIO(data), DEFAULT, meter, AS_DATA.tensor_maker())
        return {POLICY: self._open[name].tree}

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return torchfile.element_of(leaf) if isinstance(leaf, Opaque) else element_of(leaf)

    def make(self, leaf: Any) -> Any:
        """See `Container`."""
        return self._open[f"{POLICY}.pth"].make_one(leaf) if isinstance(leaf, Opaque) else leaf

    def steps(self) -> int:
        """How many steps it was trained for; -1 where its JSON doesn't say."""
        found = parse_json(_DATA, self._archive.read(_DATA))
        steps = found.get("num_timesteps") if isinstance(found, dict) else None
        return steps if type(steps) is int else -1

    def _data(self, decode: Decode) -> Any:
        """The JSON, with what is pickled in it decoded."""
        found = parse_json(_DATA, self._archive.read(_DATA))
        if not isinstance(found, dict):
            return found
        return {
            key: self._value(key, value[_SERIALIZED], decode)
            if isinstance(value, dict) and isinstance(value.get(_SERIALIZED), str)
            else value
            for key, value in found.items()
        }

    def _value(self, key: str, text: str, decode: Decode) -> Any:
        try:
            pickled = base64.b64decode(text)
        except (ValueError, binascii.Error) as error:
            raise UnsafeContent(_DATA, f"what is pickled in {key!r:.80} isn't base64") from error
        if decode.unpickle is not None:
            return decode.unpickle(pickled, False)
        tensors = decode.tensor_maker()
        value = safe.loads(pickled, tensors=tensors, own=True, classes=decode.classes)
        return with_tensors(value, len(pickled), tensors)

    def _text(self, name: str) -> str:
        return self._archive.read(name).decode("utf-8", "replace")
