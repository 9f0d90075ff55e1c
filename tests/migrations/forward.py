"""Migrates checkpoints to 1.1 and reads them back: what is the same, and what became of the rest, by era.

    CKPTSTORE_CORPUS=<folder> python -m tests.migrations.forward [case ...]

Takes every case of the folder, or those named, and prints a table. Exits with 1 if weights, optimizers,
counters or anything else that was carried differs.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptstore import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.rllib_formats.write.inert import describe
from ckptstore.save.migrate import Migration
from tests.rllib_formats.corpus import cases, flat, roots

POLICY_FIELDS = (
    "weights", "optimizer", "global_timestep", "num_grad_updates", "exploration", "kl_coeff",
    "observation_space", "action_space",
)  # fmt: skip
STATE_FIELDS = ("algorithm_class", "iteration", "counters", "filters", "policy_ids")


def differences(before: Checkpoint, after: Checkpoint) -> Iterator[str]:
    """A line for every value of the model that did not arrive as it was."""
    if before.policy_ids != after.policy_ids:
        yield f"policies {after.policy_ids} where {before.policy_ids} were"
    if before.kind == "Algorithm":
        for name in STATE_FIELDS:
            yield from _different(f"state/{name}", before.state[name], after.state[name])
        if before.state["replay_buffers"] is not None:
            stored = after.components["replay_buffers"]
            yield from _different("replay_buffers", before.state["replay_buffers"], stored)
    for policy_id in before.policy_ids:
        old, new = before.policies[policy_id], after.policies[policy_id]
        for name in POLICY_FIELDS:
            yield from _different(f"{policy_id}/{name}", old[name], new[name])
        if before.weights(policy_id).keys() != after.weights(policy_id).keys():
            yield f"{policy_id}: other weights"
    for name in before.components:
        yield from _different(
            f"components/{name}", describe(before.components[name], name), after.components[name]
        )


def _different(place: str, old: Any, new: Any) -> Iterator[str]:
    one, two = dict(flat(old, place)), dict(flat(new, place))
    for path in sorted(one.keys() ^ two.keys()):
        yield f"{path} is only {'before' if path in one else 'after'}"
    for path in sorted(one.keys() & two.keys()):
        a, b = one[path], two[path]
        # Records compare all they hold by type, shape and bytes.
        if Opaque("", (a,)) != Opaque("", (b,)):
            yield f"{path}: {b!r:.60} where {a!r:.60} was"


def check(root: Path, directory: str) -> tuple[str, list[str], Migration[Checkpoint]]:
    """Era of the checkpoint in `root`, what is wrong with its migrated twin, and the report."""
    before = Checkpoint.open(root)
    done = before.migrate(directory)
    assert done.checkpoint is not None
    after = Checkpoint.open(done.checkpoint.url)
    wrong = [] if after.version == "1.1" else [f"version {after.version}"]
    wrong += [str(problem) for problem in after.check().problems]
    wrong += differences(before, after)
    return f"{before.version} {before.kind}", wrong, done


def main(arguments: list[str]) -> int:
    """Check all, print the table."""
    folder = Path(os.environ.get("CKPTSTORE_CORPUS", "."))
    chosen = [Path(argument) for argument in arguments] or cases(folder)
    total: Counter[str] = Counter()
    good: Counter[str] = Counter()
    fates: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for case in chosen:
        for root in roots(case):
            with tempfile.TemporaryDirectory() as directory:
                try:
                    era, wrong, done = check(root, directory)
                except Exception as error:  # noqa: BLE001 - the table must show every case
                    print(f"{case}/{root.name}: {type(error).__name__}: {error}")
                    total["failed"] += 1
                    continue
            total[era] += 1
            good[era] += not wrong
            for line in wrong[:6]:
                print(f"{case}/{root.name}: {line}")
            for report in [done.algorithm, *done.policies.values()]:
                for fate, lines in report._asdict().items():
                    fates[era][fate].update(
                        {re.sub(r"policies/[^/ ]+", "policies/*", line) for line in lines}
                    )
            fates[era]["notes"].update({re.sub(r"[^ ]*/[^ :]+", "*", note) for note in done.notes})
    print(f"{'era':24} {'equal':>6} {'of':>5}")
    for era in sorted(total):
        print(f"{era:24} {good[era]:6} {total[era]:5}")
    for era in sorted(fates):
        for fate in ("dropped", "renamed", "opaque", "notes"):
            found = ", ".join(f"{line} ({n})" for line, n in fates[era][fate].most_common(12))
            print(f"{era}: {fate}: {found or 'nothing'}")
    return 0 if good.total() == total.total() else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
