"""The plan of the package: floors, circles, sizes, pure rooms, names. Change it on purpose or not at all."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ckptstore
from tests.house import House, is_participle

HOUSE = House(Path(ckptstore.__file__).parent)
MODULES = sorted(HOUSE.paths)

# A room imports rooms of lower floors and itself, nothing else.
FLOORS = [
    ["printable"],
    ["errors", "version"],
    ["logs", "work"],
    ["codec", "backends"],
    ["format"],
    ["commit", "rllib_formats", "retention"],
    ["trainer_formats"],
    ["read", "testing"],
    ["save", "export", "restore"],
    ["checkpoint"],
    ["find"],
    ["run", "repair"],
    ["staging"],
    ["store"],
    ["bulk", "checkpointer"],
    ["integrations"],
    ["cli"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# These decide and transform: they touch no file, clock or random number. Their docstring ends in "Pure."
PURE = ["printable", "errors", "codec", "format", "retention", "rllib_formats", "trainer_formats"]
IMPURE_MODULES = {"os", "time", "random", "secrets", "socket", "subprocess", "tempfile", "shutil", "fsspec"}
# Makes generators from the states that a file holds, and draws nothing.
DRAWS_NOTHING = "ckptstore.codec.pickles.own_kinds"
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "uuid4"}

MEDIAN_LINES, MOST_LINES = 130, 600

# Frameworks and clients that importing ckptstore must not pull in.
HEAVY = [
    "ray", "torch", "onnx", "onnxruntime", "tensorflow", "jax", "gym", "gymnasium", "lightning",
    "transformers", "stable_baselines3", "s3fs", "gcsfs", "aiohttp", "botocore", "click", "rich",
    "cryptography",
]  # fmt: skip


def room(module: str) -> str:
    """The wing that a module belongs to: its name right below the package."""
    return module.split(".")[1]


def below(module: str) -> set[str]:
    """The modules that `module` imports; the package's face is no room."""
    return HOUSE.imports[module] - {"ckptstore"}


INSIDE = [module for module in MODULES if module != "ckptstore"]


@pytest.mark.parametrize("module", INSIDE)
def test_imports_point_down(module: str) -> None:
    for other in below(module):
        same = room(other) == room(module)
        assert same or FLOOR[room(other)] < FLOOR[room(module)], f"{module} imports {other}"


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in INSIDE} == FLOOR.keys()


def test_no_module_leads_back_to_itself() -> None:
    order = list(TopologicalSorter({module: below(module) for module in INSIDE}).static_order())  # CycleError
    assert set(order) == set(INSIDE)


def test_modules_are_small() -> None:
    lines = {module: HOUSE.lines(module) for module in MODULES}
    assert statistics.median(lines.values()) <= MEDIAN_LINES
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("module", [module for module in INSIDE if room(module) in PURE])
def test_pure_rooms_do_no_io(module: str) -> None:
    tree = HOUSE.trees[module]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            isinstance(node.func, ast.Name)
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "uuid4")
        )
    }
    allowed = {"random"} if module == DRAWS_NOTHING else set()
    assert not names & IMPURE_MODULES - allowed
    assert not calls & IMPURE_CALLS


def test_the_docstring_of_a_pure_room_says_so() -> None:
    doors = [module for module in INSIDE if module.count(".") == 1]
    said = {
        room(module) for module in doors if (ast.get_docstring(HOUSE.trees[module]) or "").endswith("Pure.")
    }
    assert said == set(PURE)
    for module in set(INSIDE) - set(doors):
        assert not (ast.get_docstring(HOUSE.trees[module]) or "").endswith("Pure."), (
            f"{module}: its room says it"
        )


def test_functions_are_named_by_verbs() -> None:
    """`build_manifest`, not `vouched`: a participle makes the reader guess whether anything changes."""
    found = {f"{one.module}.{one.name}" for one in HOUSE.functions() if is_participle(one)}
    assert sorted(found - PARTICIPLES) == []
    assert sorted(PARTICIPLES - found) == [], "these are gone: take them off the list"


# Promised names, said as people say them: changing them would break programs for a rule of style.
PARTICIPLES = {
    "ckptstore.backends.base.starting",
    "ckptstore.backends.objects.backend.starting",
    "ckptstore.checkpoint.listing",
    "ckptstore.checkpoint.stored",
    "ckptstore.commit.base.created",
    "ckptstore.commit.local.catalog.created",
    "ckptstore.commit.objects.catalog.created",
    "ckptstore.commit.objects.single_writer.starting",
    "ckptstore.save.background.cancelled",  # as in every Future
    "ckptstore.save.background.running",
}


def test_importing_it_pulls_in_no_framework_and_no_client() -> None:
    code = "import sys, ckptstore; ckptstore.CheckpointStore; "
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_checkpoint_costs_few_modules() -> None:
    code = "import sys, ckptstore; ckptstore.Checkpoint; "
    code += "print(sum(name.startswith('ckptstore') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 75
