"""Signed manifests, for those who ask: a checkpoint then counts only if a key they trust vouches for it.

The keys are Ed25519 keys in PEM, as ``openssl genpkey -algorithm ed25519`` makes them. A manifest covers
every payload byte by digest, and says its step and the store that it was saved in, so one signature over it
covers the checkpoint and where it belongs. Needs ``ckptstore[sign]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from ckptstore.errors import CheckpointUntrusted, InvalidRequest
from ckptstore.format.manifest import Signature

Pem = bytes | str
_OTHER_STORE = "Use a checkpoint of a trusted store, or trust that store: its id goes into trusted_stores"


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
                f"Make one with `openssl genpkey -algorithm ed25519`{_hint(private_key)}",
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
    """Accepts manifests that one of these public keys has signed, for one of these stores, and nothing else.

    Without `stores` for any: then what was signed in a store counts in every copy, wherever it lies.
    """

    def __init__(self, public_keys: Iterable[Pem], stores: Iterable[str] | None = None) -> None:
        given = (public_keys,) if isinstance(public_keys, (bytes, str)) else tuple(public_keys)
        ids = (stores,) if isinstance(stores, str) else None if stores is None else tuple(stores)
        self._keys = {_raw(key): key for key in map(_public, given)}
        self._stores = ids
        if not self._keys:
            raise InvalidRequest("trusted_keys", "there is none", "Pass a public key, or None to trust all")
        if ids is not None and not (ids and all(map(_may_be_id, ids))):
            remedy = "Pass a list of ids; CheckpointStore(url).id tells a store's"
            raise InvalidRequest("trusted_stores", "they aren't ids of stores", remedy)
        self.settings: dict[str, Any] = {"trusted_keys": given, "trusted_stores": ids}
        """What it was made from."""

    @property
    def keys(self) -> frozenset[str]:
        """The trusted public keys, as manifests name them."""
        return frozenset(self._keys)

    def check_store(self, store: str) -> None:
        """InvalidRequest if what is saved in `store` wouldn't count here."""
        if self._stores is not None and store not in self._stores:
            why = f"the id of the store that is saved to, {store}, is not among them"
            raise InvalidRequest("trusted_stores", why, "Add it, or save where it is one of them")

    def __call__(self, signature: Signature | None, message: bytes, source: str, store: str) -> None:
        """CheckpointUntrusted naming `source` unless `signature` is a trusted key's, of this very message.

        `store` is the id of the store that the message says it is for, which must be a trusted one.
        """
        from cryptography.exceptions import InvalidSignature

        if signature is None:
            raise CheckpointUntrusted(source, "it isn't signed")
        if signature.key not in self._keys:
            raise CheckpointUntrusted(source, f"it is signed with the key {signature.key}, not a trusted one")
        try:
            self._keys[signature.key].verify(bytes.fromhex(signature.value), message)
        except InvalidSignature:
            raise CheckpointUntrusted(source, f"the signature is not that of {signature.key}") from None
        if self._stores is not None and store not in self._stores:
            why = f"it was signed for the store {store}" if store else "its signature is for no certain store"
            raise CheckpointUntrusted(source, f"{why}, not for one that is trusted", _OTHER_STORE)

    def __repr__(self) -> str:
        return f"<Trust {', '.join(sorted(self._keys))}>"


def open_trust(keys: Iterable[Pem] | None, stores: Iterable[str] | None) -> Trust | None:
    """Whom a reader trusts; None for everybody. InvalidRequest for stores without keys to prove them."""
    if keys is None:
        if stores is not None:
            raise InvalidRequest("trusted_stores", "nothing proves them", "Pass trusted_keys as well")
        return None
    return Trust(keys, stores)


def open_keys(
    signing_key: Pem | None, trusted_keys: Iterable[Pem] | None, trusted_stores: Iterable[str] | None
) -> tuple[Signer | None, Trust | None]:
    """With what a store signs, and whom it trusts. InvalidRequest if it wouldn't trust itself."""
    signer = Signer(signing_key) if signing_key is not None else None
    trust = open_trust(trusted_keys, trusted_stores)
    if signer and trust and signer.public not in trust.keys:
        raise InvalidRequest("signing_key", "it is none of trusted_keys", "Trust its public half as well")
    return signer, trust


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
            f"Make it from the private key with `openssl pkey -pubout`{_hint(pem)}",
        )
    return key


def _raw(key: Any) -> str:
    raw: bytes = key.public_bytes_raw()
    return raw.hex()


def _bytes(pem: Pem) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem


def _may_be_id(given: object) -> bool:
    return isinstance(given, str) and bool(given) and "/" not in given


def _hint(pem: object) -> str:
    """For a path in the place of what lies there."""
    begins = pem[:64] if isinstance(pem, bytes) else str(pem)[:64].encode(errors="replace")
    return (
        ""
        if b"-----BEGIN" in begins
        else ", and pass what is in the file, for example Path(...).read_bytes()"
    )
