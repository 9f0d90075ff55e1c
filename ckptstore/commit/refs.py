"""Tags and pins: movable names for checkpoints, as numbered create-only files of which the highest wins.

``_ckptstore/refs/<name>/<n:012>.json`` holds the checkpoint's name and id, or null once untagged. To
move a tag is to create the next number: of two movers one gets it and the other tries the number
after. That is a compare-and-swap which S3, GCS and a local disk all have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import retry_if_corrupt, translate_errors
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    CheckpointProtected,
    InvalidRequest,
    StoreUnavailable,
)
from ckptstore.format import names, strictjson

SCHEMA_VERSION = 1
"""Of what is written."""
NEWEST = 2
"""What is read: from schema 2 on a ref may hold more than its reader knows."""
_NUMBER = re.compile(r"(\d{12})\.json\Z", re.ASCII)
_MAX_TRIES = 100


class Target(NamedTuple):
    """What a ref points at: the directory's name, and the id of the save, which outlives renames."""

    name: str
    id: str
    newer: str = ""
    """Why it isn't followed, if a later release wrote it: then it protects what it points at, and no more."""


def read_all(backend: Backend, *, lost: bool = False, store: str = "") -> dict[str, Target]:
    """Every ref that points somewhere, pins included. `store` is the store's directory, where not the root.

    That there is none protects nothing, so it is taken only from a listing that shows ``store.json`` too;
    unless that is known to be `lost`, where nothing is ever removed.
    """
    highest: dict[str, int] = {}
    folder = f"{store}/" if store else ""
    with translate_errors(f"{backend.url}/{folder}{names.REFS}"):
        listed = [item._replace(key=item.key[len(folder) :]) for item in backend.list(folder + names.META)]
    if odd := [item.key for item in listed if item.size < 0 and f"{item.key}/".startswith(f"{names.REFS}/")]:
        raise CheckpointCorrupt(f"{backend.url}/{odd[0]}", "it is a link, pipe or device, and may hide refs")
    if not lost and not any(item.key == names.STORE for item in listed):
        raise StoreUnavailable(f"{backend.url}/{names.META}", "its listing lacks the store's own file")
    for item in listed:
        ref, _, file = item.key.removeprefix(names.REFS + "/").rpartition("/")
        if not names.stays_below(ref):
            continue  # no ref of ours: it would be read elsewhere
        if item.key.startswith(names.REFS + "/") and (number := _parse_number(file)):
            highest[ref] = max(highest.get(ref, 0), number)
    found = {ref: _read_listed(backend, ref, number, folder) for ref, number in sorted(highest.items())}
    return {ref: target for ref, target in found.items() if target is not None}


def write(backend: Backend, ref: str, target: Target | None) -> int:
    """Point `ref` at `target`, or with None at nothing. Durable; the last mover wins. The move's number."""
    data = _encode(target)
    where = f"{backend.url}/{names.REFS}/{ref}"
    with translate_errors(where):
        number = max(_numbers(backend, ref), default=0)
        for _ in range(_MAX_TRIES):
            number += 1
            if number > names.MAX_MOVE:
                why = f"it was moved {names.MAX_MOVE} times, and its files have no higher number"
                raise InvalidRequest(where, why, "Use another name, or remove its last file")
            try:
                backend.publish(_key(ref, number), data)
                return number
            except FileExistsError:
                continue  # another mover, or our own write whose reply was lost: the next number settles it
    raise StoreUnavailable(where, f"{_MAX_TRIES} other writers moved it meanwhile")


def write_next(backend: Backend, ref: str, number: int, target: Target | None) -> bool:
    """The same, if the move `number` is still the last one; else False."""
    with translate_errors(f"{backend.url}/{names.REFS}/{ref}"):
        try:
            backend.publish(_key(ref, number + 1), _encode(target))
        except FileExistsError:
            return False
        return True


def remove(backend: Backend, ref: str) -> None:
    """Forget `ref`, whose name nobody uses again, with every move there was."""
    with translate_errors(f"{backend.url}/{names.REFS}/{ref}"):
        numbers = {1, *_numbers(backend, ref)}  # the first, also where a listing is too old to show it
        backend.delete([_key(ref, number) for number in sorted(numbers)])


