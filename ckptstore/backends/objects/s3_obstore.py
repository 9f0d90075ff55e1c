"""S3 with file contents moved by obstore's Rust core, where that is installed (``ckptstore[fast]``).

A save takes 40% less processor time with it, which a trainer on the same machine notices; loads were
hardly faster when measured (``docs/decisions/007-obstore-carries-bytes.md``).

Everything else, and every answer that is not plain success, is s3fs's: whatever obstore refuses is asked
again there. So errors, retries, credentials and the promises of the commit are the same with it as without.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any

import obstore
import obstore.store

from ckptstore.backends.objects.client import BytesLike, GetReply
from ckptstore.backends.objects.obstore_carrier import ONE_TRY, Carrier, client_options, is_inherited
from ckptstore.backends.objects.s3 import S3Client

_UNDERSTOOD = frozenset({"endpoint_url", "key", "secret", "token", "profile", "anon", "client_kwargs"})
_UNDERSTOOD_CLIENT = frozenset({"endpoint_url", "region_name"})


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

    async def _open(self) -> obstore.store.S3Store:
        """obstore's client, with the endpoint, region and credentials that s3fs has found."""
        if self._store is None:
            await self._fs.set_session()
            meta = (await self._fs.get_s3(self.bucket)).meta
            config: Any = {"region": meta.region_name or "us-east-1"}
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
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=10)
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": token,
            "expires_at": soon,
        }

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        return self.carrier.get(key, start, target, seconds) or super().get(key, start, target, seconds)

    def put(self, key: str, data: BytesLike, create: bool, seconds: float) -> None:
        # Commits are few and small, and s3fs's answers to them are known best. What obstore puts is signed
        # with the SHA-256 of its bytes, which the server compares with what arrived.
        if create or not self.carrier.put(key, data, seconds):
            super().put(key, data, create, seconds)

    def describe(self) -> Mapping[str, str]:
        known = super().describe()
        return {
            **known,
            "client": f"obstore {obstore.__version__} for contents, {known['client']} for the rest",
            "transfers": "SHA-256 signed with each PUT, for the server to check; CRC32 where s3fs sends",
        }

    def close(self) -> None:
        self._store = None
        super().close()
