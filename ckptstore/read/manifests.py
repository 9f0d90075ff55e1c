"""Fetch a manifest and check it."""

from __future__ import annotations

import enum
import json

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import retry_if_corrupt, translate_errors
from ckptstore.errors import CheckpointUntrusted
from ckptstore.format import names, strictjson
from ckptstore.format.manifest import Check, Manifest, load


class Missing(enum.Enum):
    """Why a directory has no manifest."""

    ABSENT = "nothing is there, or not yet, or not any more"
    DEAD = "it was deleted, or given up before it was whole"


def fetch_manifest(backend: Backend, prefix: str, label: str, check: Check | None = None) -> Manifest | None:
    """The manifest of the directory `prefix`; None if it has none or was deleted or never finished.

    Raises CheckpointCorrupt for one that is damaged or whose signature `check` does not accept.
    """
    found = fetch_state(backend, prefix, label, check)
    return found if isinstance(found, Manifest) else None


@retry_if_corrupt
def fetch_state(backend: Backend, prefix: str, label: str, check: Check | None = None) -> Manifest | Missing:
    """The manifest of the directory `prefix`, or why there is none.

    Raises CheckpointCorrupt for one that is damaged or whose signature `check` does not accept.
    """
    key = key_of(prefix, names.MANIFEST)
    source = f"{label}/{names.MANIFEST}"
    with translate_errors(source):
        try:
            data = backend.read(key, most=strictjson.MAX_BYTES)
        except FileNotFoundError:
            return Missing.ABSENT
    if len(data) <= names.SMALL_STATE_BYTES:
        try:
            if json.loads(data).get("state") in ("aborted", "deleted"):  # no set: it may be a list
                return Missing.DEAD
        except (ValueError, AttributeError, RecursionError):
            pass  # no seal and no tombstone: a damaged manifest, which `load` says properly
    return load(data, source, check)


def require_manifest(backend: Backend, prefix: str, label: str, trust: Check | None) -> Manifest | None:
    """Like `fetch_manifest`, but raise CheckpointUntrusted where there is none and `trust` is given."""
    manifest = fetch_manifest(backend, prefix, label, trust)
    if manifest is None and trust is not None:
        raise CheckpointUntrusted(label, "it has no manifest that could be signed")
    return manifest


def key_of(prefix: str, path: str) -> str:
    """The backend's key of the file `path` of the checkpoint in the directory `prefix`."""
    return f"{prefix}/{path}" if prefix else path
