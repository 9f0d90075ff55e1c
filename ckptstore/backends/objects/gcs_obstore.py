"""Google Cloud Storage with the contents of files fetched by obstore (``ckptstore[fast]``).

gcsfs decrypts in the one thread of its loop, obstore in several. Nothing is sent through obstore: its
uploads carry no checksum and ignore the reply's, while ours are compared before the object appears
(``docs/decisions/007-obstore-carries-bytes.md``).
"""

from __future__ import annotations

import datetime
import urllib.request
from collections.abc import Mapping
from typing import Any

import obstore
import obstore.store

from ckptstore.backends.objects.client import GetReply
from ckptstore.backends.objects.gcs import GcsClient
from ckptstore.backends.objects.obstore_carrier import ONE_TRY, Carrier, client_options, is_inherited

_UNDERSTOOD = frozenset({"endpoint_url", "token", "project", "access", "default_location", "kms_key_name"})


def suits(options: Mapping[str, Any]) -> bool:
    """Whether obstore might do what gcsfs would do with these `options`, in this process."""
    # gcsfs takes no proxy from the environment, and obstore can't be told not to.
    proxies = urllib.request.getproxies().keys() - {"no"}
    return not is_inherited() and not proxies and _UNDERSTOOD.issuperset(options)


class ObstoreGcsClient(GcsClient):
    """A :class:`GcsClient` that fetches file contents through obstore, where that is possible."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        super().__init__(url, options, timeout, concurrency)
        self.carrier = self._new_carrier(timeout)

    def _new_carrier(self, timeout: float) -> Carrier | None:
        credentials = self._fs.credentials.credentials
        # Both change more of a request than its token.
        if getattr(credentials, "quota_project_id", None) or getattr(self._fs, "_use_client_cert", False):
            return None
        try:
            store = obstore.store.GCSStore(
                self.bucket,
                config={"base_url": self._fs._location, "skip_signature": credentials is None},
                client_options=client_options(timeout),
                retry_config=ONE_TRY,
                # Without it, even a client that signs nothing reads the environment's, and may choke.
                credential_provider=self._credentials,
            )
        except obstore.exceptions.BaseError:  # it reads the environment too, and refuses what it finds there
            return None

        async def open_store() -> obstore.store.GCSStore:
            return store

        return Carrier(self._fs.loop, open_store)

    async def _credentials(self) -> Any:
        """gcsfs's own token, which gcsfs refreshes when due: asked for anew with each request."""
        headers: dict[str, str] = {}
        self._fs.credentials.apply(headers)
        kind, _, token = headers.pop("authorization").partition(" ")
        if kind != "Bearer" or headers:
            raise ValueError("requests carry more than a token")
        return {"token": token, "expires_at": datetime.datetime.now(datetime.UTC)}

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        reply = self.carrier.get(key, start, target, seconds) if self.carrier else None
        return reply or super().get(key, start, target, seconds)

    def describe(self) -> Mapping[str, str]:
        known = dict(super().describe())
        if self.carrier:
            ours = f"obstore {obstore.__version__}"
            known["client"] = f"{ours} to fetch contents, {known['client']} for the rest"
        return known

    def close(self) -> None:
        self.carrier = None
        super().close()
