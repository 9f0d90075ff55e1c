"""Upgrade what older RLlib releases wrote to what the newest one writes, in memory, one step at a time.

A *raw* checkpoint is a dict with any of these documents. A step upgrades those that it is given, each by
itself, so that one policy of a hundred can be read without the others:

``algorithm``
    Up to 1.2 the content of ``algorithm_state.*`` (0.1: of the one pickle). From 2.0 on a dict with the
    content of the tree of components: ``algorithm_state``, ``ctor`` ({"class", "args", "kwargs"}),
    ``env_runner``, ``learner``, ``policy_ids``.
``policies``
    By id; up to 1.2 the content of ``policy_state.*``, with ``learner_state`` beside it in 1.2. From
    2.0 on ``module_state``, ``optimizer``, ``ctor``.
``tune_metadata``
    The content of ``.tune_metadata``, which Ray wrote beside a checkpoint up to 2.6.

What the old API stack stored and the new one can't hold goes to ``old_stack``; nothing is dropped. Steps
work on plain data, never import today's classes, draw no random number and read no clock. They are frozen
once released: a later step mends a mistake.

A new version is a file here, named after the two versions, and its place in `CHAIN`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.migrations import (
    v0_1_to_v1_0,
    v1_0_to_v1_1,
    v1_1_to_v1_2,
    v1_2_to_v2_0,
    v2_0_to_v2_1,
)
from ckptstore.rllib_formats.versions import NEWEST

__all__ = ["CHAIN", "NEWEST", "Raw", "steps_from", "upgrade"]

Raw = dict[str, Any]

CHAIN: tuple[ModuleType, ...] = (
    v0_1_to_v1_0,
    v1_0_to_v1_1,
    v1_1_to_v1_2,
    v1_2_to_v2_0,
    v2_0_to_v2_1,
)


def steps_from(version: str) -> tuple[ModuleType, ...]:
    """The steps from `version` to `NEWEST`, in order; none for `NEWEST` itself.

    Raises UnreadableFormat for a version that no step starts from.
    """
    if version == NEWEST:
        return ()
    for index, step in enumerate(CHAIN):
        if version == step.FROM:
            return CHAIN[index:]
    raise UnreadableFormat(
        "checkpoint_version",
        f"no step leads from {version!r:.80}",
        "Upgrade ckptstore: pip install --upgrade ckptstore",
    )


def upgrade(raw: Raw, version: str) -> Raw:
    """The raw checkpoint `raw`, of `version`, brought to `NEWEST`.

    Returns a new dict and doesn't change `raw`; the two may share values.
    """
    for step in steps_from(version):
        raw = step.upgrade(raw)
    return raw
