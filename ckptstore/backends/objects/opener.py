"""Open a bucket's client, with obstore beside it where that suits."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptstore.backends.objects.fsspec_loop import (
    display_url,
    explain_bad_options,
    split_url,
    without_file_keywords,
)

if TYPE_CHECKING:
    from ckptstore.backends.objects.gcs import GcsClient
    from ckptstore.backends.objects.s3 import S3Client

    SomeClient = S3Client | GcsClient

FAST = True
"""Whether obstore moves file contents where it is installed; tests try both."""


class BucketOpener(ABC):
    """Makes the client of one bucket; a pickle of the backend holds this, without the secrets.

    Each client library is imported only by the opener that needs it: ImportError where it is missing.
    """

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        split_url(url)
        self.client_class()
        self._state = (url, without_file_keywords(options), timeout, concurrency)
        self.lost = False

    @abstractmethod
    def client_class(self) -> type[SomeClient]:
        """The class of the bucket's client."""

    @abstractmethod
    def obstore_class(self, options: Mapping[str, Any]) -> type[SomeClient] | None:
        """The class that moves contents through obstore; None if obstore can't do what `options` ask for."""

    @property
    def url(self) -> str:
        """The root, without credentials."""
        return display_url(self.client_class().scheme, self._state[0])

    def at(self, url: str) -> BucketOpener:
        """What opens `url`, another directory of the same bucket, with the same options."""
        _, options, timeout, concurrency = self._state
        made = type(self)(url, options, timeout, concurrency)
        made.lost = self.lost
        return made

    def __getstate__(self) -> tuple[Any, ...]:
        url, options, timeout, concurrency = self._state
        kept = self.client_class().settings(options)
        return url, kept, timeout, concurrency, self.lost or kept != options

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *first, self.lost = state
        self._state = (first[0], first[1], first[2], first[3])

    def __call__(self) -> SomeClient:
        options = self._state[1]
        with explain_bad_options(options):
            fast = FAST and importlib.util.find_spec("obstore") is not None
            client_class = (self.obstore_class(options) if fast else None) or self.client_class()
            return client_class(*self._state)


class S3Opener(BucketOpener):
    """Makes clients of S3 and of the stores that speak its protocol."""

    def client_class(self) -> type[SomeClient]:
        from ckptstore.backends.objects.s3 import S3Client

        return S3Client

    def obstore_class(self, options: Mapping[str, Any]) -> type[SomeClient] | None:
        from ckptstore.backends.objects.s3_obstore import ObstoreS3Client, suits

        return ObstoreS3Client if suits(options) else None


class GcsOpener(BucketOpener):
    """Makes clients of Google Cloud Storage."""

    def client_class(self) -> type[SomeClient]:
        from ckptstore.backends.objects.gcs import GcsClient

        return GcsClient

    def obstore_class(self, options: Mapping[str, Any]) -> type[SomeClient] | None:
        from ckptstore.backends.objects.gcs_obstore import ObstoreGcsClient, suits

        return ObstoreGcsClient if suits(options) else None
