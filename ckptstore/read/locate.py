"""Find out what lies at a URL: a checkpoint, one file of an old one, or a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ckptstore.backends.base import Backend, NotPlain
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import to_typed_error, translate_errors
from ckptstore.backends.urls import parent_url
from ckptstore.errors import CheckpointError, CheckpointNotFound, CheckpointUntrusted, InvalidRequest
from ckptstore.format import names
from ckptstore.format.manifest import Check, Manifest
from ckptstore.format.marks import V0_FILE, is_mark
from ckptstore.read.manifests import require_manifest

_NOTHING = "there is no checkpoint in this directory"


class Located(NamedTuple):
    """A directory, with what tells what it is."""

    backend: Backend
    manifest: Manifest | None
    listing: Mapping[str, int]
    """Path to size in bytes of every file in it; empty where a manifest says so already."""

    @property
    def is_store(self) -> bool:
        """Whether it is a store and not a checkpoint."""
        marked = any(is_mark(path) for path in self.listing)  # one that was opened as a store by mistake
        return self.manifest is None and names.STORE in self.listing and not marked


def locate(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None, trust: Check | None = None
) -> Located:
    """Look at `url` once. A file that Ray up to 1.13 called ``checkpoint-<n>`` stands for its directory.

    One that another trainer wrote is a checkpoint of its own. Raises CheckpointNotFound if nothing is there,
    InvalidRequest for any other file, what reading a file raises, CheckpointUntrusted
    for a directory without a manifest if `trust` is given, and what fetching a manifest raises.
    """
    backend = open_backend(url, storage_options)
    try:
        return _look(backend, trust)
    except (CheckpointNotFound, InvalidRequest) as error:
        through_a_file = isinstance(error.__cause__, NotADirectoryError)
        if isinstance(error, InvalidRequest) and not through_a_file:
            raise
        parent, name = parent_url(backend.url)
        directory = open_backend(parent, storage_options) if parent else None
        if directory is None or not _is_file(directory, name):
            if through_a_file and directory is not None:
                _refuse_denied(directory, name)
            if through_a_file and directory is not None and _is_link(directory, name):
                why = "it is a link, pipe or device, which isn't followed"
                raise InvalidRequest(backend.url, why, "Name the file that it leads to") from error
            if through_a_file:
                raise CheckpointNotFound(backend.url, "a part of its path is a file") from error
            raise
        if V0_FILE.match(name):
            return _look(directory, trust)
        if (alone := _look_at_file(directory, name, trust)) is not None:
            return alone
        why, remedy = _describe_file(directory, name)
        raise InvalidRequest(backend.url, why, remedy) from error


def find_file(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> tuple[Backend, str] | None:
    """The directory and the name in it of the file `url`; None if it isn't a file that can be read."""
    parent, name = parent_url(open_backend(url, storage_options).url)
    if not parent or not name:
        return None
    directory = open_backend(parent, storage_options)
    return (directory, name) if _is_file(directory, name) else None


def list_files(backend: Backend, prefix: str, where: str) -> dict[str, int]:
    """Every file in the directory `prefix` now, and its size in bytes. Errors name `where`."""
    with translate_errors(where):
        start = len(prefix) + 1 if prefix else 0  # what else begins with a slash is a name like any other
        return {item.key[start:]: item.size for item in backend.list(prefix)}


def _look(backend: Backend, trust: Check | None) -> Located:
    manifest = require_manifest(backend, "", backend.url, trust)
    if manifest is not None:
        return Located(backend, manifest, {})
    try:
        listing = list_files(backend, "", backend.url)
    except CheckpointNotFound as error:  # a bucket has no directories, and lists nothing
        raise CheckpointNotFound(backend.url, _NOTHING, "Check the URL") from error.__cause__
    if not any(not path.startswith(f"{names.META}/") for path in listing) and names.STORE not in listing:
        raise CheckpointNotFound(backend.url, _NOTHING, "Check the URL")
    return Located(backend, None, listing)


def _look_at_file(directory: Backend, name: str, trust: Check | None) -> Located | None:
    """The file `name` as a checkpoint of its own; None for what no trainer writes, or RLlib with others."""
    # Here, as few checkpoints are such files.
    from ckptstore.backends.one_file import OneFile, size_of
    from ckptstore.trainer_formats.detect import open_file
    from ckptstore.trainer_formats.source import Source

    if is_mark(name):
        return None
    where = f"{directory.url.rstrip('/')}/{name}"
    with translate_errors(where):
        found = OneFile(directory, name, size_of(directory, name))
        try:
            known = open_file(Source({name: found.size}, found.read), name) is not None
        except CheckpointError as error:
            raise type(error)(where, error.why, error.remedy) from error
    if not known:
        return None
    if trust is not None:
        raise CheckpointUntrusted(where, "it has no manifest that could be signed")
    return Located(found, None, {name: found.size})


def _describe_file(directory: Backend, name: str) -> tuple[str, str]:
    """What a file is that nobody here can open, and the remedy: first what downloads make of whole ones."""
    from ckptstore.codec.inflate import compression_of

    again = "Download or copy it again"
    try:
        head = _head_of(directory, name)
    except EOFError:
        head = b""
    if not head:
        return "it is a file, and empty", again
    if head.startswith(b"version https://git-lfs"):
        return "it is a file, and only a pointer of Git LFS", "Fetch what it points at: git lfs pull"
    if compressed := compression_of(head):
        return f"it is a file, compressed ({compressed})", "Decompress it first"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a file, and a web page", "Download the file itself: its page shows the address"
    within = f"name the checkpoint's directory, perhaps {directory.url}"
    if is_mark(name):
        return "it is a file", within[:1].upper() + within[1:]
    why = "it is a file in no format known here, and may be cut short or damaged"
    return why, f"{again}; or, if it is a part of a checkpoint, {within}"


def _head_of(directory: Backend, name: str) -> bytes:
    from ckptstore.backends.one_file import size_of

    with translate_errors(f"{directory.url.rstrip('/')}/{name}"):
        return directory.read(name, 0, min(size_of(directory, name), 512))


def _refuse_denied(directory: Backend, name: str) -> None:
    """StoreDenied for a file that may not be read: it is there."""
    try:
        directory.read(name, 0, 1)
    except PermissionError as error:
        raise to_typed_error(error, f"{directory.url.rstrip('/')}/{name}") from error
    except (OSError, EOFError):
        return  # `locate` says what it is


def _is_link(directory: Backend, name: str) -> bool:
    try:
        directory.read(name, 0, 1)
    except NotPlain as error:
        return str(error.filename).rpartition(os.sep)[2] == name
    except OSError:
        return False
    return False


def _is_file(directory: Backend, name: str) -> bool:
    try:
        directory.read(name, 0, 1)
    except EOFError:
        return True  # an empty one
    except OSError:
        return False
    return True
