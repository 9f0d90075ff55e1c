"""Restore a target from a checkpoint: what `Checkpoint.restore` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest
from ckptstore.logs import logger
from ckptstore.restore import live, trees, values
from ckptstore.restore.apply import apply
from ckptstore.restore.findings import Findings
from ckptstore.restore.report import RestoreReport

_SHOWN = 10


def restore(
    target: Any, state: Any, components: Mapping[str, Any], where: str, strict: bool
) -> tuple[Any, RestoreReport]:
    """The tree of `target` with what `state` and then `components` hold, and a report.

    Everything is compared before anything is changed. `where` names the checkpoint in errors.
    """
    findings = Findings()
    left: list[str] = []
    held = state if isinstance(state, Mapping) else {}
    is_whole = not isinstance(target, Mapping) or live.is_live(target)
    if not is_whole:
        builds: dict[Any, trees.Build] = {}
        twins = values.find_twins(target, {*held, *components})
        for key, mine in target.items():
            name = twins.get(key, key)
            if name in held:
                builds[key] = trees.compare(f"{key}", mine, held[name], findings)
            elif isinstance(name, str) and name in components:
                builds[key] = trees.compare(f"{key}", mine, components[name], findings)
            else:
                findings.missing.append(f"{key}")
                builds[key] = trees.keep(mine)
        left = [f"{key}" for key in (*held, *components) if key not in target]

        def build() -> Any:
            return {key: make() for key, make in builds.items()}
    elif isinstance(target, (type, str, bytes, int, float, type(None), Opaque)):
        raise InvalidRequest("target", f"it is {target!r:.80}", "Pass a dict of live objects, or one object")
    else:
        build = trees.compare("", target, state, findings)
    problems = findings.problems()
    asked = [f"the target, a {type(target).__name__}"] if is_whole else [f"{key}" for key in target]
    if strict and problems:
        why = f"the target doesn't fit, and nothing is changed: {'; '.join(problems)}"
        if not findings.loaded if is_whole else not {*findings.missing}.isdisjoint(asked):
            why += f". {_tell(held, components, state)}"
        remedy = "Make the target as the one that was saved, or pass strict=False to take what fits"
        raise InvalidRequest(where, why, remedy)
    if problems and not findings.loaded:
        shown = _list(asked)
        logger.warning(
            "%s: nothing was restored: asked for %s. %s", where, shown, _tell(held, components, state)
        )
    made = build()  # before anything is changed: an array that finds no memory raises here
    apply(findings.changes, where)
    return made, findings.report(left)


def _tell(held: Mapping[Any, Any], components: Iterable[str], state: Any) -> str:
    """What a target can name in a checkpoint."""
    names = list(dict.fromkeys(f"{key}" for key in (*held, *components)))
    return f"The checkpoint has {_list(names) if names else values.describe(state)}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more
