"""``python -m ckptstore.cli``: the command, where its script isn't on the path."""

from __future__ import annotations

import sys

from ckptstore.cli import main

if __name__ == "__main__":
    sys.exit(main())
