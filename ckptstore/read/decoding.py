"""Check a checkpoint that no digests vouch for: decode all there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ckptstore.errors import CheckpointError
from ckptstore.read.contents import Contents
from ckptstore.read.files import Files
from ckptstore.read.report import VerifyReport


def check_decoding(contents: Contents, files: Files) -> VerifyReport:
    """What was found wrong while decoding every part of it."""
    from ckptstore.read.trainers import TrainerContents  # here, as few checkpoints are another trainer's

    problems: list[str] = []
    tries: list[Callable[[], object]] = [contents.state]
    tries += [partial(contents.policy, policy_id) for policy_id in contents.policy_ids]
    tries += [partial(contents.component, name) for name in contents.components]
    if isinstance(contents, TrainerContents):
        problems += contents.problems()
        tries = [] if problems else tries
    for attempt in tries:
        try:
            attempt()
        except CheckpointError as error:
            problems.append(f"{error.what}: {error.why}")
    problems += [str(note) for note in contents.notes() if note.kind in ("mismatch", "missing")]
    sizes = files.paths()
    problems += [f"{path}: a link, pipe or device" for path, size in sizes.items() if size < 0]
    read = sum(size for size in sizes.values() if size > 0)
    return VerifyReport(files.label, len(sizes), read, tuple(dict.fromkeys(problems)))
