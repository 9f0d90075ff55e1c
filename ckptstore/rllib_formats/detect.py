"""Which kind of RLlib directory this is and how it is laid out: files first, JSON second. Pure.

``checkpoint_version`` is no schema version: "1.1" has been written unchanged while the content changed
six times, 1.2 has three layouts, and early releases wrote no JSON or one they never read. So files
decide the kind and the layout, the JSON decides the version where it says one, and a contradiction
between the two is noted. Absolute paths, formats and policy lists inside the JSON are hints at most:
they describe the writer's machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import (
    EXTENSIONS,
    below,
    children,
    incomplete_components,
    module_files,
    state_file,
)

KNOWN = ("0.1", "1.0", "1.1", "1.2", "2.0", "2.1")
"""Every ``checkpoint_version`` RLlib has written, oldest first."""

_TREES = ("2.0", "2.1")
_CTOR = "class_and_ctor_args.pkl"
_LEARNER_TREE = "learner/learner/rl_module"
_EXPORT = re.compile(r"policies/[^/]+/model/")
V0_FILE = re.compile(r"checkpoint-\d+\Z", re.ASCII)
"""The one file of a 0.1 checkpoint: what `save` returned, and `restore` took, up to Ray 1.13."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\Z", re.ASCII)
_ROOT_JSONS = ("rllib_checkpoint.json", "metadata.json", "learner_state.json", "rl_module_metadata.json")

MARKS = ("algorithm_state.", "policy_state.", "module_state.", "checkpoint-", "class_and_ctor_args.")
"""How the names of files begin that tell a checkpoint's directory, or that of a part of one."""


@dataclass(frozen=True)
class Sniffed:
    """What was found out without decoding a state file."""

    kind: str
    """Algorithm, Policy, LearnerGroup, Learner, MultiRLModule, RLModule or Checkpointable."""
    version: str
    """One of `KNOWN`."""
    state_file: str
    """The file with the state of the whole; empty where the layout has none."""
    ray_version: str = ""
    """As the JSON tells it; empty if it doesn't."""
    policy_files: Mapping[str, str] = field(default_factory=dict)
    """State file of every old-stack policy, by id."""
    modules: str | None = None
    """Directory whose sub-directories are RLModules; "" is the root itself, None means there is none."""
    learner: str | None = None
    """Directory of the Learner: it holds the optimizer; None if there is none."""
    listed: tuple[str, ...] = ()
    """Policy ids that the JSON lists, whether or not they were written."""
    notes: tuple[Note, ...] = ()


class _Clues(NamedTuple):
    """What there is to go by."""

    files: Mapping[str, int]
    info: dict[str, Any]
    """The JSON at the top; empty if there is none."""
    claimed: str | None
    """The version it states."""
    notes: list[Note]

    def version(self, fitting: tuple[str | None, ...], guess: str) -> str:
        """The claimed version if the layout on disk fits it, else `guess`, with a note."""
        if self.claimed in fitting:
            return self.claimed or guess
        if self.claimed is None:
            why = "the JSON states no version"
        else:
            why = f"the JSON says {self.claimed}, the files don't"
        self.notes.append(Note("inferred", "checkpoint_version", f"taken as {guess}: {why}"))
        return guess

    def check_components(self, files: Mapping[str, int]) -> None:
        """Note the parts that components are always written with and that are not there."""
        for path in incomplete_components(files):
            self.notes.append(Note("missing", path, "every component is written with one"))


def sniff(files: Mapping[str, int], load_json: Callable[[str], dict[str, Any]]) -> Sniffed:
    """Say what the directory holding `files` (path to size) is; reads nothing but small JSON files.

    Raises UnreadableFormat if it is no RLlib checkpoint or one of a newer layout than any known,
    CheckpointCorrupt if a part that makes it one is missing.
    """
    info: dict[str, Any] = next((load_json(name) for name in _ROOT_JSONS if name in files), {})
    clues = _Clues(files, info, _version_in(info), [])
    for find in (_tree, _policy, _algorithm, _learner_json, _v0):
        if (found := find(clues)) is not None:
            notes = (*clues.notes, *_copies(files, found.state_file))
            return replace(found, ray_version=_ray_version(info), notes=notes)
    raise UnreadableFormat(*_explain(files))


