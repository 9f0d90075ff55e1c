"""S3 with file contents moved by obstore's Rust core, where that is installed (``ckptstore[fast]``).

A save takes less processor time with it, which a trainer on the same machine notices; loads were hardly
faster when measured (``docs/decisions/007-obstore-carries-bytes.md``).

obstore doesn't compare a reply with what it sent, so it may only send to a server that compares for it: each
place is asked once whether it refuses bytes with a wrong checksum. Many S3-compatible servers take them.

Everything else, and every answer that is not plain success, is s3fs's: whatever obstore refuses is asked
again there. So errors, retries, credentials and the promises of the commit are the same with it as without.
"""

from __future__ import annotations

import base64
import datetime
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import obstore
import obstore.store

from ckptstore.backends.objects.client import BytesLike, GetReply
from ckptstore.backends.objects.http_status import HOPELESS
from ckptstore.backends.objects.obstore_carrier import ONE_TRY, Carrier, client_options, is_inherited
from ckptstore.backends.objects.s3 import SUMS_DIFFER, S3Client, code_of

_UNDERSTOOD = frozenset({"endpoint_url", "key", "secret", "token", "profile", "anon", "client_kwargs"})
_UNDERSTOOD_CLIENT = frozenset({"endpoint_url", "region_name"})

_WRONG_SUM = base64.b64encode(b"wrongsum").decode("ascii")
"""A CRC64NVME that is not that of ``b"?"``, nor of what may be left of it on its way."""

_compares: dict[str, bool] = {}
"""Whether a place, by its URL and endpoint, refuses bytes that are not those of their checksum."""


def forget() -> None:
    """Ask every place again, as a new process would."""
    _compares.clear()


def suits(options: Mapping[str, Any]) -> bool:
    """Whether obstore can be set up to do what s3fs would do with these `options`, in this process."""
    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url") or ""
    return (
        not is_inherited()
        and _UNDERSTOOD.issuperset(options)
        and _UNDERSTOOD_CLIENT.issuperset(client)
        and (endpoint.startswith("http://") or not os.environ.get("AWS_CA_BUNDLE"))
    )


class ObstoreS3Client(S3Client):
    """An :class:`S3Client` that sends and fetches file contents through obstore."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        super().__init__(url, options, timeout, concurrency)
        self._timeout = timeout
        self._options = options
        self._store: obstore.store.S3Store | None = None
        self.carrier = Carrier(self._fs.loop, self._open)
        self._asking = threading.Lock()

    async def _open(self) -> obstore.store.S3Store:
        """obstore's client, with the endpoint, region and credentials that s3fs has found."""
        if self._store is None:
            await self._fs.set_session()
            meta = (await self._fs.get_s3(self.bucket)).meta
            config: Any = {
                "region": meta.region_name or "us-east-1",
                # Signing a SHA-256 of the bytes as well costs a third more, and servers don't compare it.
                "unsigned_payload": True,
                "checksum_algorithm": "CRC64NVME",
            }
            if meta.endpoint_url and not meta.endpoint_url.endswith(".amazonaws.com"):
                config.update(endpoint=meta.endpoint_url, virtual_hosted_style_request=False)
            else:
                # Names with dots don't match the certificate.
                config["virtual_hosted_style_request"] = "." not in self.bucket
            if self._options.get("anon"):
                config["skip_signature"] = True
            self._store = obstore.store.S3Store(
                self.bucket,
                config=config,
                client_options=client_options(self._timeout),
                retry_config=ONE_TRY,
                credential_provider=None if self._options.get("anon") else self._credentials,
            )
        return self._store

    async def _credentials(self) -> Any:
        """s3fs's own: from `storage_options`, the environment, a profile, a role. botocore refreshes them."""
        key, secret, token = (self._options.get(name) for name in ("key", "secret", "token"))
        if key is None:
            credentials = await self._fs.session.get_credentials()
            frozen = await credentials.get_frozen_credentials()
            key, secret, token = frozen.access_key, frozen.secret_key, frozen.token
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=10)
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": token,
            "expires_at": soon,
        }

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        return self.carrier.get(key, start, target, seconds) or super().get(key, start, target, seconds)

    def put_contents(self, key: str, data: BytesLike, seconds: float) -> None:
        end = time.monotonic() + seconds
        # Others that come while one asks don't wait: s3fs is always right.
        if self.place not in _compares and self._asking.acquire(blocking=False):
            try:
                _compares[self.place] = self._refuses_wrong_sums(key, seconds)
            finally:
                self._asking.release()
        if not (_compares.get(self.place) and self.carrier.put(key, data, end - time.monotonic())):
            super().put_contents(key, data, end - time.monotonic())

    def _refuses_wrong_sums(self, key: str, seconds: float) -> bool:
        """Whether the server refuses a byte that is not that of its checksum; if it doesn't, `key` has it."""
        try:
            self._call(seconds, "put_object", Key=key, Body=b"?", ChecksumCRC64NVME=_WRONG_SUM)
        except Exception as error:
            if code_of(error) in SUMS_DIFFER:
                return True
            if self.classify(error) not in HOPELESS:
                raise
        return False

    def describe(self) -> Mapping[str, str]:
        known = super().describe()
        return {
            **known,
            "client": f"obstore {obstore.__version__} for contents, {known['client']} for the rest",
            "transfers": "CRC64NVME sent with each PUT, once the server has shown that it compares it; else "
            "CRC32 sent by s3fs and compared with the reply",
        }

    def close(self) -> None:
        self._store = None
        super().close()
