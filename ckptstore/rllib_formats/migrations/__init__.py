"""From what older RLlib releases wrote to what the newest one writes, in memory, one step at a time. Pure.

A *raw* checkpoint is a dict with any of these documents; a step upgrades those it is given, each on its
own, so that one policy of a hundred can be read without the others:

``algorithm``
    Up to 1.2 the content of ``algorithm_state.*`` (0.1: of the one pickle). From 2.0 on a dict of what
    the tree of components holds: ``algorithm_state``, ``ctor`` ({"class", "args", "kwargs"}),
    ``env_runner``, ``learner``, ``policy_ids``.
``policies``
    By id; up to 1.2 the content of ``policy_state.*``, with ``learner_state`` beside it in 1.2. From
    2.0 on ``module_state``, ``optimizer``, ``ctor``.
``tune_metadata``
    The content of ``.tune_metadata``, which Ray wrote beside a checkpoint up to 2.6.

What the old API stack stored and the new one has no place for travels on under ``old_stack``; nothing is
dropped. Steps work on plain data, never import today's classes, never draw a random number or read a
clock, and are frozen once released: a mistake is mended by a step that comes after.
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

Raw = dict[str, Any]

CHAIN: tuple[ModuleType, ...] = (
    v0_1_to_v1_0,
    v1_0_to_v1_1,
    v1_1_to_v1_2,
    v1_2_to_v2_0,
    v2_0_to_v2_1,
)

NEWEST: str = CHAIN[-1].TO


def steps_from(version: str) -> tuple[ModuleType, ...]:
    """The steps that lead from `version` to `NEWEST`; none for `NEWEST` itself.

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
    """`raw`, written as `version`, as `NEWEST` would have it. Returns a new dict; `raw` is left alone.

    Values below the documents may be shared with `raw`.
    """
    for step in steps_from(version):
        raw = step.upgrade(raw)
    return raw
