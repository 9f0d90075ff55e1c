"""The command ``ckptstore``, for people and, with ``--json``, for programs.

Needs click and rich (``pip install 'ckptstore[cli]'``), which nothing else in the package imports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` default to the process's own."""
    try:
        from ckptstore.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        print(
            f"ckptstore: the command line needs {error.name}: pip install 'ckptstore[cli]'", file=sys.stderr
        )
        return 2
    return run(arguments)
