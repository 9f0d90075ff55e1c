"""What becomes of every checkpoint of a collection with the truth beside it, case by case.

    python -m tests.compat.table <folder of cases>... [--lines]

Run by a Python with Ray 2.60 and torch; Ray itself runs in a process of its own. A case is ``ok`` where all
its policies are. Of each it says:

* ``open``: everything is equal to what the live algorithm held.
* ``verify``: ``ckptstore verify`` finds no damage.
* ``1.1``: migrated, opened by plain `pickle`, weights equal to the live ones.
* ``2.1``: migrated, loaded by Ray, every live array equal to the stored one, and its outputs to the truth's.
* ``onnx``, ``torchscript``: exported, run, outputs equal to the truth's.

``same`` is ``ok`` without outputs in the truth to compare with. ``refused`` means a typed error, whose text
``--lines`` prints; ``wrong`` and ``error`` (of any other type) must not be there. A policy without weights
has no network to export.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from ckptstore import Checkpoint
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointError
from tests.export.truth import RUNNERS, Truth, difference, truths
from tests.rllib_formats import corpus

COLUMNS = ("open", "verify", "1.1", "2.1", "onnx", "torchscript")
WORST = ("error", "wrong", "refused", "same", "ok")
"""A case is what the first of these says of any of its policies."""
CLOSE = 1e-5
MODULES = "learner_group/learner/rl_module"
Cell = tuple[str, str]


def attempt(what: Callable[[], Cell]) -> Cell:
    """The outcome, and what was said."""
    try:
        return what()
    except CheckpointError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except AssertionError as error:
        return "wrong", str(error)
    except Exception as error:  # noqa: BLE001 - the table shows every case, whatever one of them does
        return "error", f"{type(error).__name__}: {error}"


def check_open(case: Path) -> Cell:
    wrong = corpus.check(case)[1]
    return ("wrong", wrong[0]) if wrong else ("ok", "")


def verify(root: Path) -> Cell:
    done = CliRunner().invoke(cli, ["verify", str(root)])
    return ("ok", "") if done.exit_code == 0 else ("wrong", done.output)


def to_plain(root: Path, case: Path, folder: Path) -> Cell:
    """Migrate to 1.1 and compare what plain `pickle` reads with the truth."""
    made = Checkpoint.open(root).migrate(folder / "plain", to="1.1").checkpoint
    assert made is not None
    with np.load(case / "expected.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    path = Path(made.url.removeprefix("file://"))
    for policy_id in made.policy_ids:
        state = path / (
            "policy_state.pkl" if made.kind == "Policy" else f"policies/{policy_id}/policy_state.pkl"
        )
        stored = pickle.loads(state.read_bytes())["weights"]
        names = dict(corpus.flat(stored, f"weights/{policy_id}"))
        for name, value in truth.items():
            if name in names:
                np.testing.assert_allclose(np.asarray(names[name]), value, rtol=0, atol=1e-7, err_msg=name)
        owned = [name for name in truth if name.startswith(f"weights/{policy_id}/")]
        assert not owned or "inference_only" in root.name or set(owned) <= set(names), "weights are missing"
    return "ok", ""


def to_new(root: Path, truth: list[Truth], folder: Path, jobs: list[Any]) -> Cell:
    """Migrate to 2.1; adds a job for Ray for each policy."""
    made = Checkpoint.open(root).migrate(folder / "new", to="2.1").checkpoint
    assert made is not None
    path = made.url.removeprefix("file://")
    for item in truth:
        if item.policy_id not in made.policy_ids:
            continue
        place = {"kind": "RLModule", "path": path}
        if made.kind != "RLModule":
            base = f"{path}/{MODULES}" if made.kind == "Algorithm" else path
            place = {"kind": "MultiRLModule", "path": base, "module": item.policy_id}
        space = Checkpoint.open(root).policies[item.policy_id]["observation_space"]
        shape = space.get("shape") or (1,)
        usable = item.logits is not None and item.obs.shape[1:] == tuple(shape)
        obs = item.obs if usable else np.zeros((2, *shape))
        known = item.logits.tolist() if usable else None
        jobs.append({**place, "obs": obs.tolist(), "truth": known, "name": item.name})
    return "same", ""


def judge(answer: dict[str, Any], truth: list[list[float]] | None) -> Cell:
    """What Ray's own load says of one module."""
    if "error" in answer:
        return "wrong", str(answer["error"])
    if truth is None or answer["logits"] is None:
        return "same", ""
    found, expected = np.array(answer["logits"]), np.array(truth)
    if expected.shape[1] == 1 < found.shape[1]:  # of DQN on the new stack the truth is the action
        return ("ok", "") if found.argmax(axis=1).tolist() == expected[:, 0].tolist() else ("wrong", "action")
    close = found.shape == expected.shape and np.allclose(found, expected, rtol=CLOSE, atol=CLOSE)
    return ("ok", "") if close else ("wrong", f"{found[0][:4]} where {expected[0][:4]} is expected")


