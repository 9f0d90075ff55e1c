"""Coverage-guided fuzzing of one target with atheris: ``python -m tests.fuzz.run pickle --seconds 600``.

Inputs that reach new code are kept in ``.scratch/fuzz/<target>/corpus`` and tried again by the next run.
An input that breaks something is written to ``.scratch/fuzz/<target>/crash-*``; it becomes a test by being
copied to ``tests/fuzz/finds/<target>/``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ckptstore"]):
    from tests.fuzz.targets import TARGETS

SCRATCH = Path(__file__).parents[2] / ".scratch" / "fuzz"


def main() -> None:
    """Fuzz until the time is over or something breaks; libFuzzer ends the process itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--max-len", type=int, default=8192, help="of one input, in bytes")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    chosen = parser.parse_args()
    home: Path = chosen.scratch / chosen.target
    corpus = home / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    target = TARGETS[chosen.target]
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)

    def one(data: bytes) -> None:
        target.run(data)

    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={chosen.seconds}",
            f"-max_len={chosen.max_len}",
            "-timeout=20",  # seconds for one input: longer is a find
            "-rss_limit_mb=1500",
            f"-artifact_prefix={home}/",
            "-print_final_stats=1",
            "-use_value_profile=1",
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
