"""From where a store was filled by a mirror: a small file for each source, so that no other replaces it.

``_ckptstore/mirrors/<digest of the source's URL>.json`` names the directory whose checkpoints were copied or
migrated here. Of a local one only the end of its path is kept: stores travel, and are read by others.
"""

from __future__ import annotations

from contextlib import suppress

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.errors import CheckpointExists
from ckptstore.format import names, strictjson
from ckptstore.format.digest import digest

_FOLDER = f"{names.META}/mirrors"
_SCHEMA_VERSION = 1
_SHOWN = 2  # components of a local path


def read_sources(backend: Backend) -> dict[str, str]:
    """Key of its file to name of every source that the store at `backend` was filled from."""
    found: dict[str, str] = {}
    with translate_errors(f"{backend.url}/{_FOLDER}"):
        for item in backend.list(_FOLDER):
            data = backend.read(item.key, most=strictjson.MAX_SMALL_BYTES)
            fields = strictjson.Fields(strictjson.loads(data, item.key), f"{backend.url}/{item.key}")
            found[item.key] = fields.take("source", str)
    return found


def note_source(backend: Backend, url: str) -> None:
    """Note that the store at `backend` holds checkpoints of the directory `url`."""
    body = {"schema_version": _SCHEMA_VERSION, "source": _shorten(url)}
    with translate_errors(f"{backend.url}/{_FOLDER}"), suppress(FileExistsError):  # noted already
        backend.publish(_key_of(url), (strictjson.dumps(body) + "\n").encode("ascii"))


def refuse_another_source(backend: Backend, url: str, step: int) -> None:
    """CheckpointExists unless the directory `url` alone has filled the store: whose `step` is it, else?"""
    others = dict(read_sources(backend))
    mine = others.pop(_key_of(url), None)
    if mine is not None and not others:
        return
    source = " and ".join(sorted(others.values())) if others else "an unknown place"
    where = f"{backend.url.rstrip('/')}/{names.CheckpointName(step)}"
    why = f"it may have come from {source}, and {url} has another checkpoint of that name"
    remedy = "Give each source a destination of its own, or remove the copy first"
    raise CheckpointExists(where, why, remedy)


def _key_of(url: str) -> str:
    return f"{_FOLDER}/{digest(url.rstrip('/').encode('utf-8', 'surrogatepass'))[:32]}.json"


def _shorten(url: str) -> str:
    if not url.startswith("file://"):
        return url
    return ".../" + "/".join(url.rstrip("/").split("/")[-_SHOWN:])