def export(item: Truth, format: str, folder: Path) -> Cell:
    found = difference(item, format, RUNNERS[format], folder)
    if found is None:
        return "same", ""
    return ("ok", "") if found < CLOSE else ("wrong", f"differs by {found}")


def ask_ray(jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "ray_modules.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder / "jobs.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answers: list[dict[str, Any]] = json.loads(done.stdout.rpartition("ANSWER")[2])
    return answers


Cells = dict[tuple[str, str], list[Cell]]


def look(name: str, case: Path, truth: Mapping[Path, list[Truth]], folder: Path, cells: Cells) -> list[Any]:
    """Fill in what doesn't need Ray; returns the jobs for Ray."""
    jobs: list[Any] = []
    cells[name, "open"].append(attempt(partial(check_open, case)))
    for number, root in enumerate(corpus.roots(case)):
        place = folder / f"{case.parent.name}-{case.name}-{number}"
        place.mkdir()
        cells[name, "verify"].append(attempt(partial(verify, root)))
        cells[name, "1.1"].append(attempt(partial(to_plain, root, case, place)))
        outcome = attempt(partial(to_new, root, truth.get(root, []), place, jobs))
        if outcome[0] != "same":
            cells[name, "2.1"].append(outcome)
        for item in truth.get(root, []):
            if Checkpoint.open(root).weights(item.policy_id):
                for format in RUNNERS:
                    cells[name, format].append(attempt(partial(export, item, format, place)))
    return [{**job, "case": name} for job in jobs]


def main(folders: list[Path], lines: bool) -> int:
    """Print the table; 1 if anything is wrong."""
    cells: Cells = defaultdict(list)
    jobs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        for folder in folders:
            truth: dict[Path, list[Truth]] = defaultdict(list)
            for item in truths(folder):
                truth[item.root].append(item)
            for case in corpus.cases(folder):
                jobs += look(f"{case.parent.name}/{case.name}", case, truth, scratch, cells)
        answers = ask_ray(jobs, scratch)
    for job, answer in zip(jobs, answers, strict=True):
        outcome, said = judge(answer, job["truth"])
        cells[job["case"], "2.1"].append((outcome, f"{job['name']}: {said}"))
    return report(cells, lines)


def worst(found: list[Cell]) -> Cell:
    """What a case is, of which `found` says each part; "-" where there is nothing."""
    return min(found, key=lambda cell: WORST.index(cell[0])) if found else ("-", "")


def report(cells: Mapping[tuple[str, str], list[Cell]], lines: bool) -> int:
    """Print it all; 1 if anything is wrong."""
    names = sorted(
        {name for name, _ in cells},
        key=lambda name: ([int(part) for part in re.findall(r"\d+", name.partition("/")[0])], name),
    )
    totals: dict[str, Counter[str]] = {column: Counter() for column in COLUMNS}
    print(f"{'case':32}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name in names:
        row = {column: worst(cells.get((name, column), [])) for column in COLUMNS}
        for column, (outcome, _) in row.items():
            totals[column][outcome] += 1
        print(f"{name:32}" + "".join(f"{outcome:>12}" for outcome, _ in row.values()))
        for column, (outcome, said) in row.items():
            if outcome in ("wrong", "error") or (lines and outcome == "refused"):
                print(f"    {column}: {outcome}: {said[:300]}")
    for column in COLUMNS:
        print(f"{column:12} {dict(totals[column])} of {len(names)}")
    both = [
        name
        for name in names
        if all(worst(cells.get((name, column), []))[0] in ("ok", "same") for column in ("2.1", "onnx"))
    ]
    print(f"2.1 and onnx: {len(both)} of {len(names)}")
    return int(any(totals[column][word] for column in COLUMNS for word in ("wrong", "error")))


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--lines"]
    raise SystemExit(main([Path(argument) for argument in given], "--lines" in sys.argv))
