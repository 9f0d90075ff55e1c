"""``examples/train_numpy.py`` from within its store, for ckpt-chaos; or, with `result`, how it ended.

It knows file events by their paths, and ckptstore opens names relative to directories: only from within the
store do the two agree on what lies there.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import sys
from pathlib import Path

from ckptstore import CheckpointStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_numpy.py"


def main() -> None:
    """Train in the directory named first, or say what lies there."""
    out = sys.argv[1]
    if sys.argv[2:] == ["result"]:
        checkpoint = CheckpointStore(out, create=False).latest(verified=True)
        assert checkpoint is not None
        weights = b"".join(array.tobytes() for array in checkpoint.weights().values())
        print(checkpoint.step, checkpoint.skipped, hashlib.sha256(weights).hexdigest())
        return
    os.makedirs(out, exist_ok=True)
    os.chdir(out)
    sys.argv = [str(EXAMPLE), ".", "--iterations", "6", "--save-every", "2", "--replay-size", "2000"]
    runpy.run_path(str(EXAMPLE), run_name="__main__")


if __name__ == "__main__":
    main()
