"""Tell a checkpoint's kind, version and layout from its files first, and from its JSON second.

``checkpoint_version`` is not a schema version: "1.1" has stayed the same while the content changed six
times, 1.2 has three layouts, and early releases wrote no JSON, or one that they never read. So the files
decide kind and layout, the JSON decides the version if it states one that fits them, and a contradiction
between the two is noted. Absolute paths, formats and policy lists in the JSON describe the machine of the
writer and are hints at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ckptstore.codec.encodings import EXTENSIONS
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.format import names
from ckptstore.format.layout import LEFT_OUT
from ckptstore.format.marks import STATES, V0_FILE
from ckptstore.rllib_formats import versions
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.paths import (
    COMPONENT_EXTENSIONS,
    CTOR,
    below,
    children,
    incomplete_components,
    state_file,
)
from ckptstore.rllib_formats.weight_files import module_files

_SINGLE_FILE = versions.select_versions("single_file")
_POLICIES = versions.select_versions("policies")
_WITHOUT_LEARNER = versions.select_versions("policies", "old")
_WITH_LEARNER = versions.select_versions("policies", "new")
_TREES = versions.select_versions("tree")

_LEARNER_TREE = "learner/learner/rl_module"
_EXPORT = re.compile(rf"{names.POLICIES}/[^/]+/model/")
_ROOT_JSONS = (names.RLLIB_JSON, "metadata.json", "learner_state.json", "rl_module_metadata.json")


@dataclass(frozen=True)
class Detected:
    """What the names of the files and the JSON say, without decoding a state file."""

    kind: str
    """Algorithm, Policy, LearnerGroup, Learner, MultiRLModule, RLModule or Checkpointable."""
    version: str
    """One of `versions.KNOWN`."""
    state_file: str
    """The file with the state of the whole; empty where the layout has none."""
    ray_version: str = ""
    """As the JSON states it; empty if it doesn't."""
    policy_files: Mapping[str, str] = field(default_factory=dict)
    """State file of every old-stack policy, by id."""
    modules: str | None = None
    """Directory whose sub-directories are RLModules; "" is the root itself, None means there is none."""
    learner: str | None = None
    """Directory of the Learner, which holds the optimizers; None if there is none."""
    listed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Ids that whoever made this copy left out on purpose."""
    """Policy ids that the JSON lists, whether or not they were written."""
    notes: tuple[Note, ...] = ()


class _Clues(NamedTuple):
    """What the kind of the directory is inferred from."""

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
            why = f"the JSON says {self.claimed}, which the files contradict"
        self.notes.append(Note("inferred", "checkpoint_version", f"taken as {guess}: {why}"))
        return guess

    def check_components(self, files: Mapping[str, int]) -> None:
        """Note the files that every component is written with and that are missing."""
        for path in incomplete_components(files):
            self.notes.append(Note("missing", path, "every component is written with one"))


def detect(files: Mapping[str, int], load_json: Callable[[str], dict[str, Any]]) -> Detected:
    """Say what the directory holding `files` (path to size in bytes) is; reads only small JSON files.

    Raises UnreadableFormat if it is not an RLlib checkpoint, or is newer than any known version;
    CheckpointCorrupt if a part is missing without which the rest means nothing.
    """
    info: dict[str, Any] = next((load_json(name) for name in _ROOT_JSONS if name in files), {})
    clues = _Clues(files, info, _version_in(info), [])
    for find in (_tree, _policy, _algorithm, _learner_json, _v0):
        if (found := find(clues)) is not None:
            notes = (*clues.notes, *_copies(files, found.state_file))
            return replace(found, ray_version=_ray_version(info), notes=notes)
    raise UnreadableFormat(*_explain(files))


def _copies(files: Mapping[str, int], path: str) -> Iterator[Note]:
    """A note for each further copy of a state in another format: two saves went into one directory."""
    stem = path.rpartition(".")[0]
    for ext in EXTENSIONS:
        if stem and path != (other := f"{stem}.{ext}") and other in files:
            yield Note("skipped", other, f"{path} is read instead, as RLlib itself would")


def _version_in(info: dict[str, Any]) -> str | None:
    """The version that the JSON states; None if it states none. UnreadableFormat if it is unknown."""
    raw = info.get("checkpoint_version")
    if raw is None:
        return None
    text = str(raw) if isinstance(raw, (str, float)) else ""
    if text in versions.KNOWN:
        return text
    number = versions.parse(text)
    if number is not None and number > versions.VERSIONS[0].number:
        raise UnreadableFormat(
            "checkpoint_version",
            f"{text} is not among the versions that this ckptstore knows ({', '.join(versions.KNOWN)})",
            "Upgrade ckptstore: pip install --upgrade ckptstore",
        )
    raise UnreadableFormat("checkpoint_version", f"RLlib has never written the version {text or raw!r:.80}")


def _ray_version(info: dict[str, Any]) -> str:
    raw = info.get("ray_version")
    return raw[:100] if isinstance(raw, str) else ""


def _tree(clues: _Clues) -> Detected | None:
    """A tree of components, each with its constructor's arguments beside its state."""
    files = clues.files
    if CTOR not in files:
        if clues.claimed in _TREES and clues.info.keys() >= {"class_and_ctor_args_file"}:
            raise CheckpointCorrupt(CTOR, "it is missing, although the JSON names it")
        return None
    clues.check_components(files)
    torch = any(path.endswith("module_state.pt") for path in files)
    version = clues.version(_TREES, versions.guess_version(_TREES, "pt" if torch else "pkl"))

    def build(kind: str, stem: str, modules: str | None, learner: str | None) -> Detected:
        path = state_file(files, stem, COMPONENT_EXTENSIONS)
        if path is None:
            raise CheckpointCorrupt(f"{stem}.pkl", f"it is missing, and it holds the state of this {kind}")
        left_out = _strings(clues.info.get(LEFT_OUT))
        return Detected(kind, version, path, modules=modules, learner=learner, left_out=left_out)

    if state_file(files, "algorithm_state") or names.RLLIB_JSON in files:
        if not below(files, "learner_group/"):
            raise CheckpointCorrupt(
                "learner_group/",
                "it is missing, and with it all weights (RLlib itself would go on with random ones)",
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


def _policy(clues: _Clues) -> Detected | None:
    """One policy by itself."""
    path = state_file(clues.files, "policy_state")
    algorithm = state_file(clues.files, "algorithm_state")
    if path is None or (algorithm is not None and clues.info.get("type") != "Policy"):
        return None
    version = clues.version(_POLICIES, _guess_version(path))
    return Detected("Policy", version, path)


def _algorithm(clues: _Clues) -> Detected | None:
    """The algorithm's state, a directory for each policy, and from 1.2 on a Learner."""
    files = clues.files
    path = state_file(files, "algorithm_state")
    if path is None:
        if clues.info.get("type") == "Algorithm" or below(files, f"{names.POLICIES}/"):
            raise CheckpointCorrupt(
                names.STATE,
                "it is missing: a save or a copy was cut short",
                f"Copy the directory again; each directory below {names.POLICIES}/ opens by itself",
            )
        return None
    if clues.claimed in _TREES:
        raise CheckpointCorrupt(
            CTOR, f"it is missing, and every checkpoint of version {clues.claimed} has one"
        )
    policies = {}
    for name in children(files, names.POLICIES):
        if policy := state_file(files, names.policy_path(name, "policy_state")):
            policies[name] = policy
        else:
            where = f"{names.POLICIES}/{name}"
            clues.notes.append(Note("skipped", where, "it holds no policy_state file"))
    for export in sorted({path.rpartition("/model/")[0] for path in files if _EXPORT.match(path)}):
        clues.notes.append(Note("skipped", f"{export}/model", "an export for its framework"))
    modules, learner = _old_learner(files)
    if modules is None and clues.claimed in _WITH_LEARNER:
        raise CheckpointCorrupt(
            "learner/", f"it is missing, and every checkpoint of version {clues.claimed} has one"
        )
    if modules is None:
        version = clues.version(_WITHOUT_LEARNER, _guess_version(path))
    else:
        version = clues.version(_WITH_LEARNER, _WITH_LEARNER[0])
    if modules == _LEARNER_TREE:
        clues.check_components({name: size for name, size in files.items() if name.startswith("learner/")})
    return Detected(
        "Algorithm",
        version,
        path,
        policy_files=policies,
        modules=modules,
        learner=learner,
        listed=_strings(clues.info.get("policy_ids")),
        left_out=_strings(clues.info.get(LEFT_OUT)),
    )


def _strings(found: object) -> tuple[str, ...]:
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def _guess_version(path: str) -> str:
    """The version that the extension of the state file `path` speaks for."""
    return versions.guess_version(_WITHOUT_LEARNER, path.rpartition(".")[2])


def _old_learner(files: Mapping[str, int]) -> tuple[str | None, str | None]:
    """Where 1.2 keeps the modules and the Learner: (modules, learner), or (None, None)."""
    if below(files, f"{_LEARNER_TREE}/"):  # Ray 2.33 to 2.37: a tree of components
        return _LEARNER_TREE, "learner/learner"
    if "learner/learner_state.json" in files or below(files, "learner/module_state/"):  # Ray 2.5 to 2.32
        return "learner/module_state", "learner"
    return None, None


def _learner_json(clues: _Clues) -> Detected | None:
    """Ray 2.5 to 2.32: a LearnerGroup or RLModule saved by itself; they state no version."""
    version = _WITH_LEARNER[0]
    if "learner_state.json" in clues.files:
        return Detected("LearnerGroup", version, "", modules="module_state", learner="")
    if "rl_module_metadata.json" not in clues.files:
        return None
    for inner in ("module_state_dir", "module_state_path"):
        if path := state_file(clues.files, f"{inner}/module_state", ("pt",)):
            return Detected("RLModule", version, path)
    return Detected("MultiRLModule", version, "", modules="")


def _v0(clues: _Clues) -> Detected | None:
    """One pickle without an extension, named after the iteration."""
    found = sorted(path for path in clues.files if V0_FILE.match(path))
    if not found:
        return None
    if len(found) > 1:
        raise UnreadableFormat(
            "checkpoint directory",
            f"it holds several checkpoints of Ray 2.0 and older ({', '.join(found[:5])})",
            "Move each into a directory of its own, with its .tune_metadata",
        )
    version = clues.version((*_SINGLE_FILE, None), _SINGLE_FILE[0])
    return Detected("Algorithm", version, found[0])


def _explain(files: Mapping[str, int]) -> tuple[str, str, str]:
    """What, why and remedy of the error for a directory of an unknown kind."""
    if not files:
        return "checkpoint directory", "it is empty or does not exist", "Check the path"
    marked = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2].startswith(STATES)} - {""}
    inner = sorted(path for path in marked if not any(above in marked for above in _above(path)))
    top = _some(sorted({path.split("/")[0] for path in files}))
    if not inner:
        why = f"nothing at its top is RLlib's, only {top}"
        remedy = "Name the directory of one checkpoint, such as .../checkpoint_000010"
        return "checkpoint directory", why, remedy
    if len(inner) == 1:
        return (
            "checkpoint directory",
            f"there is no state file at its top, only {top}",
            f"Did you mean {inner[0]}?",
        )
    why = f"it is not a checkpoint, but {len(inner)} directories in it look like one: {_some(inner)}"
    return "checkpoint directory", why, "Name one of them"


def _above(path: str) -> Iterator[str]:
    """The directories that contain the directory `path`, the innermost first."""
    while path := path.rpartition("/")[0]:
        yield path


def _some(items: list[str]) -> str:
    return ", ".join(items[:6]) + (", ..." if len(items) > 6 else "")
