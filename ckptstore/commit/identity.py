"""``store.json``: the file that proves that there is a store, so that an empty listing means something."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from ckptstore.backends.translate import retry_if_corrupt, translate_errors
from ckptstore.commit.base import Catalog
from ckptstore.errors import CheckpointCorrupt, StoreNotFound, StoreUnavailable, UnreadableFormat
from ckptstore.format import names, strictjson
from ckptstore.format.manifest import writer_versions

SCHEMA_VERSION = 1


class Identity:
    """The identity of the store at `backend`, proven on first use and remembered."""

    def __init__(self, catalog: Catalog, create: bool) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._create = create
        self._id: str | None = None

    def prove(self) -> str:
        """The store's id. Makes the store where it isn't there and `create` was asked for."""
        if self._id is None:
            self._id = self._read_or_make()
        return self._id

    @retry_if_corrupt
    def _read_or_make(self) -> str:
        with translate_errors(self._backend.url):
            try:
                data = self._read()
            except FileNotFoundError:
                data = self._make()
        return self._parse(data)

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
        if not self._create:
            raise StoreNotFound(url, "there is no store here", "Check the URL, or pass create=True")
        self._refuse_checkpoint()
        store_id = uuid.uuid4().hex
        body: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "id": store_id,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
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
        return data

    def _is_ours_but_damaged(self, held: bytes, body: Mapping[str, Any]) -> bool:
        """Whether `held` was `body` before it was cut or changed on its way, and says nothing now."""
        try:
            self._parse(held)
        except (CheckpointCorrupt, UnreadableFormat):
            return any(body[field].encode("ascii") in held for field in ("id", "created"))
        return False

    def _refuse_checkpoint(self) -> None:
        """Raise UnreadableFormat in a checkpoint: a file more, and it would no longer be whole."""
        above, _, last = self._backend.url.rstrip("/").rpartition("/")
        if last != names.META:
            try:
                self._backend.read(names.MANIFEST, 0, 1)
            except FileNotFoundError:
                return
        raise UnreadableFormat(
            self._backend.url, "it is a checkpoint, not a store", f"Open the store: {above}"
        )

    def _parse(self, data: bytes) -> str:
        source = f"{self._backend.url}/{names.STORE}"
        fields = strictjson.load_fields(data, source, SCHEMA_VERSION)
        return fields.take("id", str, lambda value: 0 < len(value) <= 128)
