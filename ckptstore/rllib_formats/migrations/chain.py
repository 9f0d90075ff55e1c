"""Every step in order, from the oldest version to the newest."""

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