def is_there(backend: Backend, ref: str, number: int) -> bool:
    """Whether the move `number` of `ref` can be read, whatever a listing says."""
    with translate_errors(f"{backend.url}/{names.REFS}/{ref}"):
        try:
            backend.read(_key(ref, number), most=strictjson.MAX_SMALL_BYTES)
        except FileNotFoundError:
            return False
        return True


def prefix_of(ref: str) -> str:
    """The directory in which the moves of `ref` lie."""
    return f"{names.REFS}/{ref}"


def read_at(backend: Backend, ref: str, number: int) -> Target | None:
    """What `ref` pointed at by the move `number`; nothing before the first."""
    return _read(backend, ref, number) if number else None


def parse_name(target: Target, where: str) -> names.CheckpointName:
    """The directory that `target` points at, parsed. CheckpointCorrupt about the ref at `where`."""
    name = names.CheckpointName.parse(target.name)
    if name is None:
        why = f"it points at {target.name[:80]!r}, which is not a checkpoint name"
        raise CheckpointCorrupt(where, why, "Move it with tag(), or remove it with untag()")
    return name


def refs_to(refs: Mapping[str, Target], name: str) -> list[str]:
    """The refs that point at the directory `name`, as people call them."""
    return [
        "a pin" if ref.startswith(names.PIN) else f"tag {ref!r}"
        for ref, target in refs.items()
        if target.name == name
    ]


def check_unnamed(backend: Backend, name: names.CheckpointName) -> None:
    """CheckpointProtected if a ref points at the directory `name` now."""
    check_none_points_at(read_all(backend), backend, name)


def check_none_points_at(refs: Mapping[str, Target], backend: Backend, name: names.CheckpointName) -> None:
    """CheckpointProtected if one of `refs` points at the directory `name`."""
    if found := refs_to(refs, str(name)):
        why = f"{', '.join(found)} points at it"
        raise CheckpointProtected(f"{backend.url}/{name}", why, "Use untag() or unpin() first")


def _encode(target: Target | None) -> bytes:
    pair = target and {"name": target.name, "id": target.id}
    body = {"schema_version": SCHEMA_VERSION, "target": pair}
    return (strictjson.dumps(body) + "\n").encode("ascii")


def _parse_number(file: str) -> int:
    """The number of the move that `file` is; 0 for any other: one rule for those who read and who write."""
    match = _NUMBER.match(file)
    number = int(match[1]) if match else 0
    return number if number <= names.MAX_MOVE else 0


def _numbers(backend: Backend, ref: str) -> Iterable[int]:
    for item in backend.children(f"{names.REFS}/{ref}"):
        if number := _parse_number(item):
            yield number


def _key(ref: str, number: int) -> str:
    return f"{names.REFS}/{ref}/{number:012}.json"


def _read_listed(backend: Backend, ref: str, number: int, folder: str) -> Target | None:
    """What `ref` points at; nothing if it is a rollback's, which ended since it was listed."""
    try:
        return _read(backend, ref, number, folder)
    except CheckpointNotFound:
        if not ref.startswith(names.HOLD):
            raise
        return None


@retry_if_corrupt
def _read(backend: Backend, ref: str, number: int, folder: str = "") -> Target | None:
    key = folder + _key(ref, number)
    source = f"{backend.url}/{key}"
    with translate_errors(source):
        data = backend.read(key, most=strictjson.MAX_SMALL_BYTES)
    raw = strictjson.loads(data, source)
    newer = strictjson.newer(raw, NEWEST)
    fields = strictjson.Fields(raw, source)
    schema = fields.take("schema_version", int, lambda value: value >= 1)
    target = fields.take_optional("target", dict)
    if schema == 1:
        fields.finish()
    if target is None:
        return None
    inner = strictjson.Fields(target, source)
    found = Target(inner.take("name", str), inner.take("id", str), newer)
    if schema == 1:
        inner.finish()
    return found
