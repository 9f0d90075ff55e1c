"""Look through the bytes of one file for whatever would be unpickled, in any container, within limits.

Nothing goes by the name of the file, but for one question: where it claims to be a pickle and is none, that
is refused. Every file is tried as a pickle first, whatever it begins with, since a pickle may be dressed as
anything; then for each container that it begins like.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import tarfile
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.codec import encodings, inflate, rllib_msgpack, sniff, torch_tar, torchfile
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import joblib
from ckptstore.codec.pickles.budget import DEFAULT, Budget
from ckptstore.codec.pickles.loop import run
from ckptstore.codec.pickles.machine import GlobalUse, Machine
from ckptstore.codec.pickles.stepping import step_over
from ckptstore.codec.pickles.torch_calls import VIEW_METHOD
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats import encoded
from ckptstore.rllib_formats.ranks import rank

_INNER = Budget(steps=1 << 26, bytes=1 << 26)  # for bytes that may not be a pickle at all
_MOST_STEPS = 1 << 22  # opcodes that are stepped over to see where a pickle leads that wasn't decoded
_MOST_IN_A_ROW = 1000  # pickles behind one another
_TORCH_STREAM = 5  # pickles at the start of an old torch file; then come the storages
_TORCH_RECORD = re.compile(r"(.*)/data/\d+\Z", re.DOTALL)
_SERIALIZED = ":serialized:"  # the key of stable-baselines3
_STORAGE_INFO = "torch.distributed.checkpoint.filesystem._StorageInfo"
_YAML_OBJECT = re.compile(r"!!python/|tag:yaml\.org,2002:(?:p|%)")
"""A tag that PyYAML's unsafe loader calls, however it is spelled."""
_JSONPICKLE_NAMES = frozenset(("class", "function", "mod", "module", "object", "type"))
_JSONPICKLE_CALLS = frozenset(("initargs", "newargs", "newargsex", "newobj", "reduce", "repr"))
_JSONPICKLE = re.compile(
    r"""(?:^[ \t-]*|[{,]\s*|\\*["'])py\\*/([a-z]+)\\*["']?[ \t]*:(?:[ \t]*\\*["']?([\w.]+))?""", re.MULTILINE
)
"""A key of jsonpickle's in JSON or YAML, or in a text inside of these, and the name that it may have."""


@dataclass(frozen=True)
class Limits:
    """Beyond these, a file is reported as not looked into."""

    file_bytes: int = 4 * 2**30
    """Of one file."""
    expanded_bytes: int = 2**30
    """Of what containers in one file hold, beyond the bytes that the file has itself."""
    members: int = 100_000
    """Of all containers in one file."""
    depth: int = 8
    """Of containers and pickles inside each other; RLlib nests three deep."""
    text_bytes: int = 64 * 2**20
    """Of JSON, which takes ten times as much when parsed."""


LIMITS = Limits()


