"""Which kind of RLlib directory this is and how it is laid out: files first, JSON second. Pure.

``checkpoint_version`` is no schema version: "1.1" has been written unchanged while the content changed
six times, 1.2 has three layouts, and early releases wrote no JSON or one they never read. So files
decide the kind and the layout, the JSON decides the version where it says one, and a contradiction
between the two is noted. Absolute paths, formats and policy lists inside the JSON are hints at most:
they describe the writer's machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckptstore.eras.notes import Note
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat

KNOWN = ("0.1", "1.0", "1.1", "1.2", "2.0", "2.1")
"""Every ``checkpoint_version`` RLlib has written, oldest first."""

EXTENSIONS = ("pkl", "msgpck", "msgpack", "pt")
_V0_FILE = re.compile(r"checkpoint-\d+\Z", re.ASCII)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\Z", re.ASCII)
_ROOT_JSONS = ("rllib_checkpoint.json", "metadata.json", "learner_state.json", "rl_module_metadata.json")


@dataclass(frozen=True)
class Sniffed:
    """What was found out without decoding a state file."""

    kind: str
    """Algorithm, Policy, LearnerGroup, Learner, MultiRLModule, RLModule or Checkpointable."""
    version: str
    """One of `KNOWN`."""
    ray_version: str
    """As the JSON tells it; empty if it doesn't."""
    state_file: str
    """The file with the state of the whole; empty where the layout has none."""
    policy_files: Mapping[str, str] = field(default_factory=dict)
    """State file of every old-stack policy, by id."""
    modules: str | None = None
    """Directory whose sub-directories are RLModules; "" is the root itself, None means there is none."""
    learner: str | None = None
    """Directory of the Learner: it holds the optimizer; None if there is none."""
    listed: tuple[str, ...] = ()
    """Policy ids that the JSON lists, whether or not they were written."""
    notes: tuple[Note, ...] = ()


def children(paths: Iterable[str], directory: str) -> list[str]:
    """Names of the directories directly below `directory` that hold a file at any depth, sorted."""
    prefix = f"{directory}/" if directory else ""
    return sorted(
        {p[len(prefix) :].split("/")[0] for p in paths if p.startswith(prefix) and "/" in p[len(prefix) :]}
    )


def state_file(files: Mapping[str, int], stem: str, order: Iterable[str] = EXTENSIONS) -> str | None:
    """The file ``<stem>.<extension>`` that is there, the first in `order`."""
    return next((path for ext in order if (path := f"{stem}.{ext}") in files), None)


def module_files(files: Mapping[str, int], directory: str, version: str) -> dict[str, str]:
    """State file of every RLModule below `directory`, by module id.

    Ray 2.5 to 2.32 keep it one directory deeper (``module_state_path/`` and later
    ``module_state_dir/``); the others beside the module's metadata.
    """
    order = ("pt", "pkl", "msgpack") if version <= "2.0" else ("msgpack", "pkl", "pt")
    base = f"{directory}/" if directory else ""
    found = {}
    for name in children(files, directory):
        for inner in ("", "/module_state_dir", "/module_state_path"):
            if path := state_file(files, f"{base}{name}{inner}/module_state", order):
                found[name] = path
                break
    return found


def sniff(files: Mapping[str, int], load_json: Callable[[str], dict[str, Any]]) -> Sniffed:
    """Say what the directory holding `files` (path to size) is; reads nothing but small JSON files.

    Raises UnreadableFormat if it is no RLlib checkpoint or one of a newer layout than any known,
    CheckpointCorrupt if a part that makes it one is missing.
    """
    info: dict[str, Any] = next((load_json(name) for name in _ROOT_JSONS if name in files), {})
    notes: list[Note] = []
    claimed = _claimed_version(info)
    for find in (_tree, _policy, _algorithm, _learner_json, _v0):
        found = find(files, info, claimed, notes, load_json)
        if found is not None:
            return replace(found, notes=found.notes + tuple(_copies(files, found.state_file)))
    raise UnreadableFormat(*_explain(files))


def _copies(files: Mapping[str, int], path: str) -> Iterator[Note]:
    """Further copies of a state in other formats: somebody saved twice into one directory."""
    stem = path.rpartition(".")[0]
    for ext in EXTENSIONS:
        if stem and path != (other := f"{stem}.{ext}") and other in files:
            yield Note("skipped", other, f"{path} is read instead, as RLlib itself would")


def _claimed_version(info: dict[str, Any]) -> str | None:
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


