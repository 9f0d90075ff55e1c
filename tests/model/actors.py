"""Actors beside the writers: a deleter, a tagger, a sweep and a reader."""

from __future__ import annotations

from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.states import small_state
from ckptstore.errors import CheckpointGone, CheckpointProtected
from ckptstore.format.names import MANIFEST
from tests.model.world import PAYLOAD, Body, Events, id_in


def deleter(times: int = 1) -> Body:
    """An actor that deletes what it finds committed, the highest attempt first."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        for _ in range(times):
            visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
            if visible:
                events.deleting.update(visible)
                catalog.delete(visible[-1], lambda: _check_tags(catalog))

    return body


TAG = "_ckptstore/refs/champion/1.json"


def _check_tags(catalog: RegisterCatalog) -> None:
    if catalog.backend.list("_ckptstore/refs"):
        raise CheckpointProtected("it is tagged")


def tagger() -> Body:
    """An actor that tags what it finds committed; a tag that was refused is taken back."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
        for found in visible[-1:]:
            try:
                with catalog.guard(found):
                    catalog.backend.publish(TAG, str(found).encode())
            except CheckpointGone:
                catalog.backend.delete([TAG])
            else:
                events.tagged.add(found)

    return body


def sweeper(times: int = 1) -> Body:
    """An actor that takes every unfinished attempt for dead."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        for _ in range(times):
            catalog.sweep(-1.0)

    return body


def reader() -> Body:
    """An actor that reads what it finds committed, and must never be handed another's bytes."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
        for found in visible[-1:]:
            try:
                manifest = catalog.backend.read(f"{found}/{MANIFEST}")
                payload = [catalog.backend.read(f"{found}/{path}").decode() for path in PAYLOAD]
            except FileNotFoundError:
                continue
            if small_state(manifest) is None and payload != [id_in(manifest)] * len(PAYLOAD):
                events.errors.append(f"I5 the reader of {id_in(manifest)} got {payload}")

    return body
