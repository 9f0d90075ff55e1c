"""Open a bucket's client, with obstore beside it where that suits."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptstore.backends.objects.fsspec_loop import setting_up, split_url

if TYPE_CHECKING:
    from ckptstore.backends.objects.gcs import GcsWire
    from ckptstore.backends.objects.s3 import S3Wire

    BucketWire = S3Wire | GcsWire

FAST = True
"""Whether obstore carries file contents where it is installed; tests try both."""


class BucketOpener(ABC):
    """Opens the client of one bucket; what a pickle of the backend holds, less the secrets.

    Each client library is imported only by the opener that needs it: ImportError where it is missing.
    """

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        split_url(url)
        self.client()
        self._state = (url, dict(options), timeout, concurrency)

    @abstractmethod
    def client(self) -> type[BucketWire]:
        """The class of the bucket's client."""

    @abstractmethod
    def obstore_client(self, options: Mapping[str, Any]) -> type[BucketWire] | None:
        """The one that moves contents through obstore; None if obstore can't do what `options` ask for."""

    @property
    def url(self) -> str:
        """Where it is."""
        return self.client().shown(self._state[0])

    def __getstate__(self) -> tuple[Any, ...]:
        url, options, timeout, concurrency = self._state
        return url, self.client().settings(options), timeout, concurrency

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def __call__(self) -> BucketWire:
        options = self._state[1]
        with setting_up(options):
            fast = FAST and importlib.util.find_spec("obstore") is not None
            client = (self.obstore_client(options) if fast else None) or self.client()
            return client(*self._state)


class S3Opener(BucketOpener):
    """Opens a bucket of S3 or of what speaks its language."""

    def client(self) -> type[BucketWire]:
        from ckptstore.backends.objects.s3 import S3Wire

        return S3Wire

    def obstore_client(self, options: Mapping[str, Any]) -> type[BucketWire] | None:
        from ckptstore.backends.objects.s3_obstore import FastS3Wire, suits

        return FastS3Wire if suits(options) else None


class GcsOpener(BucketOpener):
    """Opens a bucket of Google Cloud Storage."""

    def client(self) -> type[BucketWire]:
        from ckptstore.backends.objects.gcs import GcsWire

        return GcsWire

    def obstore_client(self, options: Mapping[str, Any]) -> type[BucketWire] | None:
        from ckptstore.backends.objects.gcs_obstore import FastGcsWire, suits

        return FastGcsWire if suits(options) else None
