"""The manifest: the one small file whose presence makes a checkpoint exist.

A JSON object whose last field, ``digest``, covers every byte before it, so a reader needs no rules of
canonical JSON. Committed manifests are at least ``MIN_MANIFEST_BYTES`` long and the tombstones and
seals of object stores at most ``SMALL_STATE_BYTES``: a listing alone tells them apart.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.format import metrics, strictjson
from ckptstore.format.digest import ALGORITHM, digest, is_digest
from ckptstore.format.names import MANIFEST, MAX_STEP, MIN_MANIFEST_BYTES, relative_path
from ckptstore.version import __version__

SCHEMA_VERSION = 2
"""Of what is written. Schema 1 is read for ever, and written again as it was."""
DIRECTORY = "Directory"
"""The kind of what neither ckptstore nor RLlib laid out."""
KINDS = (
    "Algorithm",
    "Policy",
    "LearnerGroup",
    "Learner",
    "MultiRLModule",
    "RLModule",
    "Checkpointable",
    DIRECTORY,
)
ORIGINS = ("save", "stage", "adopt", "migrate")
RELATIONS = ("resume", "fork", "migrate")

SIGNATURE_ALGORITHM = "ed25519"
_SIGNED_AS = b"ckptstore manifest\n"  # so that no signature of something else can pass for one of a manifest

_DIGEST_FIELD = b',"digest":"'
_TAIL = len(_DIGEST_FIELD) + 64 + len(b'"}\n')


class File(NamedTuple):
    """One payload file: path inside the checkpoint, size in bytes, digest."""

    path: str
    size: int
    digest: str


class Parent(NamedTuple):
    """The checkpoint this one came from, and how: resume, fork or migrate."""

    id: str
    relation: str


class Signature(NamedTuple):
    """Who vouches for a manifest: an Ed25519 public key (64 hex digits), and its signature (128)."""

    key: str
    value: str


Check = Callable[[Signature | None, bytes, str, str], object]
"""Raises unless it accepts a signature of a message, which says the store that it is for; the third argument
names the file for errors."""


@dataclass(frozen=True)
class Manifest:
    """What a committed checkpoint is. Everything a reader needs beside the payload itself."""

    id: str
    """Identity of the attempt that wrote it."""
    step: int
    kind: str
    """What the payload is: "Algorithm", "Policy" or another of `KINDS`."""
    origin: str
    """Who laid out the payload: "save" (ckptstore, from objects it was given), "migrate" (ckptstore, as
    RLlib would, from an older checkpoint), or another program whose files were committed ("stage") or
    adopted in place ("adopt") as they were."""
    checkpoint_version: str
    """RLlib's own format version of the payload; not the schema of this file."""
    format: str
    """RLlib's name of the encoding, "cloudpickle" for what we write."""
    created: str
    """When the save began: UTC, ISO 8601. For people; no decision rests on it."""
    writer: Mapping[str, str]
    """Package versions of whoever wrote it."""
    parent: Parent | None
    metrics: Mapping[str, Any]
    labels: tuple[str, ...]
    policies: tuple[str, ...]
    files: tuple[File, ...]
    """Every payload file, by path. ``_ckptstore/parts.json`` is not among them."""
    parts: File
    """``_ckptstore/parts.json`` itself."""
    store: str = ""
    """Id of the store that it was saved in, whose signature it is; empty in schema 1. Copies keep it."""
    signature: Signature | None = None
    schema: int = SCHEMA_VERSION
    text: bytes = field(default=b"", init=False, repr=False, compare=False)
    """What it was loaded from: a copy is the same to the byte, fields that mean nothing here included. Empty
    for what `dataclasses.replace` makes of it."""

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(file.size for file in self.files)

    def sign_with(self, sign: Callable[[bytes], Signature]) -> Manifest:
        """The same, vouched for by whoever `sign` signs for."""
        return replace(self, signature=sign(_SIGNED_AS + self._body()))

    def dump(self) -> bytes:
        """The bytes to commit; InvalidRequest for more than a reader takes."""
        if self.text:
            return self.text
        told = self._body() + _signature_field(self.signature)
        data = told + _DIGEST_FIELD + digest(told).encode("ascii") + b'"}\n'
        return strictjson.readable(data, MANIFEST)

    def _body(self) -> bytes:
        """All of it up to the signature and the digest."""
        body = {
            **({} if self.schema == 1 else {"store": self.store, "requires": []}),
            "schema_version": self.schema,
            "state": "committed",
            "id": self.id,
            "step": self.step,
            "kind": self.kind,
            "origin": self.origin,
            "checkpoint_version": self.checkpoint_version,
            "format": self.format,
            "created": self.created,
            "writer": dict(self.writer),
            "parent": self.parent and self.parent._asdict(),
            "metrics": metrics.encode(self.metrics),
            "labels": list(self.labels),
            "policies": list(self.policies),
            "files": [file._asdict() for file in self.files],
            "parts": self.parts._asdict(),
            "digest_algorithm": ALGORITHM,
            "padding": "",
        }
        text = strictjson.dumps(body)
        if (short := MIN_MANIFEST_BYTES - (len(text) - 1 + _TAIL)) > 0:
            text = strictjson.dumps({**body, "padding": " " * short})
        return text[:-1].encode("ascii")


def _signature_field(signature: Signature | None) -> bytes:
    if signature is None:
        return b""
    fields = {"algorithm": SIGNATURE_ALGORITHM, **signature._asdict()}
    return b',"signature":' + strictjson.dumps(fields).encode("ascii")


