"""A small store that is looked at with plain ``os`` only, and what must hold of it at any instant.

The manifests here list each file's SHA-256, so that a checkpoint proves itself whole without any code
under test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping

from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.posix import Disk
from ckptstore.commit.base import IfExists
from ckptstore.commit.local.catalog import DirectoryCatalog
from ckptstore.format.names import MIN_MANIFEST_BYTES, CheckpointName

MANIFEST = "_ckptstore/manifest.json"
STRAY = "_ckptstore/.ckptstore"
Tree = dict[str, bytes]
State = dict[str, Tree]

Operation = Callable[[DirectoryCatalog], object]


def payload(step: int, text: str = "") -> Tree:
    """The files of a checkpoint, some deeper and one empty, one larger than what a sink gathers."""
    return {
        "algorithm_state.pkl": f"state {step} {text}".encode() * 50,
        "policies/p0/policy_state.pkl": f"p0 {step} {text}".encode() * 30_000,
        "policies/p1/policy_state.pkl": f"p1 {step} {text}".encode(),
        ".is_checkpoint": b"",
    }


def manifest(files: Mapping[str, bytes]) -> bytes:
    """The bytes of a manifest that vouches for `files`."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return json.dumps(digests).ljust(MIN_MANIFEST_BYTES).encode()


def catalog(root: str, disk: Disk | None = None, timeout: float = 5) -> DirectoryCatalog:
    """As a new process would open it."""
    return DirectoryCatalog(LocalBackend(root, disk), timeout=timeout)


def save(store: DirectoryCatalog, step: int, if_exists: IfExists = "error", text: str = "") -> CheckpointName:
    """Save `payload` as the store would: begin, write, commit, or abandon."""
    files = payload(step, text)
    attempt = store.begin(step, if_exists, uuid.uuid4().hex)
    try:
        for path, data in files.items():
            with attempt.create(path) as sink:
                sink.write(data)
    except BaseException:
        attempt.abandon()
        raise
    return attempt.commit(manifest(files))


def tree(root: str) -> Tree:
    """Every file below `root`."""
    found: Tree = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


class Broken(AssertionError):
    """The store shows something that no crash may leave."""


def state(root: str) -> State:
    """The checkpoints that exist: those with a manifest. Raises Broken unless each is whole."""
    found: State = {}
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        files = tree(os.path.join(root, name)) if name.startswith("checkpoint_") else {}
        # What a publish that died leaves beside a manifest is no file of anybody's; a sweep takes it later.
        files = {path: data for path, data in files.items() if not path.startswith(f"{STRAY}-")}
        if not files.get(MANIFEST):
            continue
        try:
            promised = json.loads(files[MANIFEST])
        except ValueError as error:
            raise Broken(f"{name} has half a manifest") from error
        held = {path: hashlib.sha256(data).hexdigest() for path, data in files.items() if path != MANIFEST}
        if held != promised:
            raise Broken(f"{name} holds {sorted(held)}, promised {sorted(promised)}, or bytes differ")
        found[name] = files
    return found


def leftovers(root: str) -> list[str]:
    """What is neither a checkpoint nor the store's own."""
    found = [name for name in os.listdir(root) if name not in {".staging", ".trash", ".lock", "_ckptstore"}]
    strays = [name for name in found if not os.path.exists(os.path.join(root, name, MANIFEST))]
    for place in (".staging", ".trash"):
        with contextlib.suppress(FileNotFoundError):
            strays += [f"{place}/{name}" for name in os.listdir(os.path.join(root, place))]
    return strays


@contextlib.contextmanager
def copy_of(template: str, where: str) -> Iterator[str]:
    """A store of one's own, equal to `template`."""
    shutil.copytree(template, where, symlinks=True)
    try:
        yield where
    finally:
        shutil.rmtree(where)
