"""The library's advice is for Python: say it as a shell does."""

from __future__ import annotations

import re

from ckptstore.errors import CheckpointError

# In order: the first that fits a phrase translates it. What is to be typed stands in backquotes.
_PHRASES: tuple[tuple[str, str], ...] = (
    (r"store\.latest\(verified=True\) finds", "`ckptstore latest STORE --verified` finds"),
    (r"Open another one, for example store\.latest\(\)", "Use another one: `ckptstore ls STORE` lists them"),
    (r"Open one of its checkpoints, for example CheckpointStore\(url\)\.latest\(\)", "Say STORE@latest"),
    (r"Call store\.rollback\((\d+)\)", r"Run `ckptstore rollback STORE@\1`"),
    (r"latest\(\) returns", "`latest` returns"),
    (r"Use latest\(\)", "Say STORE@latest"),
    (r"Use best\(metric\), with the metric that counts", "See `ckptstore ls STORE --metric NAME`"),
    (r"Use get\((\d+)\)", r"Say STORE@\1"),
    (
        r"Use untag\(\) or unpin\(\) first",
        "Use `ckptstore tag STORE --delete NAME` first; a pin goes in Python",
    ),
    (r"Move it with tag\(\), or remove it with untag\(\)", "Move or delete it with `ckptstore tag`"),
    (r"Save again with if_exists='replace' to supersede it", "Copy to another store, or remove that first"),
    (
        r"Pass if_exists='replace' to supersede it or if_exists='return' to keep it",
        "Copy to another store, or remove that checkpoint first: `ckptstore rm`",
    ),
    (r"Check the URL, or pass create=True", "Check the path or URL"),
    (r"; or the checkpoint by itself, with Checkpoint\.open\(\)", ""),
    (r", or open a new CheckpointStore to begin anew", ", or run the command again to begin anew"),
    (r"Open a new CheckpointStore to use it", "Run the command again to use it"),
    (r", or pass single_writer=True if nobody else ever writes here while a save, delete or gc runs", ""),
    (r"Use copy_to\(\) to copy", "Use `ckptstore cp` to copy"),
    (r"with copy_to\(\) or `ckptstore cp`", "with `ckptstore cp`"),
    (r"CheckpointStore\(url\)\.id tells a store's", "a store's is in its _ckptstore/store.json"),
    (r"Pass single_writer=True if one process at a time writes there, or use", "Save from Python, or use"),
    (r"for single_writer=True only", "only for a single writer, who says so in Python"),
    (r"or with mmap=True", "in Python with memory mapping"),
    (r"Pass for example LatestN\(\d+\)( \| EveryNSteps\(\d+\))?", "Give for example 3"),
    (r"Read ckpt\.policies\[id\](, or `state`,)? for", "Read it in Python for"),
    (r"Pass `policies\[id\]`", "Read the policy in Python"),
    (r"for example weights\('?(.*?)'?\);", r"for example --policy \1;"),
    (r"Ask `committed` before `manifest`", "Adopt it: `ckptstore adopt`"),
    (r"Leave out `policy_ids`", "Leave out --policy"),
    (r", or pass dry_run=True", ", or give --dry-run"),
    (r"Pass Checkpoint(Store)?(\.open)?\(url\)", "Name it by its URL"),
    (r"Pass a signing_key too", "Adopt it in Python, with a signing key"),
)
_TRANSLATIONS = [(re.compile(python), shell) for python, shell in _PHRASES]


def in_shell(text: str) -> str:
    """`text` with what is spelled for Python spelled for a shell."""
    for python, shell in _TRANSLATIONS:
        text = python.sub(shell, text)
    return text


def describe_error(error: CheckpointError) -> str:
    """The error as one text, for a shell."""
    return in_shell(str(error))