def load(data: bytes, source: str, check: Check | None = None) -> Manifest:
    """Parse a committed manifest, checking its digest first, and its signature by `check` if given.

    Raises CheckpointCorrupt naming `source` for anything but a whole, committed manifest, and
    UnreadableFormat for one of a newer schema.
    """
    fields = _fields_of(data, source)
    told = data[:-_TAIL]
    signature = _signature(fields.take("signature", dict) if fields.has("signature") else None, source)
    if not told.endswith(field := _signature_field(signature)):
        raise CheckpointCorrupt(source, "the signature isn't where it belongs")
    schema = fields.take("schema_version", int, lambda value: 1 <= value <= SCHEMA_VERSION)
    store = "" if schema == 1 else fields.take("store", str, lambda value: len(value) <= 128)
    if check is not None:
        check(signature, _SIGNED_AS + told[: len(told) - len(field)], source, store)
    if schema > 1:
        fields.take_strings("requires")  # all of it known, or it wouldn't have come so far
    fields.take("state", str, lambda value: value == "committed")
    fields.take("padding", str)
    writer = fields.take("writer", dict, lambda value: all(isinstance(item, str) for item in value.values()))
    manifest = Manifest(
        id=fields.take("id", str, lambda value: 0 < len(value) <= 128),
        step=fields.take("step", int, lambda value: 0 <= value <= MAX_STEP),
        kind=fields.take("kind", str, lambda value: value in KINDS),
        origin=fields.take("origin", str, lambda value: schema > 1 or value in ORIGINS),
        checkpoint_version=fields.take("checkpoint_version", str),
        format=fields.take("format", str),
        created=fields.take("created", str),
        writer=writer,
        parent=_parent(fields.take_optional("parent", dict), source, schema),
        metrics=metrics.decode(fields.take("metrics", dict), source),
        labels=fields.take_strings("labels"),
        policies=fields.take_strings("policies"),
        files=tuple(_file(entry, source) for entry in fields.take("files", list)),
        parts=_file(fields.take("parts", dict), source),
        store=store,
        signature=signature,
        schema=schema,
    )
    object.__setattr__(manifest, "text", data)
    if schema == 1:
        fields.finish()
    paths = [file.path for file in manifest.files]
    if paths != sorted(set(paths)):
        raise CheckpointCorrupt(source, "the files are not in order, or one is named twice")
    return manifest


def _fields_of(data: bytes, source: str) -> strictjson.Fields:
    """The fields, once the digest is right: what is damaged says nothing true of its schema either."""
    raw = strictjson.loads(data, source)
    why, algorithm = strictjson.newer(raw, SCHEMA_VERSION), raw.get("digest_algorithm")
    tail = _DIGEST_FIELD + digest(data[:-_TAIL]).encode("ascii") + b'"}\n'
    if data[-_TAIL:] != tail and (algorithm == ALGORITHM or not why):
        raise CheckpointCorrupt(source, "the manifest's own digest does not match")
    if why:
        raise UnreadableFormat(source, why, "Upgrade ckptstore")
    fields = strictjson.Fields(raw, source)
    fields.take("digest_algorithm", str, lambda value: value == ALGORITHM)
    fields.take("digest", str)
    return fields


def _signature(raw: dict[str, Any] | None, source: str) -> Signature | None:
    if raw is None:
        return None
    fields = strictjson.Fields(raw, source)
    algorithm = fields.take("algorithm", str)
    if algorithm != SIGNATURE_ALGORITHM:
        raise UnreadableFormat(
            source, f"it is signed by {algorithm[:40]!r}, not {SIGNATURE_ALGORITHM}", "Upgrade ckptstore"
        )
    signature = Signature(
        fields.take("key", str, lambda value: re.fullmatch("[0-9a-f]{64}", value) is not None),
        fields.take("value", str, lambda value: re.fullmatch("[0-9a-f]{128}", value) is not None),
    )
    fields.finish()
    return signature


def _parent(raw: dict[str, Any] | None, source: str, schema: int) -> Parent | None:
    if raw is None:
        return None
    fields = strictjson.Fields(raw, source)
    parent = Parent(
        fields.take("id", str),
        fields.take("relation", str, lambda value: schema > 1 or value in RELATIONS),
    )
    fields.finish()
    return parent


def _file(raw: object, source: str) -> File:
    if not isinstance(raw, dict):
        raise CheckpointCorrupt(source, "a file entry is not an object")
    fields = strictjson.Fields(raw, source)
    file = File(
        relative_path(fields.take("path", str), source),
        fields.take("size", int, strictjson.is_size),
        fields.take("digest", str, is_digest),
    )
    fields.finish()
    return file


_STORED = "python_of_stored"


def writer_versions(stored: Iterable[str] = ()) -> dict[str, str]:
    """What wrote a checkpoint, for whoever has to find out in years. No host, no user, no path.

    `stored` are the versions of Python that pickled what was taken over from other checkpoints.
    """
    here = platform.python_version()
    versions = {"ckptstore": __version__, "python": here, "numpy": np.__version__}
    others = sorted(set(stored) - {here})
    return {**versions, _STORED: ",".join(others)} if others else versions


def pythons_of(writer: Mapping[str, str]) -> tuple[str, ...]:
    """Versions of the Pythons that may have pickled the files, the writer's first; "" if it isn't known."""
    return (writer.get("python", ""), *filter(None, writer.get(_STORED, "").split(",")))