def _copies(files: Mapping[str, int], path: str) -> Iterator[Note]:
    """Further copies of a state in other formats: somebody saved twice into one directory."""
    stem = path.rpartition(".")[0]
    for ext in EXTENSIONS:
        if stem and path != (other := f"{stem}.{ext}") and other in files:
            yield Note("skipped", other, f"{path} is read instead, as RLlib itself would")


def _version_in(info: dict[str, Any]) -> str | None:
    """The version that the JSON states; UnreadableFormat if it is newer than all known ones."""
    raw = info.get("checkpoint_version")
    if raw is None:
        return None
    text = str(raw) if isinstance(raw, (str, float)) else ""
    if text in KNOWN:
        return text
    match = _VERSION.match(text)
    if match and (int(match[1]), int(match[2])) > (0, 1):
        raise UnreadableFormat(
            "checkpoint_version",
            f"{text} is not one of the layouts this ckptstore knows ({', '.join(KNOWN)})",
            "Upgrade ckptstore: pip install --upgrade ckptstore",
        )
    raise UnreadableFormat("checkpoint_version", f"{text or raw!r:.80} is no version RLlib has ever written")


def _ray_version(info: dict[str, Any]) -> str:
    raw = info.get("ray_version")
    return raw[:100] if isinstance(raw, str) else ""


def _tree(clues: _Clues) -> Sniffed | None:
    """2.0 and 2.1: a tree of components, each with its constructor's arguments beside its state."""
    files = clues.files
    if _CTOR not in files:
        if clues.claimed in _TREES and clues.info.keys() >= {"class_and_ctor_args_file"}:
            raise CheckpointCorrupt(_CTOR, "the JSON names it and it is not there")
        return None
    clues.check_components(files)
    torch = any(path.endswith("module_state.pt") for path in files)
    version = clues.version(_TREES, "2.0" if torch else "2.1")

    def build(kind: str, stem: str, modules: str | None, learner: str | None) -> Sniffed:
        path = state_file(files, stem, ("msgpack", "pkl", "pt"))
        if path is None:
            raise CheckpointCorrupt(f"{stem}.pkl", f"the state of this {kind} is not there")
        return Sniffed(kind, version, path, modules=modules, learner=learner)

    if state_file(files, "algorithm_state") or "rllib_checkpoint.json" in files:
        if not below(files, "learner_group/"):
            raise CheckpointCorrupt(
                "learner_group/",
                "this algorithm checkpoint has none: the weights are missing (RLlib itself would go on"
                " with random ones)",
            )
        learner = "learner_group/learner"
        return build("Algorithm", "algorithm_state", f"{learner}/rl_module", learner)
    if state_file(files, "module_state"):  # asked before the others: a module may be called "learner"
        multi = bool(module_files(files, "", version))
        return build("MultiRLModule" if multi else "RLModule", "module_state", "" if multi else None, None)
    if below(files, "learner/"):
        return build("LearnerGroup", "state", "learner/rl_module", "learner")
    if below(files, "rl_module/"):
        return build("Learner", "state", "rl_module", "")
    return build("Checkpointable", "state", None, None)


def _policy(clues: _Clues) -> Sniffed | None:
    """1.0 and 1.1: one policy on its own."""
    path = state_file(clues.files, "policy_state")
    algorithm = state_file(clues.files, "algorithm_state")
    if path is None or (algorithm is not None and clues.info.get("type") != "Policy"):
        return None
    version = clues.version(("1.0", "1.1", "1.2"), "1.0" if path.endswith(".pkl") else "1.1")
    return Sniffed("Policy", version, path)