class Look:
    """One file and what was found in it."""

    def __init__(self, path: str, data: bytes, limits: Limits) -> None:
        self.path = path
        self.uses: dict[str, tuple[int, int]] = {}
        """Names that a pickle mentions: how often they are called, and the byte of the first use."""
        self.refused: list[str] = []
        """Why something that would be unpickled could not be decoded."""
        self.unseen: list[str] = []
        """What was not looked into."""
        self.pieces: list[tuple[str, int, int]] = []
        """Name, offset and length of parts of other files that torch would load by themselves."""
        self._data = data
        self._limits = limits
        self._decoded: set[bytes] = set()
        self._left = limits.expanded_bytes + 2 * len(data)
        self._members = limits.members

    def run(self, says_pickle: bool, pieces: Iterable[tuple[int, int]]) -> None:
        """Look. `pieces` are offset and length of parts that are loaded by themselves, if any are known."""
        parts = sorted(set(pieces))
        if not parts:
            self._top(self._data, "", says_pickle)
            return
        for offset, length in parts:
            if self._take(length, f"bytes {offset} on"):
                self._top(self._data[offset : offset + length], f"bytes {offset} on", False)
        self._pickle(self._data, "", 0, False)

    def _top(self, data: bytes, label: str, says_pickle: bool, depth: int = 0) -> None:
        """A file, or a member of an archive: something must be known of it."""
        if not data:
            return
        if depth > self._limits.depth:
            self.refused.append(f"{label}: nested more than {self._limits.depth} deep")
            return
        if encodings.is_msgpack(label or self.path) and not data.startswith(b"PK"):
            if not self._msgpack(data, depth) and not self._pickle(data, label, depth, False):
                self.refused.append(_about(label, "it is not MessagePack"))
            return
        known = self._find(data, label, depth, True)
        if not known and says_pickle:
            self._pickle(data, label, depth, True)
            known = True
        # Also what begins as a pickle: a text may begin so by chance, or for whom it may concern.
        if self._text(data, label, depth) or known or self._msgpack(data, depth):
            return
        self.unseen.append(
            _about(label, "HDF5, where Keras may keep code" if sniff.is_hdf5(data) else "unknown format")
        )

    def _find(self, data: bytes, label: str, depth: int, alone: bool) -> bool:
        """Look into `data` as all that it may be; whether it is anything known. `alone` if it is a file."""
        known = sniff.is_safetensors(data)
        is_npy = sniff.is_npy(data)
        container = known or is_npy or data.startswith(b"PK")
        if not sniff.is_zip(data[:4]):  # which as a pickle begins with a persistent id that none can load
            known |= self._pickle(data, label, depth, False, alone=alone, strict=alone and not container)
        if is_npy:
            pickled = sniff.pickle_in_npy(data)
            if pickled:
                self._pickle(pickled, label, depth + 1, True)
            known = True
        if sniff.is_zip(data):
            known |= self._zip(data, label, depth)
        if (alone or data[257:262] == b"ustar") and sniff.is_tar(data):
            known |= self._tar(data, label, depth)
        name = inflate.compression_of(data)
        if name:
            known |= self._expand(name, data, label, depth, alone)
        return known

    # ---- Pickles

    def _pickle(
        self, data: bytes, label: str, depth: int, certain: bool, alone: bool = False, strict: bool = False
    ) -> bool:
        """Whether `data` begin with pickles; notes what they use and looks into what they hold.

        pickle.load ignores bytes after the end of a pickle, and has made a call before it meets damage after
        it. So what isn't a whole pickle counts if it calls something, or (`strict`) begins as one; and if
        it is `certain` that it will be unpickled, always.
        """
        at = 0
        stream = torchfile.is_torch(data) and not sniff.is_zip(data[:4])
        for _ in range(_TORCH_STREAM if stream else _MOST_IN_A_ROW):
            rest = data[at:] if at else data
            if not rest:
                return True
            end = self._one(rest, label, depth, certain and not at, strict or stream)
            if not end:
                if alone and at and rest.strip(b"\0") and not sniff.is_zip(rest) and not sniff.text_of(data):
                    self.unseen.append(_about(label, f"{len(rest)} bytes after the pickle"))
                return at > 0
            at += end
        if not stream and at < len(data):
            self.unseen.append(_about(label, f"what follows {_MOST_IN_A_ROW} pickles"))
        return True

    def _one(self, data: bytes, label: str, depth: int, certain: bool, strict: bool) -> int:
        """The end of the pickle that `data` begin with, or of all where that isn't clear; 0 for none."""
        if depth > self._limits.depth:
            steps = step_over(data, most=_MOST_STEPS)
            if steps.whole or steps.calls:
                self.refused.append(_about(label, f"nested more than {self._limits.depth} deep"))
            return 0
        begins = data[:1] == b"\x80" and data[1:2] <= b"\x05"
        budget = DEFAULT if certain or (begins and not depth) else _INNER
        uses: list[GlobalUse] = []
        machine = Machine(data, None, budget, uses)
        inner: list[bytes] | None = None
        value, error = _try_run(machine)
        if any(joblib.is_wrapper(use.name) for use in uses):
            value, error, inner = self._joblib(data, budget, uses)
        if error is not None and not certain:
            calls = step_over(data, most=_MOST_STEPS).calls or any(use.called for use in uses)
            if not calls and not (begins and (strict or uses)):
                return 0
            certain = strict or not any(rank(use.name) == "code" for use in uses)
        if error is None and inner is None and _only_views(uses):
            uses = [use for use in uses if use.name != "builtins.getattr"]
        for use in uses:
            count, position = self.uses.get(use.name, (0, use.position))
            self.uses[use.name] = (count + use.called, position)
        if error is not None and certain:
            self.refused.append(_about(label, f"{error.what}: {error.why}"))
        for pickled in inner or ():
            self._pickle(pickled, label, depth + 1, True)
        self._inside(value, label, depth)
        steps = step_over(data)
        return steps.end if steps.whole and inner is None else len(data)

    def _joblib(
        self, data: bytes, budget: Budget, plain: list[GlobalUse]
    ) -> tuple[Any, UnsafeContent | None, list[bytes]]:
        """The same with joblib's arrays passed over; `plain` are the uses without, and get those with.

        A plain ``pickle.load`` would take the arrays' bytes for opcodes, so what these call counts as well.
        """
        uses: list[GlobalUse] = []
        machine = Machine(data, None, budget, uses)
        inner = joblib.skip_arrays(machine)
        value, error = _try_run(machine)
        known = {(use.name, use.position) for use in uses}
        called = {use.name for use in plain if use.called and _is_name(use.name)}
        strange = [use for use in plain if use.name in called and (use.name, use.position) not in known]
        plain[:] = uses + strange
        return value, error, inner

    def _inside(self, value: Any, label: str, depth: int) -> None:
        """What every byte string below `value` holds, and every text, in whatever encoding."""
        texts = []
        for item in _parts(value):
            if isinstance(item, Opaque):
                self._note_piece(item)
            elif isinstance(item, str):
                texts.append(item)
            elif item and not self._find(bytes(item), label, depth + 1, False) and depth < self._limits.depth:
                self._msgpack(bytes(item), depth + 1)
        if texts:
            self._find_encoded("\0".join(texts).encode("utf-8", "surrogatepass"), label, depth)

    def _note_piece(self, item: Opaque) -> None:
        state = item.state
        if item.name == _STORAGE_INFO and isinstance(state, dict):
            name, offset, length = (state.get(key) for key in ("relative_path", "offset", "length"))
            if type(name) is str and type(offset) is int and type(length) is int:
                self.pieces.append((name, offset, length))

    def _msgpack(self, data: bytes, depth: int) -> bool:
        """Whether it is a list or map of MessagePack, the way RLlib writes it."""
        if not (0x80 <= data[0] <= 0x9F or 0xDC <= data[0] <= 0xDF):
            return False
        try:
            value = rllib_msgpack.loads(data)
        except UnsafeContent:
            return False
        for item in _parts(value):
            if isinstance(item, Opaque) and not item.name.startswith("msgpack.ext"):
                calls, position = self.uses.get(item.name, (0, 0))  # an object array, which RLlib unpickles
                self.uses[item.name] = (calls + 1, position)
        self._inside(value, "", depth)
        return True

    # ---- Containers

    def _zip(self, data: bytes, label: str, depth: int) -> bool:
        """Whether it is a zip archive; of several behind one another the last is looked into first."""
        certain = data.startswith(b"PK\x03\x04")
        known = False
        while data:
            try:
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    infos = archive.infolist()
                    self._zip_members(archive, infos, label, depth)
            except torchfile.DAMAGED_ZIP as error:
                if certain:
                    self.refused.append(_about(label, f"not a whole zip archive ({error})"))
                return known or certain
            known = True
            first = min((info.header_offset for info in infos), default=0)
            if not data.startswith(b"PK\x03\x04") or not first or not self._take_member(label):
                break
            data = data[:first]
        return known

    def _zip_members(
        self, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], label: str, depth: int
    ) -> None:
        names = {info.filename for info in infos}
        for info in infos:
            member = f"{label}!{info.filename}" if label else info.filename
            record = _TORCH_RECORD.match(info.filename)
            if (info.is_dir() and not info.file_size) or (record and f"{record[1]}/data.pkl" in names):
                continue  # numbers, which torch copies into a storage
            if not self._take_member(member):
                return
            if info.flag_bits & 1:
                self.unseen.append(_about(member, "it is encrypted"))
                continue
            with archive.open(info) as file:
                content = file.read(self._left + 1)
            if self._take(len(content), member):
                self._top(content, member, info.filename.endswith(".pkl"), depth + 1)

    def _tar(self, data: bytes, label: str, depth: int) -> bool:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                names = set()
                for info in archive:
                    member = f"{label}!{info.name}" if label else info.name
                    names.add(info.name)
                    if not self._take_member(member):
                        return True
                    file = archive.extractfile(info) if info.isreg() else None
                    if file is None:
                        continue
                    content = file.read(self._left + 1)
                    if not self._take(len(content), member):
                        continue
                    if info.name in torch_tar.MEMBERS and not content.startswith(b"PK"):
                        self._torch_tar(info.name, content, member, depth)
                    else:
                        self._top(content, member, False, depth + 1)
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            self.refused.append(_about(label, f"not a whole tar archive ({str(error)[:80]})"))
        return True

    def _torch_tar(self, name: str, content: bytes, label: str, depth: int) -> None:
        try:
            for pickled in torch_tar.pickles_of(name, content):
                self._pickle(pickled, label, depth + 1, True)
        except UnsafeContent as error:
            self.refused.append(_about(label, f"{error.what}: {error.why}"))

    def _expand(self, name: str, data: bytes, label: str, depth: int, alone: bool) -> bool:
        content, problem, whole = inflate.inflate(name, data, self._left)
        self._left -= len(content)
        if not content and problem and (name in ("zlib", "lzma") or not alone):
            return False  # two or three bytes that look like it are no proof
        if problem and (alone or not whole):
            self.unseen.append(_about(label, problem))
        if content and alone:
            self._top(content, f"{label}!{name}" if label else name, False, depth + 1)
        elif content:
            self._find(content, label, depth + 1, False)
        return True

    def _text(self, data: bytes, label: str, depth: int) -> bool:
        """Whether it is text; looks into the pickles that it may hold in some encoding."""
        text = sniff.text_of(data)
        if text is None:
            return False
        if (label or self.path).endswith(".py"):
            self.unseen.append(_about(label, "source code"))
        if found := _YAML_OBJECT.search(text):
            self.uses.setdefault("yaml !!python/", (1, found.start()))
        for match in _JSONPICKLE.finditer(text):
            self._jsonpickle(match[1], match[2] or "", match.start())
        if text.lstrip()[:1] in ("{", "[") and len(data) > self._limits.text_bytes:
            self.unseen.append(_about(label, f"JSON of more than {self._limits.text_bytes} bytes"))
        elif (document := sniff.json_of(text)) is not None:
            texts = self._json(document, label, depth)
            if depth < self._limits.depth:
                for inner in texts:
                    if inner.lstrip()[:1] in ("{", "["):
                        self._text(inner.encode("utf-8", "surrogatepass"), label, depth + 1)
            if "\\" in text:  # which may hide anything in the file's own text; no encoding has a NUL
                self._find_encoded("\0".join(texts).encode("utf-8", "surrogatepass"), label, depth)
        self._find_encoded(data, label, depth)
        return True

    def _json(self, document: Any, label: str, depth: int) -> list[str]:
        """Looks at all that stands in a document, and returns the texts in it."""
        pending, texts = [document], list[str]()
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                if item.get("class_name") in ("Lambda", "__lambda__"):
                    self.uses["keras.layers.Lambda"] = (1, 0)
                serialized = item.get(_SERIALIZED)
                if isinstance(serialized, str):
                    self._look_at_serialized(serialized, label, depth)
                for key, value in item.items():
                    if key.startswith("py/"):
                        self._jsonpickle(key[3:], value if isinstance(value, str) else "", 0)
                pending += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                if len(item) >= encoded.LEAST and all(type(each) is int and 0 <= each < 256 for each in item):
                    self._look_at_decoded(bytes(item), label, depth)
                else:
                    pending += item
            elif isinstance(item, str) and len(item) >= encoded.LEAST:
                if item[0] == "\x80" and (plain := item.encode("latin-1", "ignore")):
                    self._look_at_decoded(plain, label, depth)
                texts.append(item)
        return texts

    def _jsonpickle(self, kind: str, name: str, position: int) -> None:
        """What jsonpickle would import for ``py/kind: name``."""
        if kind in _JSONPICKLE_NAMES and name:
            self.uses.setdefault(name, (1, position))
        elif kind in _JSONPICKLE_CALLS:
            self.uses.setdefault(f"jsonpickle py/{kind}", (1, position))

    def _look_at_serialized(self, text: str, label: str, depth: int) -> None:
        try:
            pickled = base64.b64decode(text)
        except (ValueError, binascii.Error):
            self.refused.append(_about(label, f"{_SERIALIZED} that isn't base64"))
            return
        self._decoded.add(pickled)
        self._pickle(pickled, label, depth + 1, True)

    def _find_encoded(self, text: bytes, label: str, depth: int) -> None:
        """Everything in `text` that base64 and its kin may hide."""
        for data in encoded.find(text):
            if data is None:
                self.unseen.append(_about(label, "more encoded text than is decoded"))
            elif self._take(len(data), label):
                self._look_at_decoded(data, label, depth, True)

    def _look_at_decoded(self, data: bytes, label: str, depth: int, likely: bool = False) -> None:
        if data not in self._decoded and (likely or encoded.may_unpickle(data)):
            self._decoded.add(data)
            if not self._find(data, label, depth + 1, False) and depth < self._limits.depth:
                self._text(data, label, depth + 1)

    # ---- Limits

    def _take(self, size: int, label: str) -> bool:
        """Whether so many bytes more may be looked into; says so if not."""
        self._left -= size
        if self._left < 0:
            self._left = 0
            self.unseen.append(_about(label, f"over {self._limits.expanded_bytes} bytes in containers"))
            return False
        return True

    def _take_member(self, label: str) -> bool:
        self._members -= 1
        if self._members < 0:
            self.unseen.append(_about(label, f"more than {self._limits.members} members"))
        return self._members >= 0


def _only_views(uses: Sequence[GlobalUse]) -> bool:
    """Whether ``getattr`` only takes the view method of tensors, as in our files of torch's types.

    It is called as that (`name_for_scan`), and all else that is called makes plain values: none of those
    calls what it is given, so that nothing else reaches the name.
    """
    called = {use.name for use in uses if use.called}
    return VIEW_METHOD in called and all(rank(name) == "data" for name in called)


def _try_run(machine: Machine) -> tuple[Any, UnsafeContent | None]:
    """What the pickle makes, or why that can't be told."""
    try:
        return run(machine), None
    except UnsafeContent as refusal:
        return None, refusal


def _about(label: str, why: str) -> str:
    return f"{label}: {why}" if label else why


def _is_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _parts(value: Any) -> Iterator[Any]:
    """Byte strings, longer texts and records below `value`, each object once."""
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (bytes, bytearray)) or (isinstance(item, str) and len(item) >= encoded.LEAST):
            yield item
        elif isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            pending += item
        elif isinstance(item, np.ndarray) and item.dtype.hasobject and item.dtype.names is None:
            pending += item.ravel().tolist()
        elif isinstance(item, Opaque):
            yield item
            pending += [item.args, item.kwargs, item.state, item.items, item.entries]
