"""Compares what `Checkpoint.open` reads with the truth that the live algorithms left beside it.

    python -m tests.rllib_formats.corpus <folder>...

A case is a directory with ``checkpoint/``, ``expected.npz`` (``weights/<policy id>/<name>`` and, where it
was kept, ``optim/...``) and ``expected.json`` (iteration, counters, policy ids). Needs numpy, msgpack and
fsspec and nothing else; says at the end which other packages were imported, which must be none.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ckptstore import Checkpoint
from ckptstore.rllib_formats.foreign import ForeignCheckpoint
from ckptstore.rllib_formats.foreign import open as open_foreign
from ckptstore.rllib_formats.layouts.base import LEARNER_ONLY
from ckptstore.rllib_formats.notes import Note

TOLERANCE = 1e-7
NOT_NEEDED = ("ray", "torch", "tensorflow", "gym", "gymnasium", "tree", "cloudpickle", "blake3", "ml_dtypes")


def cases(folder: Path) -> list[Path]:
    """Every case below `folder`, sorted."""
    return sorted(path.parent for path in folder.rglob("expected.json"))


def roots(case: Path) -> list[Path]:
    """The checkpoint directories of a case: one, or several beside each other."""
    top = case / "checkpoint"
    if any(path.is_file() for path in top.iterdir()):
        return [top]
    return sorted(path for path in top.iterdir() if path.is_dir())


def listing(root: Path) -> dict[str, int]:
    """Path to size of every file below `root`."""
    return {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def open_directory(root: Path) -> ForeignCheckpoint:
    """The checkpoint in the local directory `root`."""
    return open_foreign(listing(root), lambda path: (root / path).read_bytes())


def probe(expected: dict[str, Any], policy_id: str) -> tuple[list[Any], list[float]] | None:
    """An observation and what the live policy made of it, if the truth has them; without filters."""
    obs, logits = expected.get("probe_obs"), (expected.get("probe_logits") or {}).get(policy_id)
    obs = obs.get(policy_id) if isinstance(obs, dict) else obs
    return (obs, logits) if isinstance(obs, list) and isinstance(logits, list) else None


def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every leaf below `value` with its path, dicts and lists opened."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{prefix}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flat(item, f"{prefix}/{index}")
    else:
        yield prefix, value


def optimizer_as_expected(policy_id: str, optimizer: dict[str, Any]) -> dict[str, Any]:
    """The optimizer of one policy under every name a truth file may give it."""
    found: dict[str, Any] = {}
    for name, item in optimizer.items():
        if name == "variables":
            found.update(flat(item, f"optim/{policy_id}"))
            continue
        found.update(flat(item, f"optim/{policy_id}/{name}"))
        found.update(flat(item, f"optim/{policy_id}_{name}"))
        found.update(flat(item, f"optim/{policy_id}_{name}/state"))
    return found


class Readable(Protocol):
    """What of a checkpoint is compared; `ForeignCheckpoint` is one."""

    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def policy_ids(self) -> tuple[str, ...]: ...
    @property
    def components(self) -> Any: ...
    @property
    def notes(self) -> tuple[Note, ...]: ...
    def component(self, name: str) -> Any: ...
    def state(self) -> dict[str, Any]: ...
    def policy(self, policy_id: str) -> dict[str, Any]: ...
    def weights(self, policy_id: str) -> dict[str, Any]: ...


class Front:
    """A `Checkpoint` by the names that `check` asks for."""

    def __init__(self, ckpt: Checkpoint) -> None:
        self.ckpt = ckpt
        self.kind, self.version, self.policy_ids = ckpt.kind, ckpt.version, ckpt.policy_ids
        self.components = ckpt.components

    def component(self, name: str) -> Any:
        """One of `components`."""
        return self.components[name]

    @property
    def notes(self) -> tuple[Note, ...]:
        """Of the checkpoint."""
        return self.ckpt.notes

    def state(self) -> Any:
        """Of the algorithm."""
        return self.ckpt.state

    def policy(self, policy_id: str) -> Any:
        """Of one policy."""
        return self.ckpt.policies[policy_id]

    def weights(self, policy_id: str) -> Any:
        """Of one policy."""
        return self.ckpt.weights(policy_id)


def from_disk(root: Path) -> Front:
    """The checkpoint in `root`, as anybody would open it."""
    return Front(Checkpoint.open(root))


def check(case: Path, opened: Callable[[Path], Readable] = from_disk) -> tuple[str, list[str]]:
    """The era of a case, and one line for everything that differs from the truth.

    `opened` reads the checkpoint that is, or is a copy of, the one in the directory it is given.
    """
    expected = json.loads((case / "expected.json").read_text())
    with np.load(case / "expected.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    wrong: list[str] = []
    era = ""
    for root in roots(case):
        foreign = opened(root)
        era = era or f"{foreign.version} {foreign.kind}"
        subset = "inference_only" in root.name
        wrong += [f"{root.name}: {line}" for line in _check_one(foreign, truth, expected, subset)]
    return era, wrong


def _check_one(
    foreign: Readable, truth: dict[str, Any], expected: dict[str, Any], subset: bool
) -> Iterator[str]:
    ids = [str(policy_id) for policy_id in expected["policy_ids"]]
    beside = {name.removeprefix(LEARNER_ONLY): name for name in foreign.components if LEARNER_ONLY in name}
    missing = set(ids) - set(foreign.policy_ids) - beside.keys()
    if set(foreign.policy_ids) - set(ids):
        yield f"policy ids {foreign.policy_ids} where {ids} are expected"
    state = foreign.state() if foreign.kind not in {"RLModule", "MultiRLModule", "LearnerGroup"} else {}
    optimizer: dict[str, Any] = {}
    for policy_id in (*foreign.policy_ids, *beside):
        prefix = f"weights/{policy_id}/"
        names = {name[len(prefix) :] for name in truth if name.startswith(prefix)}
        if policy_id in beside:
            policy = foreign.component(beside[policy_id])
            weights = policy["weights"]
        else:
            policy = foreign.policy(policy_id)
            weights = foreign.weights(policy_id)
        if weights.keys() != policy["weights"].keys():
            yield f"{policy_id}: weights() and policy() name different weights"
        if weights.keys() != names and not (subset and weights.keys() < names):
            yield f"{policy_id}: weights are {sorted(weights.keys() ^ names)[:3]} too many or too few"
        for name in names & weights.keys():
            yield from _compare(f"{prefix}{name}", truth[prefix + name], weights[name])
        optimizer.update(optimizer_as_expected(policy_id, policy["optimizer"]))
        step = expected.get("global_timestep", {}).get(policy_id)
        if step is not None and policy["global_timestep"] not in (None, step, step + 1):
            yield f"{policy_id}: global timestep {policy['global_timestep']} where {step} is expected"
    skipped = tuple(f"optim/{policy_id}" for policy_id in missing)
    holds_optimizer = foreign.kind not in {"RLModule", "MultiRLModule"}
    for name in sorted(truth) if holds_optimizer else ():
        if name.startswith("optim/") and not (skipped and name.startswith(skipped)):
            if name not in optimizer:
                yield f"{name} is not there"
            else:
                yield from _compare(name, truth[name], optimizer[name], exact_type=False)
    if foreign.kind == "Algorithm":
        if state["iteration"] not in (None, expected["iteration"]):
            yield f"iteration {state['iteration']} where {expected['iteration']} is expected"
        if state["iteration"] is None and foreign.version not in {"1.0", "1.1", "1.2"}:
            yield "no iteration"
        for name, value in expected.get("counters", {}).items():
            # Ray 2.35 counts the same steps differently in two places, and a truth may be either.
            found = [state["counters"].get(key) for key in (name, f"env_runners/{name}")]
            if value not in found:
                yield f"counter {name} is {found}, not {value}"
    if missing and not any(note.kind in ("absent", "missing") for note in foreign.notes):
        yield f"{sorted(missing)} are missing and no note says so"
    for note in foreign.notes:
        if note.kind == "mismatch":
            yield str(note)


def _compare(name: str, truth: Any, value: Any, exact_type: bool = True) -> Iterator[str]:
    array = np.asarray(value)
    if array.shape != truth.shape or (
        exact_type and (array.dtype != truth.dtype or type(value) is not np.ndarray)
    ):
        yield f"{name}: {array.dtype} {array.shape} where {truth.dtype} {truth.shape} is expected"
    elif not np.allclose(array.astype("f8"), truth.astype("f8"), rtol=0, atol=TOLERANCE, equal_nan=True):
        yield f"{name}: values differ"


def main(folders: list[str]) -> int:
    """Check all cases below `folders`, print a table by era; 1 if anything differs."""
    good: Counter[str] = Counter()
    total: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for case in [case for folder in folders for case in cases(Path(folder))]:
        begin = time.perf_counter()
        try:
            era, wrong = check(case)
        except Exception as error:  # noqa: BLE001 - the table must show every case, whatever one of them does
            era, wrong = "failed to open", [f"{type(error).__name__}: {error}"]
        seconds[era] += int(1e6 * (time.perf_counter() - begin))
        total[era] += 1
        good[era] += not wrong
        for line in wrong[:6]:
            print(f"{case}: {line}")
    print(f"{'era':24} {'right':>6} {'cases':>6} {'ms each':>8}")
    for era in sorted(total):
        print(f"{era:24} {good[era]:6} {total[era]:6} {seconds[era] / total[era] / 1000:8.1f}")
    print(f"{'all':24} {good.total():6} {total.total():6}")
    imported = sorted(set(NOT_NEEDED) & set(sys.modules))
    print(f"imported although not needed: {', '.join(imported) or 'none'}")
    return 0 if good.total() == total.total() > 0 and not imported else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
