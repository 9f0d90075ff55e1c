"""Imports point one way: the table of who may know whom. Change it on purpose or not at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptstore

PACKAGE = Path(ckptstore.__file__).parent

# Each room may import the rooms named here (and itself); a trailing star means the whole folder.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "logs": set(),
    "version": set(),
    "memory": set(),
    "names": {"errors"},
    "digest": set(),
    "seen": {"digest"},
    "strictjson": {"errors"},
    "metrics": {"errors"},
    "retention": {"errors", "metrics", "names"},
    "parts": {"errors", "names", "digest", "strictjson"},
    "manifest": {"errors", "names", "digest", "strictjson", "metrics"},
    "signing": {"errors", "manifest"},
    "codec": {"errors"},
    "migrations": {"errors", "codec"},
    "networks": {"errors", "codec"},
    "eras": {"errors", "names", "codec", "migrations"},
    "backends": {"errors", "names"},
    "failures": {"errors", "backends"},
    "commit": {"errors", "names", "strictjson", "backends", "failures"},
    "plan": {"errors", "names", "strictjson", "parts", "codec"},
    "writing": {"backends", "digest", "parts", "plan"},
    "reading": {
        "errors", "names", "strictjson", "digest", "parts", "manifest", "memory", "codec", "backends",
        "failures", "writing",
    },
    "reusing": {"errors", "parts", "backends", "commit", "plan", "reading", "seen", "writing"},
    "saving": {
        "errors", "names", "digest", "parts", "manifest", "backends", "commit", "plan", "failures", "writing",
        "reusing", "seen", "version",
    },
    "background": {"logs", "plan"},
    "identity": {"errors", "names", "strictjson", "commit", "failures", "saving"},
    "refs": {"errors", "names", "strictjson", "backends", "failures"},
    "contents": {"errors", "logs", "names", "manifest", "eras", "reading"},
    "checkpoint": {
        "errors", "logs", "names", "parts", "manifest", "eras", "backends", "plan", "failures", "writing",
        "reading", "contents", "signing",
        # `migrate` and `export` are methods of it, and imported when they are called.
        "migrating", "exporting", "store",
    },
    "survey": {
        "errors", "logs", "names", "parts", "manifest", "backends", "commit", "plan", "failures", "writing",
        "reading", "identity", "checkpoint",
    },
    "staging": {"errors", "logs", "names", "manifest", "contents", "commit", "saving", "checkpoint"},
    "adopting": {
        "errors", "logs", "names", "digest", "parts", "commit", "contents", "failures", "reading", "saving",
        "writing",
    },
    "store": {
        "errors", "logs", "names", "metrics", "parts", "manifest", "backends", "commit", "plan", "failures",
        "writing", "reading", "saving", "seen", "signing", "background", "identity", "refs",
        "retention", "checkpoint", "survey", "staging", "adopting", "migrating",
    },
    "writers": {"errors", "names", "strictjson", "codec", "networks", "plan"},
    "migrating": {"errors", "digest", "manifest", "eras", "writers", "checkpoint", "store"},
    "native": {"errors", "strictjson", "version", "networks"},
    "exporting": {"errors", "strictjson", "backends", "failures", "native", "networks", "checkpoint"},
    "finding": {"names", "plan", "eras"},
    "bulk": {
        "errors", "names", "backends", "failures", "reading", "signing", "checkpoint", "store", "migrating",
        "finding",
    },
    "doctor": {"errors", "names", "backends", "failures"},
    "testing": {"*"},
    "integrations": {"*"},
    "cli": {"*"},
}  # fmt: skip

# These decide and transform; they touch no file, clock, random number or third-party package but numpy.
PURE = [
    "errors",
    "names",
    "digest",
    "strictjson",
    "metrics",
    "retention",
    "parts",
    "manifest",
    "plan",
    "finding",
    "writers",
    "codec",
    "migrations",
    "networks",
]
FORBIDDEN_IN_PURE = {
    "os",
    "time",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "tempfile",
    "shutil",
    "fsspec",
}
HEAVY = [
    "ray",
    "torch",
    "onnx",
    "onnxruntime",
    "tensorflow",
    "jax",
    "gym",
    "gymnasium",
    "s3fs",
    "gcsfs",
    "aiohttp",
    "botocore",
    "click",
    "rich",
    "cryptography",
]


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    """Full names of every module that `path` imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "ckptstore":
                found |= {f"ckptstore.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_is_in_the_table() -> None:
    assert {room_of(path) for path in FILES} <= ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    allowed = ALLOWED[room]
    for name in imports(path):
        if name.startswith("ckptstore."):
            other = name.split(".")[1]
            assert other == room or other in allowed or "*" in allowed, f"{path} imports {name}"
        elif name == "ckptstore":
            assert room in {"errors", *ALLOWED}


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) in PURE], ids=lambda path: path.stem
)
def test_pure_rooms_do_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_IN_PURE
    assert "uuid4" not in path.read_text("utf-8")  # the type is data, drawing one is not
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval"}


def test_importing_it_pulls_in_no_framework_and_no_client() -> None:
    code = "import sys, ckptstore; ckptstore.CheckpointStore; "
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names() -> None:
    assert all(getattr(ckptstore, name).__name__ == name for name in ckptstore.__all__)
    assert set(ckptstore.__all__) <= set(dir(ckptstore))
    with pytest.raises(AttributeError):
        ckptstore.Nonsense  # noqa: B018
    assert sorted(ckptstore.__all__) == [
        "AlgorithmState", "BestN", "Checkpoint", "CheckpointError", "CheckpointStore", "EveryNSteps",
        "LatestDuration", "LatestN", "Opaque", "Staged", "Tagged",
    ]  # fmt: skip