def _version(claimed: str | None, fitting: tuple[str, ...], guess: str, notes: list[Note]) -> str:
    """The claimed version if the layout on disk fits it, else `guess`, with a note."""
    if claimed in fitting:
        return claimed
    why = "the JSON states no version" if claimed is None else f"the JSON says {claimed}, the files don't"
    notes.append(Note("inferred", "checkpoint_version", f"taken as {guess}: {why}"))
    return guess


def _any(files: Mapping[str, int], prefix: str) -> bool:
    return any(path.startswith(prefix) for path in files)


_Json = Callable[[str], dict[str, Any]]


def _tree(
    files: Mapping[str, int], info: dict[str, Any], claimed: str | None, notes: list[Note], load_json: _Json
) -> Sniffed | None:
    """2.0 and 2.1: a tree of components, each with its constructor's arguments beside its state."""
    newest_says_so = claimed is not None and claimed >= "2.0"
    if "class_and_ctor_args.pkl" not in files:
        if newest_says_so and info.keys() >= {"class_and_ctor_args_file"}:
            raise CheckpointCorrupt("class_and_ctor_args.pkl", "the JSON names it and it is not there")
        return None
    notes += [Note("missing", path, "every component is written with one") for path in _incomplete(files)]
    torch = any(path.endswith("module_state.pt") for path in files)
    version = _version(claimed, ("2.0", "2.1"), "2.0" if torch else "2.1", notes)

    def found(kind: str, stem: str, modules: str | None, learner: str | None) -> Sniffed:
        path = state_file(files, stem, ("msgpack", "pkl", "pt"))
        if path is None:
            raise CheckpointCorrupt(f"{stem}.pkl", f"the state of this {kind} is not there")
        return Sniffed(
            kind, version, _ray_version(info), path, modules=modules, learner=learner, notes=tuple(notes)
        )

    if state_file(files, "algorithm_state") or "rllib_checkpoint.json" in files:
        if not _any(files, "learner_group/"):
            raise CheckpointCorrupt(
                "learner_group/",
                "this algorithm checkpoint has none: the weights are missing (RLlib itself would go on"
                " with random ones)",
            )
        return found(
            "Algorithm", "algorithm_state", "learner_group/learner/rl_module", "learner_group/learner"
        )
    if _any(files, "learner/"):
        return found("LearnerGroup", "state", "learner/rl_module", "learner")
    if _any(files, "rl_module/"):
        return found("Learner", "state", "rl_module", "")
    if state_file(files, "module_state"):
        multi = bool(module_files(files, "", version))
        return found("MultiRLModule" if multi else "RLModule", "module_state", "" if multi else None, None)
    return found("Checkpointable", "state", None, None)


def _incomplete(files: Mapping[str, int]) -> Iterator[str]:
    """Files that belong to a component of a tree and are not there, as far as the names tell."""
    directories: dict[str, set[str]] = {}
    for path in files:
        directory, _, name = path.rpartition("/")
        directories.setdefault(directory, set()).add(name)
    for directory, found in sorted(directories.items()):
        base = f"{directory}/" if directory else ""
        stems = {name.rpartition(".")[0] for name in found if name.endswith((".pkl", ".msgpack", ".pt"))}
        states = stems & {"state", "module_state", "algorithm_state"}
        if not states and "class_and_ctor_args.pkl" not in found and "metadata.json" not in found:
            continue
        if not states:
            yield f"{base}state.pkl"
        if "class_and_ctor_args.pkl" not in found:
            yield f"{base}class_and_ctor_args.pkl"
        if not found & {"metadata.json", "rllib_checkpoint.json"}:
            yield f"{base}{'metadata.json' if directory else 'rllib_checkpoint.json'}"


def _policy(
    files: Mapping[str, int], info: dict[str, Any], claimed: str | None, notes: list[Note], load_json: _Json
) -> Sniffed | None:
    """1.0 and 1.1: one policy on its own."""
    path = state_file(files, "policy_state")
    if path is None or (state_file(files, "algorithm_state") and info.get("type") != "Policy"):
        return None
    version = _version(claimed, ("1.0", "1.1", "1.2"), "1.0" if path.endswith(".pkl") else "1.1", notes)
    return Sniffed("Policy", version, _ray_version(info), path, notes=tuple(notes))


