"""Names of files that mark a directory as a checkpoint of RLlib's, of whatever release."""

from __future__ import annotations

import re
from collections.abc import Collection

STATES = ("algorithm_state.", "policy_state.", "module_state.", "checkpoint-", "class_and_ctor_args.")
"""How the names of the files begin that mark a directory as a checkpoint, or as a part of one."""
V0_FILE = re.compile(r"checkpoint-\d+\Z", re.ASCII)
"""The one file of a 0.1 checkpoint: up to Ray 1.13 `save` returned its path, and `restore` took it."""
_BESIDE = frozenset({".is_checkpoint", ".tune_metadata"})
_DESCRIPTIONS = frozenset({"rllib_checkpoint.json", "learner_state.json", "rl_module_metadata.json"})


def is_only_called_so(names: Collection[str]) -> bool:
    """Whether the one mark among the files `names` is one that any program may have made.

    RLlib never wrote ``checkpoint-<n>`` without a file beside it that says so.
    """
    if not any(V0_FILE.match(name) for name in names):
        return False
    beside = any(name in _BESIDE or name.endswith(".tune_metadata") for name in names if "/" not in name)
    return not beside and not any(is_mark(name) for name in names if not V0_FILE.match(name))


def is_mark(name: str) -> bool:
    """Whether a file of that name lies at the top of a checkpoint of RLlib's, or of a part of one."""
    state = name.startswith(STATES) and not name.startswith("checkpoint-")
    return state or name in _DESCRIPTIONS or V0_FILE.match(name) is not None
