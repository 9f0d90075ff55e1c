"""The command line says nothing that only Python understands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptstore as package
from ckptstore import CheckpointStore, errors
from ckptstore.cli.advice import describe_error, in_shell
from tests.servers import Server
from tests.test_cli import ckptstore, complaint

PYTHON = re.compile(
    r"\b(store|ckpt)\.(?!json)[a-z_]+\b|\b[a-z_]+=(True|False|None|'[a-z]+')|\b(CheckpointStore|Checkpoint\.open)\b"
    r"|\b(get|latest|tag|untag|unpin|best|copy_to|rollback|weights|LatestN)\(|`policies\[|`policy_ids`|signing_key\b"
)
NOT_OF_THE_COMMANDS = ("integrations", "testing", "cli")
# No command saves objects or unpickles; the options are RLlib's.
SPELLED_FOR_PYTHON = {
    "<CheckpointStore 7>",
    "Gather it first: get_model_state_dict(..., full_state_dict=True)",
    "Pass tensors='torch' with it",
    ", saved whole: only trusted=True makes it again",
    "Make the target as the one that was saved, or pass strict=False to take what fits",
    "Load with classes=[...], restore() or trusted=True, save other data, or pass opaque='allow'",
    "Pass tensor.full_tensor(), or get_model_state_dict(..., full_state_dict=True)",
    "its layers are noisy (noisy=True)",
    "it is built with no_final_linear=True",
    "it is built with head_fcnet_use_layernorm=True",
    (
        "Load it with 7, or without trusted=True, as data; classes in an importable module load on any "
        "Python once saved anew"
    ),
}


def texts() -> Iterator[str]:
    """Every text that may end up in an error or warning, docstrings apart."""
    top = Path(package.__file__).parent
    for path in top.rglob("*.py"):
        if path.relative_to(top).parts[0] in NOT_OF_THE_COMMANDS:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        inner: set[int] = set()
        plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                inner |= {id(part) for part in node.values}
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values
                )
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in inner | plain
            ):
                yield node.value


def test_no_error_text_is_spelled_for_python() -> None:
    found = [text for text in texts() if " " in text and PYTHON.search(text)]
    assert len(found) > 8, "the texts are found at all"
    left = [text for text in found if PYTHON.search(in_shell(text))]
    assert [text for text in left if text not in SPELLED_FOR_PYTHON] == []


def test_every_default_remedy() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.CheckpointError):
            assert not PYTHON.search(describe_error(kind("s3://bucket/x", "it is so"))), kind


def test_a_warning_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("s")
    for step in (1, 2):
        store.save(step, {"x": step})
    Path("s/checkpoint_000002/algorithm_state.pkl").unlink()
    for arguments in (["cp", "s", "other"], ["verify", "s"], ["info", "s"], ["tree", "s"]):
        assert (
            ckptstore(*arguments, exits=5 if arguments[0] in ("cp", "verify") else 0).stderr.count(
                "passed over"
            )
            == 1
        )
    assert ckptstore("latest", "s", "--verified").stderr.count("passed over") == 1


def test_a_bucket_that_is_not_there(moto: Server) -> None:
    options = [f"--storage-option={name}={moto.options[name]}" for name in ("key", "secret", "endpoint_url")]
    for verb in ("ls", "info", "doctor"):
        said = complaint(verb, "s3://no-such-bucket/x", *options, exits=3) if verb != "doctor" else ""
        said = said or ckptstore(verb, "s3://no-such-bucket/x", *options, exits=3).stderr
        assert said.count("s3://no-such-bucket/x") == 1, said
        assert "Create the bucket, or check its name" in said


def test_doctor_of_a_store(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "s").save(1)
    said = ckptstore("doctor", str(tmp_path / "s")).stdout
    assert "no checkpoint is there" not in said
    assert "it is not itself a checkpoint" in said


def test_repair_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("s")
    for step in (1, 2):
        store.save(step, {"x": step})
    store.copy_to(CheckpointStore("copies/a"))
    for step in (1, 2):
        Path(f"s/checkpoint_00000{step}/algorithm_state.pkl").unlink()
    said = ckptstore("repair", "s@2", "--from", "copies/**").stdout
    assert "checkpoint_000002" in said
    assert "checkpoint_000001" not in said.replace("copies", "")
    assert "checkpoint_000001" in ckptstore("repair", "s/checkpoint_000001", "--from", "copies/**").stdout
    assert all(report.ok for report in store.verify())
    ckptstore("repair", "s@9", exits=3)
    Path("s/checkpoint_000002/_ckptstore/manifest.json").chmod(0o600)
    Path("s/checkpoint_000002/_ckptstore/manifest.json").write_text("{")
    ckptstore("repair", "s@2", "--from", "copies/**")
    assert all(report.ok for report in store.verify())