def _algorithm(
    files: Mapping[str, int], info: dict[str, Any], claimed: str | None, notes: list[Note], load_json: _Json
) -> Sniffed | None:
    """1.0, 1.1 and 1.2: the algorithm's state, a directory per policy, and with 1.2 a Learner."""
    path = state_file(files, "algorithm_state")
    if path is None:
        if info.get("type") == "Algorithm" or _any(files, "policies/"):
            raise CheckpointCorrupt(
                "algorithm_state.pkl",
                "this algorithm checkpoint has none: a save or a copy was cut short",
                "Copy the directory again; each directory below policies/ opens by itself",
            )
        return None
    if claimed is not None and claimed >= "2.0":
        raise CheckpointCorrupt("class_and_ctor_args.pkl", f"a checkpoint of version {claimed} has one")
    policies = {}
    for name in children(files, "policies"):
        if policy := state_file(files, f"policies/{name}/policy_state"):
            policies[name] = policy
            if _any(files, f"policies/{name}/model/"):
                notes.append(Note("skipped", f"policies/{name}/model", "an export for its framework"))
        else:
            notes.append(Note("skipped", f"policies/{name}", "it holds no policy_state file"))
    modules, learner = _old_learner(files, "learner", load_json)
    if modules is not None:
        version = _version(claimed, ("1.2",), "1.2", notes)
        if modules.endswith("rl_module"):
            inside = {name: size for name, size in files.items() if name.startswith("learner/")}
            notes += [
                Note("missing", name, "every component is written with one") for name in _incomplete(inside)
            ]
    else:
        if claimed == "1.2":
            raise CheckpointCorrupt("learner/", "a checkpoint of version 1.2 has one: the Learner is missing")
        version = _version(claimed, ("1.0", "1.1"), "1.0" if path.endswith(".pkl") else "1.1", notes)
    listed = info.get("policy_ids")
    return Sniffed(
        "Algorithm",
        version,
        _ray_version(info),
        path,
        policy_files=policies,
        modules=modules,
        learner=learner,
        listed=tuple(i for i in listed if isinstance(i, str)) if isinstance(listed, list) else (),
        notes=tuple(notes),
    )


def _old_learner(files: Mapping[str, int], root: str, load_json: _Json) -> tuple[str | None, str | None]:
    """Where 1.2 keeps the modules and the Learner below `root`: (modules, learner), or (None, None)."""
    base = f"{root}/" if root else ""
    if _any(files, f"{base}learner/rl_module/"):  # Ray 2.33 to 2.37: a tree of components
        return f"{base}learner/rl_module", f"{base}learner"
    if f"{base}learner_state.json" in files or _any(files, f"{base}module_state/"):  # Ray 2.5 to 2.32
        return f"{base}module_state", root
    return None, None


def _learner_json(
    files: Mapping[str, int], info: dict[str, Any], claimed: str | None, notes: list[Note], load_json: _Json
) -> Sniffed | None:
    """Ray 2.5 to 2.32: a LearnerGroup or RLModule saved on its own; they state no version."""
    if "learner_state.json" in files:
        return Sniffed("LearnerGroup", "1.2", _ray_version(info), "", modules="module_state", learner="")
    if "rl_module_metadata.json" not in files:
        return None
    for inner in ("module_state_dir", "module_state_path"):
        if path := state_file(files, f"{inner}/module_state", ("pt",)):
            return Sniffed("RLModule", "1.2", _ray_version(info), path)
    return Sniffed("MultiRLModule", "1.2", _ray_version(info), "", modules="")


def _v0(
    files: Mapping[str, int], info: dict[str, Any], claimed: str | None, notes: list[Note], load_json: _Json
) -> Sniffed | None:
    """0.1: one pickle without an extension, named after the iteration."""
    found = sorted(path for path in files if _V0_FILE.match(path))
    if not found:
        return None
    if len(found) > 1:
        raise UnreadableFormat(
            "checkpoint directory",
            f"it holds several checkpoints of Ray 2.0 and older ({', '.join(found[:5])})",
            "Move each into a directory of its own, with its .tune_metadata",
        )
    version = _version(claimed, ("0.1",), "0.1", notes) if claimed else "0.1"
    return Sniffed("Algorithm", version, _ray_version(info), found[0], notes=tuple(notes))


def _explain(files: Mapping[str, int]) -> tuple[str, str, str]:
    """What, why and remedy for a directory that is none of the known ones."""
    if not files:
        return "checkpoint directory", "it is empty or does not exist", "Check the path"
    marks = ("algorithm_state.", "policy_state.", "module_state.", "checkpoint-", "class_and_ctor_args.")
    inner = sorted(
        {path.rsplit("/", 1)[0] for path in files if path.split("/")[-1].startswith(marks) and "/" in path}
    )
    tops = sorted({path.split("/")[0] for path in inner})
    names = ", ".join(sorted({path.split("/")[0] for path in files})[:6])
    if len(tops) == 1:
        return (
            "checkpoint directory",
            f"no state file at its top, only {names}",
            f"Did you mean {min(inner, key=len)}?",
        )
    return (
        "checkpoint directory",
        f"nothing RLlib writes at its top, only {names}",
        "Name the directory of one checkpoint, such as .../checkpoint_000010",
    )
