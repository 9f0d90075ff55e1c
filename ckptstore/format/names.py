"""Names and keys: the only place that knows how a step, a policy or a tag is spelled on disk.

Names are parsed exactly and never used as prefixes: ``checkpoint_100000`` is a prefix of
``checkpoint_1000000``. Whatever came from outside passes through here before it becomes a key.
"""

from __future__ import annotations

import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import total_ordering
from typing import NamedTuple, SupportsIndex
from urllib.parse import unquote

from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, InvalidRequest

META = "_ckptstore"
STORE = f"{META}/store.json"
REFS = f"{META}/refs"
MANIFEST = f"{META}/manifest.json"
PARTS = f"{META}/parts.json"
CLAIM = f"{META}/claim.json"
RETIRED = f"{META}/retired.json"
PROBE = f"{META}/probe"
DELETING = f"{META}/deleting"
STAGING = ".staging"
TRASH = ".trash"
UNSAVED = ".unsaved"
STATE = "algorithm_state.pkl"
POLICY_STATE = "policy_state.pkl"
RLLIB_JSON = "rllib_checkpoint.json"
POLICIES = "policies"
COMPONENTS = "components"
CHECKPOINTS = "checkpoint_"
"""What the name of every checkpoint begins with: to list by, never to recognise one by."""
DEFAULT_POLICY = "default_policy"  # RLlib's id for the policy of a single-agent run

PIN = "pin."
"""Refs that begin so are pins, not tags; the checkpoint's id follows."""
HOLD = f"{PIN}rollback."
"""Pins that begin so hold the target of a rollback while that runs; a name of its own follows."""

MIN_MANIFEST_BYTES = 1024  # a committed manifest is at least this long ...
SMALL_STATE_BYTES = 512  # ... and a tombstone or seal at most this: a listing tells them apart

MAX_STEP = 10**18 - 1
MAX_ATTEMPT = 10**6 - 1  # a save a second for eleven days: what is beyond is no name of ours
MAX_MOVE = 10**9 - 1  # of a tag; what is beyond no store has written, and none reads
MAX_DEPTH = 100  # directories within directories in a checkpoint; ten would be many
_MAX_NAME_BYTES = 255  # of one path component, on every local file system in use
_CHECKPOINT = re.compile(CHECKPOINTS + r"(\d{6}|[1-9]\d{6,17})(?:-r([1-9]\d{0,5}))?\Z", re.ASCII)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
_RLLIB_FORBIDDEN = re.compile(r'[<>:"/\\|?]')  # RLlib refuses these itself, in every release


@total_ordering
class CheckpointName(NamedTuple):
    """A directory of the store: which step, and which attempt at it (0 is the plain name)."""

    step: int
    attempt: int = 0

    def __str__(self) -> str:
        base = f"{CHECKPOINTS}{self.step:06d}"
        return f"{base}-r{self.attempt}" if self.attempt else base

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name spelled exactly so, or None."""
        match = _CHECKPOINT.match(text)
        return cls(int(match[1]), int(match[2] or 0)) if match else None


def step_number(step: SupportsIndex) -> int:
    """`step` as a plain int; InvalidRequest unless it is an integer in [0, 10**18)."""
    if isinstance(step, bool):
        raise InvalidRequest("step", f"{step!r} is a bool", "Pass an integer such as the training iteration")
    try:
        number = operator.index(step)
    except TypeError as error:
        raise InvalidRequest(
            "step", f"{step!r} is not an integer", "Pass an integer such as the training iteration"
        ) from error
    if not 0 <= number <= MAX_STEP:
        raise InvalidRequest("step", f"{number} is outside [0, 10**18)", "Pass a non-negative step")
    return number


def _component_problem(name: str) -> str | None:
    """Why `name` can't be one directory or file name everywhere the layout may live, or None."""
    if not name:
        return "it is empty"
    if name in {".", ".."}:
        return "it names a directory, not a policy"
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return "it holds a lone surrogate, which no file name can"
    if len(encoded) > _MAX_NAME_BYTES:
        return f"its {len(encoded)} UTF-8 bytes exceed the {_MAX_NAME_BYTES} a file name may have"
    if forbidden := _RLLIB_FORBIDDEN.search(name):
        return f"RLlib refuses ids with {forbidden[0]!r}"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "it holds a control character"
    if name[-1] in ". ":
        return "RLlib and Windows refuse a trailing dot or space"
    return None


def check_policy_ids(policy_ids: Iterable[object], what: str = "policy id") -> list[str]:
    """The ids, each one a directory name that every place and RLlib itself can hold.

    Raises InvalidRequest naming the id and the reason. Two ids that a case-insensitive or a
    normalising file system would store under one name are refused too: one would overwrite the other.
    """
    seen: dict[str, str] = {}
    for policy_id in policy_ids:
        if not isinstance(policy_id, str):
            raise InvalidRequest(
                f"{what} {policy_id!r}",
                f"it is a {type(policy_id).__name__}",
                "Use a str such as 'pol0'",
            )
        if problem := _component_problem(policy_id):
            raise InvalidRequest(f"{what} {policy_id!r}", problem, "Rename it")
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", policy_id).casefold())
        if folded in seen:
            raise InvalidRequest(
                f"{what}s {seen[folded]!r} and {policy_id!r}",
                "file systems that fold case or normalise Unicode keep them under one name",
                "Rename one of them",
            )
        seen[folded] = policy_id
    return list(seen.values())