def _algorithm(clues: _Clues) -> Sniffed | None:
    """1.0, 1.1 and 1.2: the algorithm's state, a directory per policy, and with 1.2 a Learner."""
    files = clues.files
    path = state_file(files, "algorithm_state")
    if path is None:
        if clues.info.get("type") == "Algorithm" or below(files, "policies/"):
            raise CheckpointCorrupt(
                "algorithm_state.pkl",
                "this algorithm checkpoint has none: a save or a copy was cut short",
                "Copy the directory again; each directory below policies/ opens by itself",
            )
        return None
    if clues.claimed in _TREES:
        raise CheckpointCorrupt(_CTOR, f"a checkpoint of version {clues.claimed} has one")
    policies = {}
    for name in children(files, "policies"):
        if policy := state_file(files, f"policies/{name}/policy_state"):
            policies[name] = policy
        else:
            clues.notes.append(Note("skipped", f"policies/{name}", "it holds no policy_state file"))
    for export in sorted({path.rpartition("/model/")[0] for path in files if _EXPORT.match(path)}):
        clues.notes.append(Note("skipped", f"{export}/model", "an export for its framework"))
    modules, learner = _old_learner(files)
    if modules is None and clues.claimed == "1.2":
        raise CheckpointCorrupt("learner/", "a checkpoint of version 1.2 has one: the Learner is missing")
    if modules is None:
        version = clues.version(("1.0", "1.1"), "1.0" if path.endswith(".pkl") else "1.1")
    else:
        version = clues.version(("1.2",), "1.2")
    if modules == _LEARNER_TREE:
        clues.check_components({name: size for name, size in files.items() if name.startswith("learner/")})
    listed = clues.info.get("policy_ids")
    return Sniffed(
        "Algorithm",
        version,
        path,
        policy_files=policies,
        modules=modules,
        learner=learner,
        listed=tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else (),
    )


def _old_learner(files: Mapping[str, int]) -> tuple[str | None, str | None]:
    """Where 1.2 keeps the modules and the Learner: (modules, learner), or (None, None)."""
    if below(files, f"{_LEARNER_TREE}/"):  # Ray 2.33 to 2.37: a tree of components
        return _LEARNER_TREE, "learner/learner"
    if "learner/learner_state.json" in files or below(files, "learner/module_state/"):  # Ray 2.5 to 2.32
        return "learner/module_state", "learner"
    return None, None


def _learner_json(clues: _Clues) -> Sniffed | None:
    """Ray 2.5 to 2.32: a LearnerGroup or RLModule saved on its own; they state no version."""
    if "learner_state.json" in clues.files:
        return Sniffed("LearnerGroup", "1.2", "", modules="module_state", learner="")
    if "rl_module_metadata.json" not in clues.files:
        return None
    for inner in ("module_state_dir", "module_state_path"):
        if path := state_file(clues.files, f"{inner}/module_state", ("pt",)):
            return Sniffed("RLModule", "1.2", path)
    return Sniffed("MultiRLModule", "1.2", "", modules="")


def _v0(clues: _Clues) -> Sniffed | None:
    """0.1: one pickle without an extension, named after the iteration."""
    found = sorted(path for path in clues.files if V0_FILE.match(path))
    if not found:
        return None
    if len(found) > 1:
        raise UnreadableFormat(
            "checkpoint directory",
            f"it holds several checkpoints of Ray 2.0 and older ({', '.join(found[:5])})",
            "Move each into a directory of its own, with its .tune_metadata",
        )
    return Sniffed("Algorithm", clues.version(("0.1", None), "0.1"), found[0])


def _explain(files: Mapping[str, int]) -> tuple[str, str, str]:
    """What, why and remedy for a directory that is none of the known ones."""
    if not files:
        return "checkpoint directory", "it is empty or does not exist", "Check the path"
    marked = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2].startswith(MARKS)} - {""}
    inner = sorted(path for path in marked if not any(above in marked for above in _above(path)))
    names = _some(sorted({path.split("/")[0] for path in files}))
    if not inner:
        why = f"nothing RLlib writes at its top, only {names}"
        remedy = "Name the directory of one checkpoint, such as .../checkpoint_000010"
        return "checkpoint directory", why, remedy
    if len(inner) == 1:
        return "checkpoint directory", f"no state file at its top, only {names}", f"Did you mean {inner[0]}?"
    why = f"it is no checkpoint, but {len(inner)} directories in it look like some: {_some(inner)}"
    return "checkpoint directory", why, "Name one of them"


def _above(path: str) -> Iterator[str]:
    """The directories that the directory `path` lies in."""
    while path := path.rpartition("/")[0]:
        yield path


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
