"""``store.json``: the file that proves that there is a store, so that an empty listing means something."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Mapping
from typing import Any

from ckptstore.backends.translate import retry_if_corrupt, translate_errors
from ckptstore.commit.base import Catalog
from ckptstore.commit.place import Place, look_around, no_store, refuse_checkpoint, refuse_to_begin
from ckptstore.errors import CheckpointCorrupt, StoreNotFound, StoreUnavailable, UnreadableFormat
from ckptstore.format import names, strictjson
from ckptstore.format.manifest import writer_versions
from ckptstore.format.names import CheckpointName
from ckptstore.logs import logger

SCHEMA_VERSION = 1


class Standing(enum.Enum):
    """What a place is to somebody who only reads."""

    STORE = "store.json is there"
    LOST = "store.json is not there, but checkpoints are"
    NOTHING = "nothing is there"


class Identity:
    """The identity of the store at `backend`: read on first use and remembered, made by the first write."""

    def __init__(self, catalog: Catalog, create: bool) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._create = create
        self._id: str | None = None
        self.made = False
        """Whether this process made the store: then nothing was in it."""
        self._warned = False

    def look(self) -> Standing:
        """Whether there is a store, for whoever only reads. Never writes.

        Raises IsCheckpoint where a checkpoint lies, and StoreNotFound where other files do; if no store may
        be made, also where nothing is.
        """
        if self._id is not None:
            return Standing.STORE
        place = self._look_around()
        if place is None:
            return Standing.STORE
        if not place.committed and (place.others or not self._create):
            raise no_store(self._backend.url, place, self._create)
        if place.committed and not self._warned:
            self._warned = True
            url = self._backend.url
            again = "the next save" if self._create else f"`ckptstore adopt {url}/{place.committed}`"
            logger.warning("%s has no store.json any more; %s makes one", url, again)
        return Standing.LOST if place.committed else Standing.NOTHING

    def prove(self) -> str:
        """The store's id, for whoever changes a store that is there. Never writes.

        Raises StoreNotFound wherever ``store.json`` is not.
        """
        if self._id is None and (place := self._look_around()) is not None:
            raise no_store(self._backend.url, place, self._create)
        assert self._id is not None
        return self._id

    def make(self) -> str:
        """The store's id, for whoever adds a checkpoint: made where it isn't there, if it may be."""
        if self._id is None and (place := self._look_around()) is not None:
            if not self._create:
                raise no_store(self._backend.url, place, self._create)
            refuse_to_begin(self._backend)
            with translate_errors(self._backend.url):
                data = self._make()
                try:
                    self._id = self._parse(data)
                except CheckpointCorrupt:
                    if not self._find():  # damage in transit rarely repeats
                        raise
        assert self._id is not None
        return self._id

    def _look_around(self) -> Place | None:
        """None, and the id is known, if ``store.json`` is there; else what lies there in its stead."""
        with translate_errors(self._backend.url):
            if self._find():
                return None
            place = look_around(self._backend)
            return None if place.others and self._find() else place  # it may have been made just now

    @retry_if_corrupt
    def _find(self) -> bool:
        try:
            data = self._read()
        except FileNotFoundError:
            return False
        found = self._parse(data)
        if CheckpointName.parse(self._backend.url.rstrip("/").rpartition("/")[2]) is not None:
            # An older release left its file in every checkpoint that was opened as a store.
            refuse_checkpoint(self._backend, self._backend.children())
        self._id = found
        return True

    def _read(self) -> bytes:
        return self._backend.read(names.STORE, most=strictjson.MAX_SMALL_BYTES)

    def prove_again(self) -> None:
        """After an empty listing: StoreNotFound unless the very store seen before is still there."""
        with translate_errors(self._backend.url):
            try:
                data = self._read()
            except FileNotFoundError as error:
                raise StoreNotFound(
                    self._backend.url,
                    "the store has vanished",
                    "Bring it back, or open a new CheckpointStore to begin anew",
                ) from error
        if self._parse(data) != self._id:
            raise StoreNotFound(
                self._backend.url, "another store lies here now", "Open a new CheckpointStore to use it"
            )

    def _make(self) -> bytes:
        url = self._backend.url
        store_id = uuid.uuid4().hex
        body: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "id": store_id,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "writer": writer_versions(),
        }
        data = strictjson.dumps(body).encode("ascii")
        try:
            self._backend.publish(names.STORE, data)
        except (FileExistsError, TimeoutError):
            # Somebody was faster, or our own reply was lost: what counts is what is there now.
            try:
                held = self._read()
            except FileNotFoundError as error:
                raise StoreUnavailable(url, "the store could not be made") from error
            if held != data and self._is_ours_but_damaged(held, body):
                # By a server that compares no checksum. Nobody else can tell whose it is, so nobody else
                # has put anything in its place.
                self._backend.replace(names.STORE, data)
                return data
            return held
        self._catalog.created(names.STORE, data, other=data + b"\n")
        self.made = True
        return data

    def _is_ours_but_damaged(self, held: bytes, body: Mapping[str, Any]) -> bool:
        """Whether `held` was `body` before it was cut or changed on its way, and says nothing now."""
        try:
            self._parse(held)
        except (CheckpointCorrupt, UnreadableFormat):
            return any(body[field].encode("ascii") in held for field in ("id", "created"))
        return False

    def _parse(self, data: bytes) -> str:
        source = f"{self._backend.url}/{names.STORE}"
        fields = strictjson.load_fields(data, source, SCHEMA_VERSION)
        return fields.take("id", str, lambda value: 0 < len(value) <= 128)