def refuse_unknown_policies(
    where: str, unknown: Iterable[str], known: Iterable[str], reason: str = ""
) -> CheckpointNotFound:
    """The error for policies that the checkpoint `where` doesn't hold; it holds those in `known`."""
    why = f"it holds no policy {', '.join(map(repr, unknown))}" + (f": {reason}" if reason else "")
    return CheckpointNotFound(where, why, list_policies(list(known)))


def list_policies(held: Sequence[str]) -> str:
    """A sentence that names the policies of a checkpoint, the first ones at least."""
    return f"It holds {len(held)}: {show_ids(held)}" if held else "It holds none"


def show_ids(ids: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(map(repr, ids[:20])) + (", ..." if len(ids) > 20 else "")


def check_checkpoint_name(text: str, what: str, remedy: str) -> CheckpointName:
    """`text` parsed; InvalidRequest about `what` if no store would find a directory of that name."""
    name = CheckpointName.parse(text)
    if name is None:
        raise InvalidRequest(
            what,
            "a store finds only what is called checkpoint_ and the step, with at least six digits",
            remedy,
        )
    return name


def check_positive(what: str, value: object, remedy: str) -> None:
    """InvalidRequest about `what` unless `value` is a count of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(what, f"{value!r} is not a positive int", remedy)


def check_ref(name: object) -> str:
    """A tag's name: up to 100 of ``A-Z a-z 0-9 _ . -``, not starting with a dot or dash."""
    if not isinstance(name, str) or not _REF.match(name) or name.startswith(PIN):
        raise InvalidRequest(
            f"tag {name!r}",
            "it isn't 1 to 100 of A-Z a-z 0-9 _ . -, or begins like a pin",
            "Choose another, for example 'best'",
        )
    return name


def pin_ref(checkpoint_id: str) -> str:
    """The ref that pins the checkpoint of this id. CheckpointCorrupt for one that no save of ours gave."""
    ref = PIN + checkpoint_id
    if "/" in ref or not stays_below(ref):
        raise CheckpointCorrupt(f"id {checkpoint_id!r}", "no ref can be called after it")
    return ref


_CHAINS = re.compile(r"::|\?")
_NOT_IN_PATHS = re.compile("[\\\\\0\ud800-\udfff]")


def stays_below(path: object) -> bool:
    """Whether `path` is a plain relative path that stays below whatever it is joined to.

    This is the gate for every path from a manifest or listing that becomes a path or destination: no
    ``..``, no empty or dot component, no absolute path, no backslash, no NUL, and an end.
    """
    return (
        isinstance(path, str)
        and 0 < len(path) <= 4096
        and path.count("/") <= MAX_DEPTH
        and not _NOT_IN_PATHS.search(path)
        and not any(part in {"", ".", ".."} for part in path.split("/"))
    )


def is_plain_name(name: str) -> bool:
    """Whether `name` may be that of a local directory anywhere: letters, digits and ``_ . -``."""
    return re.fullmatch(r"\w[\w.-]{0,199}", name) is not None


def relative_path(path: object, source: str) -> str:
    """`path` if it `stays_below`; else CheckpointCorrupt. `source` names the file that holds the path."""
    if not isinstance(path, str) or not stays_below(path):
        raise CheckpointCorrupt(source, f"the path {str(path)[:200]!r} would leave the checkpoint")
    return path


def join_below(url: str, path: str) -> str:
    """The URL of the directory `path` below `url`, which is `url` itself for an empty path.

    InvalidRequest if it could lie elsewhere: by its components, also once a server has decoded them, or by
    what means something in a URL, such as the ``::`` with which fsspec chains another one to it.
    """
    scheme, separator, _ = url.partition("://")
    remote = separator and scheme != "file"
    if not path:
        return url
    if not stays_below(path) or (remote and (_CHAINS.search(path) or not stays_below(unquote(path)))):
        why = f"the directory {path[:200]!r} could lie outside it"
        raise InvalidRequest(url, why, "Rename it, or copy it alone")
    if separator and not remote:
        path = path.replace("%", "%25")  # such a URL is unquoted
    return f"{url.rstrip('/')}/{path}"


def policy_path(policy_id: str, file: str = POLICY_STATE) -> str:
    """Where a policy's `file` lies inside an algorithm checkpoint."""
    return f"{POLICIES}/{policy_id}/{file}"


def component_path(name: str) -> str:
    """Where a component lies inside a checkpoint."""
    return f"{COMPONENTS}/{name}.pkl"
