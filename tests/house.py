"""Measure the structure of the package from its source alone: `python -m tests.house` prints the figures.

Nothing is imported. An import counts wherever it stands: at the top, in a function, for types only.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_VERBS_IN_ED = {"embed", "exceed", "feed", "heed", "need", "proceed", "seed", "speed", "succeed"}
_IRREGULAR = {
    "begun", "bound", "brought", "built", "chosen", "drawn", "found", "given", "gone", "held", "hidden",
    "kept", "known", "laid", "left", "lost", "made", "met", "said", "seen", "sent", "shown", "spelt", "taken",
    "thrown", "told", "torn", "written",
}  # fmt: skip
_PLAIN_ING = {"bring", "ping", "ring", "sing", "spring", "string"}


class Function(NamedTuple):
    """A function or method: where it stands and how long it is."""

    module: str
    name: str
    lines: int
    is_property: bool


class House:
    """The modules of one package, who imports whom, and what they define."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.paths = {self._dotted(path): path for path in sorted(package.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.paths.items()}
        self.imports = {name: set(self._imports(name, tree)) for name, tree in self.trees.items()}

    def _dotted(self, path: Path) -> str:
        parts = path.relative_to(self.package.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module: str, tree: ast.Module) -> Iterator[str]:
        """Full names of the package's own modules that `module` imports."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.paths)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative import"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    target = full if full in self.paths else node.module
                    if target in self.paths and target is not None:
                        yield target

    def lines(self, module: str) -> int:
        """How many lines the module's file has."""
        return len(self.paths[module].read_text("utf-8").splitlines())

    def functions(self) -> Iterator[Function]:
        """Every function and method of the package."""
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    kind = bool(decorators & {"property", "cached_property", "functools.cached_property"})
                    yield Function(module, node.name, length, kind)

    def room(self, module: str) -> str:
        """The folder a module lies in; a module at the root is a room by itself."""
        if self.paths[module].name == "__init__.py":
            return module
        parent = module.rpartition(".")[0]
        return module if parent == self.package.name else parent

    def arrows(self) -> dict[str, set[str]]:
        """Each room and the other rooms that it imports; the package's face apart."""
        found: dict[str, set[str]] = {}
        for module, imports in self.imports.items():
            if module != self.package.name:
                room = self.room(module)
                others = {self.room(other) for other in imports if other != self.package.name}
                found.setdefault(room, set()).update(others - {room})
        return found


def is_participle(function: Function) -> bool:
    """Whether the name says what was done to a thing, where a function's says what it does.

    A property tells a state, for which "committed" is the right word.
    """
    first = function.name.strip("_").split("_")[0]
    ends = first.endswith("ed") and first not in _VERBS_IN_ED
    doing = first.endswith("ing") and first not in _PLAIN_ING
    return not function.is_property and (ends or doing or first in _IRREGULAR)


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that lead back to themselves (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found)


def floors(graph: Mapping[str, Iterable[str]]) -> int:
    """The longest way down from any room to one that imports nothing; a circle counts once."""
    home = {node: group[0] for group in circles(graph) for node in group}
    below: dict[str, set[str]] = {}
    for node, others in graph.items():
        mine = home.get(node, node)
        below.setdefault(mine, set()).update({home.get(other, other) for other in others} - {mine})
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in heights:
            heights[node] = 1 + max((height(other) for other in below.get(node, ())), default=0)
        return heights[node]

    return max(map(height, below))


def main(root: str = "ckptstore") -> None:
    """Print what `tests/test_house.py` bounds, and what it only watches."""
    house = House(Path(root).resolve())
    arrows = house.arrows()
    sizes = [house.lines(module) for module in house.paths]
    functions = list(house.functions())
    at_root = [module for module in house.paths if module.count(".") == 1 and house.room(module) == module]
    flat = [module for module in at_root if house.paths[module].name != "__init__.py"]
    print(f"rooms {len(arrows)}, floors {floors(arrows)}, arrows {sum(map(len, arrows.values()))}")
    print(f"circles of modules: {circles(house.imports) or 0}")
    print(f"modules {len(sizes)}, flat at the root {len(flat)}, lines {sum(sizes)}")
    print(f"lines of a module: median {statistics.median(sizes):g}, longest {max(sizes)}")
    print(f"modules over 400 lines: {sum(size > 400 for size in sizes)}")
    print(f"functions {len(functions)}, over 60 lines {sum(one.lines > 60 for one in functions)}")
    print(f"functions named by a participle: {sum(map(is_participle, functions))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
