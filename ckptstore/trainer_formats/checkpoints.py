"""One checkpoint: a file, or a directory of files of one or several formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ckptstore.errors import CheckpointCorrupt, CheckpointError, UnreadableFormat, UnsafeContent
from ckptstore.format.names import stays_below
from ckptstore.rllib_formats.notes import Note
from ckptstore.trainer_formats import pickles
from ckptstore.trainer_formats.containers import AS_DATA, Container, Decode
from ckptstore.trainer_formats.detect import open_file
from ckptstore.trainer_formats.pickles import TorchFile
from ckptstore.trainer_formats.safetensors import Safetensors
from ckptstore.trainer_formats.sb3 import Sb3
from ckptstore.trainer_formats.source import AGAIN, Source
from ckptstore.trainer_formats.weights import find_weights

Arrays = dict[str, Callable[[], Any]]
"""Name to what makes the array."""

_INDEX = re.compile(r"[^/]+\.(?:safetensors|bin)\.index\.json\Z")
_HUGGING_FACE = ("config.json", "trainer_state.json", "adapter_config.json")
_TRAINER_STATE = "trainer_state.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".h5", ".keras")
_MOST_FILES = 10_000
_ENDINGS = (
    ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".zip", ".keras", ".h5", ".hdf5", ".npz",
    ".cleanrl_model",
)  # fmt: skip
"""What trainers call their files: those are looked into first, and are looked for in directories below."""


class Found(Protocol):
    """What a trainer wrote."""

    @property
    def name(self) -> str:
        """The trainer, or the format."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of parts that are asked for apart."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was passed over so far."""

    def step(self) -> int:
        """The training step that its files state; -1 for none."""

    def state(self, decode: Decode = AS_DATA) -> Any:
        """All that it holds."""

    def component(self, name: str, decode: Decode = AS_DATA) -> Any:
        """One of `components`."""

    def weights(self) -> Arrays:
        """The weights of its networks. UnreadableFormat where nothing looks like that."""

    def problems(self) -> list[CheckpointError]:
        """What is damaged or missing of it: reads the files that hold weights."""


def open_checkpoint(source: Source) -> Found | None:
    """What the files are; None if none at the top is known here. Reads little.

    Raises what `open_file` does where there is only one file.
    """
    paths = [path for path, size in source.files.items() if size > 0]
    if len(source.files) == 1 and paths:
        container = open_file(source, paths[0])
        return None if container is None else _File(paths[0], container)
    top = [path for path in paths if "/" not in path]
    if ".metadata" in top and any(path.endswith(".distcp") for path in top):
        raise UnreadableFormat(
            "checkpoint directory",
            "torch.distributed wrote it, in shards",
            "Join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE",
        )
    for path in sorted(top, key=lambda each: (not each.endswith(_ENDINGS), each))[:_MOST_FILES]:
        try:
            if open_file(source, path) is not None:
                return _Directory(source)
        except (CheckpointCorrupt, UnsafeContent, UnreadableFormat):
            continue  # another one may be whole; asked for by itself it says why it isn't
    return None


def looks_deeper(files: Mapping[str, int]) -> list[str]:
    """The directories below the top that hold files with names of trainers', outermost only."""
    found = {path.rpartition("/")[0] for path in files if path.endswith(_ENDINGS)} - {""}
    return sorted(each for each in found if not any(each.startswith(f"{other}/") for other in found))


class _File:
    """A single file, which is what it holds."""

    def __init__(self, path: str, container: Container) -> None:
        self._path = path
        self._container = container
        self.notes: tuple[Note, ...] = ()

    @property
    def name(self) -> str:
        """See `Found`."""
        return self._container.name

    def step(self) -> int:
        """See `Found`."""
        return _step_of(self._container)

    def state(self, decode: Decode = AS_DATA) -> Any:
        """See `Found`."""
        return self._container.tree(decode)

    @property
    def components(self) -> tuple[str, ...]:
        """The modules in Lightning's state dict: what its names begin with."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self._find_modules() if "." in name))

    def _find_modules(self) -> Mapping[str, Any]:
        if not isinstance(self._container, (TorchFile, pickles.Stream)):
            return {}
        outline = self._container.outline()
        found = outline["state_dict"] if pickles.is_lightning(outline) else {}
        return {name: value for name, value in found.items() if isinstance(name, str)}

    def component(self, name: str, decode: Decode = AS_DATA) -> Any:
        """The state dict of one module, by the names that it has itself."""
        held = self._container.tree(decode)["state_dict"]
        return {
            key.removeprefix(f"{name}."): value for key, value in held.items() if key.startswith(f"{name}.")
        }

    def weights(self) -> Arrays:
        """See `Found`."""
        found = _arrays(self._container)
        if not found:
            raise UnreadableFormat(self._path, "nothing in it looks like weights", "Read `state`")
        return found

    def problems(self) -> list[CheckpointError]:
        """See `Found`."""
        return _try_to_read(self._container)


class _Directory:
    """Files by name."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._notes: dict[str, Note] = {}
        self._opened: dict[str, Container | None] = {}

    @property
    def notes(self) -> tuple[Note, ...]:
        """See `Found`."""
        return tuple(self._notes.values())

    def _container(self, path: str) -> Container | None:
        if path not in self._opened:
            self._opened[path] = None if self._is_json(path) else open_file(self._source, path)
        return self._opened[path]

    def _is_json(self, path: str) -> bool:
        return path.endswith(".json") and self._source.head(path, 1) in (b"{", b"[")

    def _paths(self) -> list[str]:
        found = [path for path, size in self._source.files.items() if size > 0 and stays_below(path)]
        if len(found) > _MOST_FILES:
            raise UnsafeContent("checkpoint directory", f"it holds more than {_MOST_FILES} files")
        return sorted(found)

    @property
    def name(self) -> str:
        """See `Found`."""
        if any(name in self._source.files for name in _HUGGING_FACE):
            config = self._source.json(_HUGGING_FACE[0]) if _HUGGING_FACE[0] in self._source.files else {}
            version = config.get("transformers_version") if isinstance(config, dict) else None
            return f"Hugging Face {version:.20}" if isinstance(version, str) else "Hugging Face"
        found = {}
        for path in self._paths():
            if "/" not in path and (container := self._try(path)) is not None:
                found[container.name] = path
        return ", ".join(sorted(found))

    def _try(self, path: str) -> Container | None:
        """What reads the file; None, and a note, where that can't be."""
        try:
            found = self._container(path)
        except (CheckpointCorrupt, UnsafeContent, UnreadableFormat) as error:
            self._notes[path] = Note("skipped", path, error.why)
            return None
        if found is None and not self._is_json(path):
            self._notes[path] = Note("skipped", path, "its format is not known here")
        return found

    def step(self) -> int:
        """See `Found`."""
        if _TRAINER_STATE in self._source.files:
            found = self._source.json(_TRAINER_STATE)
            step = found.get("global_step") if isinstance(found, dict) else None
            return step if type(step) is int else -1
        steps = {
            _step_of(container)
            for path in self._paths()
            if "/" not in path and isinstance(container := self._try(path), (TorchFile, Sb3))
        }
        return steps.pop() if len(steps) == 1 else -1

    def state(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Found`. What a file holds by its name; what isn't known is passed over, and noted."""
        found: dict[str, Any] = {}
        for path in self._paths():
            if self._is_json(path):
                try:
                    found[path] = self._source.json(path)
                except UnsafeContent as error:  # or lines of it; weights are in none
                    self._notes[path] = Note("skipped", path, error.why)
            elif (container := self._try_unknown(path)) is not None:
                found[path] = container.tree(decode)
        return found

    def _try_unknown(self, path: str) -> Container | None:
        """What reads the file; what is damaged raises: part of a state is worse than none."""
        found = self._container(path)
        if found is None:
            self._notes[path] = Note("skipped", path, "its format is not known here")
        return found

    @property
    def components(self) -> tuple[str, ...]:
        """Files at the top by their names without ending, where one alone has it; shards together."""
        return tuple(sorted(self._parts()))

    def _parts(self) -> dict[str, str]:
        """Component to the file, or the index of the shards, that it is in."""
        parts: dict[str, list[str]] = {}
        shards = set[str]()
        for path in self._paths():
            if _INDEX.match(path):
                parts.setdefault(path.split(".")[0], []).append(path)
                shards |= set(self._shards(path).values())
        for path in self._paths():
            apart = "/" not in path and path not in shards and not self._is_json(path)
            if apart and self._try(path) is not None:
                parts.setdefault(path.rpartition(".")[0] or path, []).append(path)
        return {name: paths[0] for name, paths in parts.items() if len(paths) == 1}

    def component(self, name: str, decode: Decode = AS_DATA) -> Any:
        """See `Found`."""
        path = self._parts()[name]
        if not _INDEX.match(path):
            return self._require(path).tree(decode)
        found = self._shards(path)
        trees = {shard: self._require(shard).tree(decode) for shard in dict.fromkeys(found.values())}
        return {key: _entry(path, shard, trees[shard], key) for key, shard in found.items()}

    def weights(self) -> Arrays:
        """See `Found`. Of an index, else of safetensors, else torch's, else others; at the top if there."""
        if index := self._index():
            return self._read_shards(index)
        for _, paths in sorted(_by_depth(self._paths()).items()):
            opened = {path: found for path in paths if (found := self._try(path)) is not None}
            for kinds in (Safetensors, (TorchFile, Sb3), object):
                chosen = {path: _arrays(each) for path, each in opened.items() if isinstance(each, kinds)}
                chosen = {path: arrays for path, arrays in chosen.items() if arrays}
                if len(chosen) == 1:
                    return next(iter(chosen.values()))
                if chosen:
                    return {
                        f"{path}/{name}": make
                        for path, arrays in chosen.items()
                        for name, make in arrays.items()
                    }
        raise UnreadableFormat("checkpoint directory", "nothing in it looks like weights", "Read `state`")

    def problems(self) -> list[CheckpointError]:
        """See `Found`: files whose names say that they hold weights, and what an index says is there."""
        found: list[CheckpointError] = []
        for path, size in sorted(self._source.files.items()):
            try:
                if path.endswith(_WEIGHTS) and size >= 0:
                    container = self._container(path)
                    if container is None:
                        why = "it can't be read as what its name says, and may be cut short or damaged"
                        found.append(CheckpointCorrupt(path, why, AGAIN))
                    else:
                        found += _name_path(path, _try_to_read(container))
                elif _INDEX.match(path) and size > 0:
                    self._read_shards(path)
            except (CheckpointCorrupt, UnsafeContent) as error:
                found.append(error)
            except UnreadableFormat:
                continue  # nobody here can say
        return found

    def _index(self) -> str:
        found = [path for path in self._paths() if _INDEX.match(path)]
        found = [path for path in found if ".safetensors." in path] or found
        plain = [path for path in found if path.count(".") == 3]
        if len(found) > 1 and len(plain) != 1:
            raise UnreadableFormat(
                "checkpoint directory", f"it holds several indexes: {', '.join(found[:5])}", "Read `state`"
            )
        return (plain if len(plain) == 1 else [*found, ""])[0]

    def _read_shards(self, index: str) -> Arrays:
        found = self._shards(index)
        outlines = {shard: self._require(shard).outline() for shard in dict.fromkeys(found.values())}

        def maker(key: str, shard: str) -> Callable[[], Any]:
            leaf = _entry(index, shard, outlines[shard], key)
            return lambda: self._require(shard).make(leaf)

        return {key: maker(key, shard) for key, shard in found.items()}

    def _shards(self, index: str) -> dict[str, str]:
        """Name of a tensor to the file beside the index that holds it."""
        document = self._source.json(index)
        found = document.get("weight_map") if isinstance(document, dict) else None
        if not isinstance(found, dict):
            raise UnsafeContent(index, "it has no weight_map")
        for key, shard in found.items():
            if not isinstance(shard, str) or "/" in shard or "\\" in shard or not stays_below(shard):
                raise UnsafeContent(index, f"the shard {shard!r:.80} of {key!r:.80} isn't a file beside it")
            if shard not in self._source.files:
                raise CheckpointCorrupt(shard, f"it is missing, and {index} says that it holds {key!r:.80}")
        return found

    def _require(self, path: str) -> Container:
        found = self._container(path)
        if found is None:
            raise UnsafeContent(path, "its format is not known here")
        return found


def _try_to_read(container: Container) -> list[CheckpointError]:
    try:
        container.outline() if isinstance(container, Safetensors) else container.tree()
    except (CheckpointCorrupt, UnsafeContent) as error:
        return [error]
    except UnreadableFormat:
        pass  # a type or a version that isn't known here is no damage
    return []


def _name_path(path: str, errors: list[CheckpointError]) -> list[CheckpointError]:
    """The same errors, about `path`: what is inside of an archive goes by names of its own."""
    return [
        error if error.what == path else type(error)(path, f"{error.what}: {error.why}", error.remedy)
        for error in errors
    ]


def _entry(index: str, shard: str, tree: Any, key: str) -> Any:
    if not isinstance(tree, dict) or key not in tree:
        raise CheckpointCorrupt(shard, f"it doesn't hold {key!r:.80}, as {index} says")
    return tree[key]


def _arrays(container: Container) -> Arrays:
    def maker(leaf: Any) -> Callable[[], Any]:
        return lambda: container.make(leaf)

    return {name: maker(leaf) for name, leaf in find_weights(container).items()}


def _step_of(container: Container) -> int:
    if isinstance(container, Sb3):
        return container.steps()
    if isinstance(container, (TorchFile, pickles.Stream)):
        outline = container.outline()
        step = outline.get("global_step") if pickles.is_lightning(outline) else None
        return step if type(step) is int else -1
    return -1


def _by_depth(paths: list[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in paths:
        found.setdefault(path.count("/"), []).append(path)
    return found
