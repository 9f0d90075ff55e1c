"""With trusted keys, a checkpoint counts only if one of them has signed it; nothing of another is read."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointCorrupt, CheckpointUntrusted, InvalidRequest
from ckptstore.format.signing import Signer
from tests.disks import WatchedBackend
from tests.stores import unlinked


def pair(key: Any = None) -> tuple[bytes, bytes]:
    key = key or Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


PRIVATE, PUBLIC = pair()
OTHER_PRIVATE, OTHER_PUBLIC = pair()
MANIFEST = "_ckptstore/manifest.json"


def save(root: Path, step: int, key: bytes | None = PRIVATE, value: float = 1.0) -> Checkpoint:
    return CheckpointStore(root, signing_key=key).save(step, policies={"p": {"w": np.full(4, value)}})


def trusting(root: Path, *keys: bytes) -> CheckpointStore:
    return CheckpointStore(root, trusted_keys=keys or (PUBLIC,), create=False)


def rewrite(manifest: Path, change: dict[str, Any], signature: dict[str, str] | None) -> None:
    """What an attacker with write access can do: edit the manifest and make its digest right again."""
    body = json.loads(unlinked(manifest))
    body.pop("digest")
    body.pop("signature", None)
    text = json.dumps({**body, **change}, sort_keys=True, separators=(",", ":"))[:-1]
    if signature is not None:
        text += ',"signature":' + json.dumps(signature, sort_keys=True, separators=(",", ":"))
    manifest.write_text(f'{text},"digest":"{blake3(text.encode()).hexdigest()}"}}\n')


def test_the_signature_is_what_the_format_says(tmp_path: Path) -> None:
    data = Path(save(tmp_path, 1).url.removeprefix("file://"), MANIFEST).read_bytes()
    signature = json.loads(data)["signature"]
    assert signature.keys() == {"algorithm", "key", "value"}
    assert signature["algorithm"] == "ed25519"
    signed = b"ckptstore manifest\n" + data[: data.index(b',"signature":{"algorithm"')]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["key"]))
    key.verify(bytes.fromhex(signature["value"]), signed)
    assert key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) == PUBLIC


def test_only_what_a_trusted_key_signed_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, OTHER_PRIVATE)
    save(tmp_path, 3, None)
    store = trusting(tmp_path)
    assert [ckpt.step for ckpt in store.checkpoints()] == [1]
    assert "checkpoint_000003 is passed over: it isn't signed" in caplog.text
    latest = store.latest()
    assert latest is not None
    assert latest.step == 1
    assert [skip.name for skip in latest.skipped] == ["checkpoint_000003", "checkpoint_000002"]
    for step in (2, 3):
        with pytest.raises(CheckpointUntrusted):
            store.get(step)
        with pytest.raises(CheckpointUntrusted):
            Checkpoint.open(f"{tmp_path}/checkpoint_00000{step}", trusted_keys=[PUBLIC])
    assert [report.ok for report in store.verify()] == [True, False, False]
    assert [ckpt.step for ckpt in trusting(tmp_path, PUBLIC, OTHER_PUBLIC).checkpoints()] == [1, 2]
    assert len(CheckpointStore(tmp_path).checkpoints()) == 3  # who asks for no signature needs none
    with pytest.raises(CheckpointCorrupt, match="no checkpoint is whole"):
        trusting(tmp_path, pair()[1]).latest()


@pytest.mark.parametrize("forgery", ["resigned by another", "unsigned", "old signature", "edited weights"])
def test_a_forgery_is_refused_before_its_payload_is_read(tmp_path: Path, forgery: str) -> None:
    save(tmp_path, 1)
    signature = json.loads((tmp_path / "checkpoint_000001" / MANIFEST).read_text())["signature"]
    root = tmp_path / "checkpoint_000001"
    if forgery == "resigned by another":
        # A whole checkpoint of the attacker's, bytes and digests all in order.
        evil = save(tmp_path / "evil", 1, OTHER_PRIVATE, value=666.0)
        for path in ("policies/p/policy_state.pkl", "_ckptstore/parts.json", MANIFEST):
            unlinked(root / path)
            (root / path).write_bytes(Path(evil.url.removeprefix("file://"), path).read_bytes())
    elif forgery == "unsigned":
        rewrite(root / MANIFEST, {"step": 1}, None)
    elif forgery == "old signature":
        rewrite(root / MANIFEST, {"metrics": {"reward": 9000}}, signature)
    else:
        weights = root / "policies/p/policy_state.pkl"
        data = unlinked(weights)
        weights.write_bytes(data.replace(np.float64(1).tobytes(), np.float64(2).tobytes()))
        rewrite(root / MANIFEST, {}, signature)
    backend = WatchedBackend(tmp_path)
    store = CheckpointStore(backend, trusted_keys=[PUBLIC])
    if forgery == "edited weights":  # what is signed is untouched, and so the digests find it
        with pytest.raises(CheckpointCorrupt):
            store.get(1).weights("p")
        return
    with pytest.raises(CheckpointUntrusted):
        store.get(1)
    assert {key.partition("/")[2] for key in backend.read_keys if key.startswith("checkpoint")} == {MANIFEST}


def test_everything_that_commits_signs(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "a", signing_key=PRIVATE.decode(), trusted_keys=PUBLIC.decode())
    store.save(1, {"x": 1})
    store.save_async(2, {"x": 2}).result()
    with store.stage(3) as path:
        Path(path, "file").write_bytes(b"by another program")
    there = trusting_copy(store, tmp_path / "b")
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2, 3]
    assert [ckpt.manifest for ckpt in there.checkpoints()] == [ckpt.manifest for ckpt in store.checkpoints()]
    assert all(report.ok for report in there.verify())


def trusting_copy(store: CheckpointStore, root: Path) -> CheckpointStore:
    """Copies keep their signatures, and a store that trusts accepts nothing else."""
    there = CheckpointStore(root, trusted_keys=[PUBLIC])
    store.copy_to(there)
    with pytest.raises(CheckpointUntrusted):
        there.add(save(root.parent / "unsigned", 9, None))
    return there


def test_a_directory_without_a_manifest_is_not_trusted() -> None:
    foreign = Path(__file__).parent / "data" / "rllib_1_0_ppo_multi5" / "checkpoint"
    assert Checkpoint.open(foreign).policy_ids
    with pytest.raises(CheckpointUntrusted):
        Checkpoint.open(foreign, trusted_keys=[PUBLIC])


def test_what_is_no_key(tmp_path: Path) -> None:
    curve = pair(generate_private_key(SECP256R1()))
    for key in (b"", b"junk", PUBLIC, curve[0]):
        with pytest.raises(InvalidRequest, match="openssl genpkey"):
            CheckpointStore(tmp_path, signing_key=key)
    for key in (b"", b"junk", PRIVATE, curve[1]):
        with pytest.raises(InvalidRequest, match="pubout"):
            CheckpointStore(tmp_path, trusted_keys=[key])
    with pytest.raises(InvalidRequest):
        CheckpointStore(tmp_path, trusted_keys=[])
    with pytest.raises(InvalidRequest, match="public half"):
        CheckpointStore(tmp_path, signing_key=PRIVATE, trusted_keys=[OTHER_PUBLIC])


def test_what_stands_for_a_key_or_an_id_and_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    with pytest.raises(InvalidRequest, match="pass what is in the file"):
        CheckpointStore(tmp_path, signing_key=path)
    with pytest.raises(InvalidRequest, match="pass what is in the file"):
        CheckpointStore(tmp_path, trusted_keys=[path])
    with pytest.raises(InvalidRequest, match=r"CheckpointStore\(url\)\.id"):
        CheckpointStore(tmp_path, trusted_keys=[PUBLIC], trusted_stores=["s3://bucket/run"])


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidRequest, match=r"pip install 'ckptstore\[sign\]'"):
        CheckpointStore(tmp_path, signing_key=PRIVATE)
    with pytest.raises(InvalidRequest, match=r"pip install 'ckptstore\[sign\]'"):
        CheckpointStore(tmp_path, trusted_keys=[PUBLIC])


def test_the_key_shows_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = PRIVATE.decode().splitlines()[1]
    caplog.set_level(logging.DEBUG)
    store = CheckpointStore(tmp_path, signing_key=PRIVATE)
    ckpt = store.save(1, {"x": 1})
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.encode() not in written + pickle.dumps(ckpt)
    assert secret not in repr((store, Signer(PRIVATE))) + caplog.text
    with pytest.raises(TypeError):
        pickle.dump(Signer(PRIVATE), io.BytesIO())


def test_a_save_that_will_not_be_trusted_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, trusted_keys=[PUBLIC])
    store.save(1, {"i": 1})
    store.save(2, {"i": 2})
    told = [record.getMessage() for record in caplog.records if "is not signed" in record.getMessage()]
    assert len(told) == 1


def test_what_is_not_trusted_is_not_called_damaged(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "store", signing_key=PRIVATE).save(1, {"i": 1})
    wrong = CheckpointStore(tmp_path / "store", trusted_keys=[pair()[1]])
    for verified in (False, True):
        with pytest.raises(CheckpointUntrusted, match=r"whole and trusted.*none has to be removed"):
            wrong.latest(verified=verified)
    with pytest.raises(CheckpointUntrusted):
        wrong.copy_to(CheckpointStore(tmp_path / "copy"))
    (report,) = wrong.verify()
    assert (report.ok, report.untrusted) == (False, True)
    # One of them is damaged: that is said as before.
    CheckpointStore(tmp_path / "store", signing_key=PRIVATE).save(2, {"i": 2})
    (tmp_path / "store/checkpoint_000002/_ckptstore/manifest.json").write_bytes(b"x" * 2000)
    with pytest.raises(CheckpointCorrupt, match="no checkpoint is whole") as raised:
        wrong.latest()
    assert not isinstance(raised.value, CheckpointUntrusted)
    assert [report.untrusted for report in wrong.verify()] == [True, False]
