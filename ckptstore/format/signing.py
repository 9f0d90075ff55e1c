"""Signed manifests, for those who ask: a checkpoint then counts only if a key they trust vouches for it.

The keys are Ed25519 keys in PEM, as ``openssl genpkey -algorithm ed25519`` makes them. A manifest covers
every payload byte by digest, so one signature over it covers the checkpoint. Needs ``ckptstore[sign]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from ckptstore.errors import CheckpointUntrusted, InvalidRequest
from ckptstore.format.manifest import Signature

Pem = bytes | str


class Signer:
    """Signs manifests with a private key. Neither its repr nor any error shows the key; it isn't pickled."""

    def __init__(self, private_key: Pem) -> None:
        serialization = _serialization()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            key = serialization.load_pem_private_key(_bytes(private_key), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidRequest(
                "signing_key",
                "it is no unencrypted Ed25519 private key in PEM",
                "Make one with `openssl genpkey -algorithm ed25519`",
            )
        self._key = key
        self.public = _raw(key.public_key())
        """The public half: 64 hex digits, as manifests name it."""

    def __call__(self, message: bytes) -> Signature:
        return Signature(self.public, self._key.sign(message).hex())

    def __repr__(self) -> str:
        return f"<Signer {self.public}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key isn't pickled; make the Signer where it is used")


class Trust:
    """Accepts manifests that one of these public keys has signed, and nothing else."""

    def __init__(self, public_keys: Iterable[Pem]) -> None:
        if isinstance(public_keys, (bytes, str)):
            public_keys = (public_keys,)
        self._keys = {_raw(key): key for key in map(_public, public_keys)}
        if not self._keys:
            raise InvalidRequest("trusted_keys", "there is none", "Pass a public key, or None to trust all")

    @property
    def keys(self) -> frozenset[str]:
        """The trusted public keys, as manifests name them."""
        return frozenset(self._keys)

    def __call__(self, signature: Signature | None, message: bytes, source: str) -> None:
        """CheckpointUntrusted naming `source` unless `signature` is a trusted key's, of this very message."""
        from cryptography.exceptions import InvalidSignature

        if signature is None:
            raise CheckpointUntrusted(source, "it isn't signed")
        if signature.key not in self._keys:
            raise CheckpointUntrusted(source, f"it is signed with the key {signature.key}, not a trusted one")
        try:
            self._keys[signature.key].verify(bytes.fromhex(signature.value), message)
        except InvalidSignature:
            raise CheckpointUntrusted(source, f"the signature is not that of {signature.key}") from None

    def __repr__(self) -> str:
        return f"<Trust {', '.join(sorted(self._keys))}>"


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InvalidRequest(
            "signatures", "the package cryptography is not installed", "pip install 'ckptstore[sign]'"
        ) from error
    return serialization


def _public(pem: Pem) -> Any:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(_bytes(pem))
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(
            "trusted_keys",
            "one is no Ed25519 public key in PEM",
            "Make it from the private key with `openssl pkey -pubout`",
        )
    return key


def _raw(key: Any) -> str:
    raw: bytes = key.public_bytes_raw()
    return raw.hex()


def _bytes(pem: Pem) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem
