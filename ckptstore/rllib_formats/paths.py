"""Finding things in a listing: which directories hold what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

EXTENSIONS = ("pkl", "msgpck", "msgpack", "pt")


def below(files: Iterable[str], prefix: str) -> bool:
    """Whether any path starts with `prefix`."""
    return any(path.startswith(prefix) for path in files)


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


def incomplete_components(files: Mapping[str, int]) -> Iterator[str]:
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
