"""The command ``ckptstore``: talks to people, and with ``--json`` to programs.

Needs click and rich (``pip install 'ckptstore[cli]'``), which nothing else in the package imports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. `arguments` default to the process's own."""
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
