"""Programs that train, in processes that are killed, and what they said: one line of JSON for each update."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOP = Path(__file__).parents[3]
_left = int(os.environ.get("KILL_AFTER", "0"))


def say(step: int, *values: Any) -> None:
    """What the program calls: a step, and digests of all bits of the values. Its last call kills it."""
    global _left
    print(json.dumps([int(step), *map(digest, values)]), flush=True)
    _left -= 1
    if _left == 0:
        os.killpg(0, signal.SIGKILL)  # with the ranks that it has started


def digest(value: Any) -> str:
    """A few letters that differ if any bit of arrays, tensors and numbers in nested containers does."""
    hasher = hashlib.sha256()
    _feed(hasher, value)
    return hasher.hexdigest()[:16]


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in value:
            hasher.update(repr(key).encode())
            _feed(hasher, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(hasher, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        hasher.update(repr(value).encode())
    else:
        array = value.detach().cpu().contiguous() if hasattr(value, "detach") else value
        array = np.asarray(array)
        assert array.dtype != object, type(value)
        hasher.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())


def live(
    program: str, *arguments: Any, options: dict[str, Any] | None = None, kill_after: int = 0, cwd: Path
) -> dict[int, Any]:
    """Run `program` with `arguments`, which dies of SIGKILL after so many lines; what it said, by step.

    It opens its store by ``CheckpointStore(url, storage_options=OPTIONS)``.
    """
    head = (
        "import json, os, sys\nfrom tests.integrations.trainers.lives import say\n"
        "OPTIONS = json.loads(os.environ['OPTIONS'])\n"
    )
    env = {
        **os.environ, "PYTHONPATH": str(TOP), "OPTIONS": json.dumps(options), "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "KILL_AFTER": str(kill_after),
    }  # fmt: skip
    script = cwd / "program.py"  # a file: Lightning starts it again for the other ranks
    script.write_text(head + program)
    command = [sys.executable, "-W", "ignore", str(script), *map(str, arguments)]
    said: dict[int, Any] = {}
    log = cwd / "stderr.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("["):  # what the framework says
                continue
            step, *rest = json.loads(line)
            said[step] = rest
        code = process.wait(300)
    assert code == (-9 if kill_after else 0), log.read_text()[-3000:]
    return said


def check_lives(
    program: str, url: str, options: dict[str, Any] | None, cwd: Path, *arguments: Any, kills: tuple[int, ...]
) -> list[int]:
    """A run that is killed after so many lines, again and again, says what one says that is left alone.

    Returns where each life went on.
    """
    whole = live(program, f"{url}/whole", *arguments, options=options, cwd=cwd)
    begun = []
    for kill_after in (*kills, 0):
        said = live(program, f"{url}/killed", *arguments, options=options, kill_after=kill_after, cwd=cwd)
        begun.append(min(said))
        differing = [step for step, rest in said.items() if whole.get(step) != rest]
        assert not differing, (differing, said[differing[0]], whole.get(differing[0]))
    assert max(said) == max(whole)
    assert begun[1:] == sorted(begun[1:])
    assert min(begun[1:]) > begun[0], "nothing was resumed"
    return begun
