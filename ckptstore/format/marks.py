"""Names of files that mark a directory as a checkpoint of RLlib's, of whatever release."""

from __future__ import annotations

import re

STATES = ("algorithm_state.", "policy_state.", "module_state.", "checkpoint-", "class_and_ctor_args.")
"""How the names of the files begin that mark a directory as a checkpoint, or as a part of one."""
V0_FILE = re.compile(r"checkpoint-\d+\Z", re.ASCII)
"""The one file of a 0.1 checkpoint: up to Ray 1.13 `save` returned its path, and `restore` took it."""
_DESCRIPTIONS = frozenset({"rllib_checkpoint.json", "learner_state.json", "rl_module_metadata.json"})


def is_mark(name: str) -> bool:
    """Whether a file of that name lies at the top of a checkpoint of RLlib's, or of a part of one."""
    state = name.startswith(STATES) and not name.startswith("checkpoint-")
    return state or name in _DESCRIPTIONS or V0_FILE.match(name) is not None
