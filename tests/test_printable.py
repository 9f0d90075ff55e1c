"""What a manifest, a listing or a pickle calls things reaches no log line, repr or error text raw."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from ckptstore import CheckpointStore, bulk
from ckptstore.backends.registry import open_backend
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointCorrupt, CheckpointError
from ckptstore.logs import logger
from ckptstore.printable import clean
from ckptstore.rllib_formats.notes import Note
from tests.stores import RLLIB_1_0, tree_bytes, unlinked

FORGED = "a\nWARNING ckptstore: all is well\x1b[2J\u202e\u2028\x9b\r"


def is_one_line(text: str) -> bool:
    return text.isprintable()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the test has logged is looked at when it is over."""
    caplog.set_level(logging.DEBUG, "ckptstore")
    yield caplog
    lines = [record.getMessage() for record in caplog.get_records("call")]
    assert any("\\nWARNING" in line for line in lines), "nothing of it was logged, so nothing was tried"
    for line in lines:
        assert is_one_line(line), line


def forge(manifest: Path, **change: Any) -> None:
    """Edit a manifest and make its digest right again."""
    body = {**json.loads(unlinked(manifest)), **change}
    body.pop("digest")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))[:-1]
    manifest.write_text(f'{text},"digest":"{blake3(text.encode()).hexdigest()}"}}\n')


def make(root: Path) -> Path:
    """A store with one checkpoint; the path of its manifest."""
    CheckpointStore(root).save(1, policies={"p": {"w": np.ones(3)}})
    return root / "checkpoint_000001/_ckptstore/manifest.json"


def test_clean_keeps_what_prints() -> None:
    for text in ("plain", "Ä 漢字 😀", "C:\\runs", ""):
        assert clean(text) == text
    assert clean(FORGED) == "a\\nWARNING ckptstore: all is well\\x1b[2J\\u202e\\u2028\\x9b\\r"
    assert is_one_line(clean("\ud800\x00\x7f\u200b"))


def test_paths_of_a_manifest_in_the_log(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    manifest = make(tmp_path)
    files = [*json.loads(manifest.read_text())["files"], {"path": FORGED, "size": 1, "digest": "0" * 64}]
    forge(manifest, files=sorted(files, key=lambda file: str(file["path"])))
    store = CheckpointStore(tmp_path)
    assert store.checkpoints() == []
    assert "is missing" in log.text
    with pytest.raises(CheckpointCorrupt) as raised:
        store.get(1).verify()
    assert is_one_line(str(raised.value))


def test_strays_in_the_log(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    make(tmp_path)
    (tmp_path / "checkpoint_000001" / FORGED).write_text("stray")
    assert CheckpointStore(tmp_path).latest(verified=True) is not None


def test_fields_of_a_manifest_in_the_log(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    manifest = make(tmp_path)
    for change in ({"requires": [FORGED]}, {"digest_algorithm": FORGED}, {"kind": FORGED}, {"state": FORGED}):
        forge(manifest, **{"requires": [], "kind": "Algorithm", "state": "committed", **change})
        CheckpointStore(tmp_path).checkpoints()


def test_names_of_directories_in_reprs_and_errors(tmp_path: Path) -> None:
    for path, data in tree_bytes(RLLIB_1_0 / "checkpoint").items():
        file = tmp_path / FORGED / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    [found] = bulk.find(tmp_path)
    checkpoint = found.open()
    assert FORGED in checkpoint.url, "this would have tried nothing"
    for text in (repr(found), repr(checkpoint), *map(str, checkpoint.notes), repr(checkpoint.policies)):
        assert is_one_line(text)
    with pytest.raises(CheckpointError) as raised:
        checkpoint.weights("none such\n")
    assert is_one_line(str(raised.value))
    assert pickle.loads(pickle.dumps(raised.value)).what == raised.value.what  # the field is as it was


def test_keys_of_a_bucket_in_tracebacks() -> None:
    backend = open_backend("memory://printable")
    with pytest.raises(FileNotFoundError) as raised:
        backend.read(FORGED)
    assert is_one_line(str(raised.value))
    shown = "".join(traceback.format_exception(raised.value))
    assert "\nWARNING" not in shown
    assert "\x1b" not in shown


def test_names_in_a_pickle_and_notes_of_what_was_read() -> None:
    assert is_one_line(repr(Opaque(FORGED, (FORGED, {"x": Opaque(FORGED)}))))
    assert is_one_line(str(Note("missing", FORGED, FORGED)))


def test_whatever_is_logged(log: pytest.LogCaptureFixture) -> None:
    """Also where the text comes from an error, a checkpoint or a path."""
    logger.warning("%s %s %d %.1f", Path(FORGED), OSError(FORGED), 1, 0.5)
    assert log.records[-1].getMessage().endswith(" 1 0.5")
