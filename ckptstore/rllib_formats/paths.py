"""What a listing of files holds: directories, state files, and parts that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ckptstore.codec.encodings import EXTENSIONS
from ckptstore.format import names

CTOR = "class_and_ctor_args.pkl"
"""The class of a component and the arguments of its constructor, beside the component's state."""

COMPONENT_EXTENSIONS = ("msgpack", "pkl", "pt")
"""Of the state of a component; the first that is there counts, as in RLlib."""


def below(files: Iterable[str], prefix: str) -> bool:
    """Whether any path starts with `prefix`."""
    return any(path.startswith(prefix) for path in files)


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`, which is empty for the root."""
    return f"{directory}/{name}" if directory else name


def files_below(files: Iterable[str], directory: str) -> list[str]:
    """The paths at any depth below `directory`, sorted."""
    return sorted(path for path in files if path.startswith(f"{directory}/"))


def children(paths: Iterable[str], directory: str) -> list[str]:
    """Names of the directories directly below `directory` that hold a file at any depth, sorted."""
    prefix = join(directory, "")
    return sorted(
        {p[len(prefix) :].split("/")[0] for p in paths if p.startswith(prefix) and "/" in p[len(prefix) :]}
    )


def state_file(files: Mapping[str, int], stem: str, order: Iterable[str] = EXTENSIONS) -> str | None:
    """The first existing file ``<stem>.<extension>``, with the extensions in `order`."""
    return next((path for ext in order if (path := f"{stem}.{ext}") in files), None)


def incomplete_components(files: Mapping[str, int]) -> Iterator[str]:
    """Files that belong to a component of a tree but are missing, judging by the names."""
    directories: dict[str, set[str]] = {}
    for path in files:
        directory, _, name = path.rpartition("/")
        directories.setdefault(directory, set()).add(name)
    for directory, found in sorted(directories.items()):
        stems = {name.rpartition(".")[0] for name in found if name.rpartition(".")[2] in COMPONENT_EXTENSIONS}
        states = stems & {"state", "module_state", "algorithm_state"}
        if not states and CTOR not in found and "metadata.json" not in found:
            continue
        if not states:
            yield join(directory, "state.pkl")
        if CTOR not in found:
            yield join(directory, CTOR)
        if not found & {"metadata.json", names.RLLIB_JSON}:
            yield join(directory, "metadata.json" if directory else names.RLLIB_JSON)
