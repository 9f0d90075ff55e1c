"""What live algorithms computed, for every stored policy that has a network of RLlib's own.

    python -m tests.export.truth <folder of cases> onnx torchscript

exports all of them below the folder, runs the files, and prints how far they are from it: by release, what
was exported, what was refused, and the largest difference. Imports no Ray.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptstore import Checkpoint
from ckptstore.errors import UnreadableFormat
from ckptstore.export.formats import network_of
from tests.rllib_formats.corpus import cases, probe, roots

UNKNOWN = ("heuristic", "mixed/checkpoint/rnd")
"""Golden checkpoints of policies without a network."""
DATA = Path(__file__).parents[1] / "data"
Outputs = dict[str, Any]
Runner = Callable[[Path, Outputs], Outputs]


class Truth(NamedTuple):
    """Observations, and what the live algorithm made of them."""

    name: str
    root: Path
    policy_id: str
    obs: Any
    logits: Any
    """Of the distribution over actions, or Q values; the action of DQN on the new stack; None: not kept."""
    values: Any


def truths(folder: Path) -> Iterator[Truth]:
    """One of each policy below `folder`."""
    for case in cases(folder):
        expected = json.loads((case / "expected.json").read_text())
        for root in roots(case):
            for policy_id in Checkpoint.open(root).policy_ids:
                found = probe(expected, policy_id)
                obs, kept = (None, None) if found is None else (np.array([item]) for item in found)
                obs = None if obs is None else obs.astype("f4")
                name = f"{case.parent.name}/{case.name}/{root.name}/{policy_id}"
                yield Truth(name, root, policy_id, obs, kept, None)
    for path in sorted(folder.glob("*/*/truth.npz")):
        with np.load(path) as archive:
            if "obs" not in archive:  # what another trainer's arrays are
                continue
            obs, values = archive["obs"].astype("f4") / 127, archive.get("values")
            yield Truth(
                path.parent.name,
                path.parent / "checkpoint",
                "default_policy",
                obs,
                archive["logits"],
                values,
            )


def difference(truth: Truth, format: str, run: Runner, folder: Path) -> float | None:
    """Export, run the file on what the live algorithm saw; the largest difference. None: no truth is kept."""
    path = folder / f"policy.{format}"
    path.unlink(missing_ok=True)
    checkpoint = Checkpoint.open(truth.root)
    done = checkpoint.export(path, truth.policy_id)
    assert done.difference is not None
    assert done.difference < 1e-5
    if truth.logits is None:
        return None
    network, given = network_of(checkpoint, truth.policy_id), {"obs": truth.obs}
    if network.normal is not None:
        # The truth is the network's alone, so give the file what its filter makes the probe of.
        given["obs"] = (truth.obs * network.normal.deviation + network.normal.mean).astype("f4")
    for name, shape in network.inputs.items():
        given.setdefault(name, np.zeros((len(truth.obs), *shape), "f4"))
    if truth.obs.shape[1:] != network.inputs["obs"]:
        return None  # the collection probed SAC with an observation of another size
    found = run(path, given)
    logits = next(iter(found.values()))
    if truth.logits.shape[1] == 1 and logits.shape[1] > 1:
        assert logits.argmax(axis=1).tolist() == truth.logits[:, 0].tolist()
        return 0.0
    assert logits.shape == truth.logits.shape
    # The collection has observations of any size up to float32's.
    largest = float((np.abs(logits - truth.logits) / np.maximum(1.0, np.abs(truth.logits))).max())
    if truth.values is not None:
        largest = max(largest, float(np.abs(found["vf_preds"][:, 0] - truth.values).max()))
    return largest


def run_onnx(path: Path, given: Outputs) -> Outputs:
    """By onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, given), strict=True))


def run_torchscript(path: Path, given: Outputs) -> Outputs:
    """By torch, which tells the names of the inputs."""
    import torch

    loaded = torch.jit.load(path)
    names = [str(item.debugName()) for item in loaded.graph.inputs()][1:]
    with torch.no_grad():
        made = loaded(*(torch.from_numpy(given[name.partition(".")[0]]) for name in names))
    return {name: value.numpy() for name, value in made.items()}


RUNNERS: dict[str, Runner] = {"onnx": run_onnx, "torchscript": run_torchscript}


def main(folder: Path, formats: list[str]) -> None:
    releases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for truth in truths(folder):
            row = releases.setdefault(truth.name.partition("/")[0], {"policies": 0, "refused": []})
            row["policies"] += 1
            for format in formats:
                try:
                    found = difference(truth, format, RUNNERS[format], Path(scratch))
                except UnreadableFormat as error:
                    row["refused"].append(f"{truth.name} {format}: {error.why}")
                    continue
                row[format] = row.get(format, 0) + 1
                if found is not None:
                    row[f"{format} compared"] = row.get(f"{format} compared", 0) + 1
                    row[f"{format} largest"] = max(row.get(f"{format} largest", 0.0), found)
    for release, row in sorted(releases.items(), key=lambda item: [int(n) for n in item[0].split(".")]):
        print(release, {key: value for key, value in row.items() if key != "refused"})
        for line in row["refused"]:
            print("  refused", line)
    print("imported:", [name for name in ("ray", "torch", "tensorflow", "onnx") if name in sys.modules])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
