"""The public line: `docs/api.md` names what is promised, and the package has that, no more and no less."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

import ckptstore
from ckptstore import errors, integrations
from ckptstore.cli.app import root

PAGE = (Path(__file__).parent.parent / "docs/api.md").read_text(encoding="utf-8")
_MODULE = re.compile(r"^## `(ckptstore[\w.]*)`$")
_CLASS = re.compile(r"^### `(\w+)`$")
_ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$")


def read_page() -> tuple[dict[str, dict[str, str]], dict[str, set[str]], dict[str, set[str]]]:
    """Of each module the names with their rows, of each class the members, and those left out by name."""
    modules: dict[str, dict[str, str]] = {}
    members: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    module = kind = ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            found = _MODULE.match(line)
            module, kind = found[1] if found else "", ""
            if module:
                modules[module] = {}
        elif found := _CLASS.match(line):
            kind = found[1]
            members[kind], others[kind] = set(), set()
        elif found := _ROW.match(line):
            names = members[kind] if kind else modules[module]
            assert found[1] not in names, f"{found[1]} is listed twice"
            if kind:
                members[kind].add(found[1])
            else:
                modules[module][found[1]] = found[2]
        elif line.startswith("Not promised: "):
            others[kind] |= set(re.findall(r"`(\w+)`", line))
    return modules, members, others


MODULES, MEMBERS, OTHERS = read_page()
PROMISED = [
    "ckptstore",
    "ckptstore.backends.base",
    "ckptstore.bulk",
    "ckptstore.commit.base",
    "ckptstore.errors",
    "ckptstore.retention",
    "ckptstore.testing",
    *(
        f"ckptstore.integrations.{info.name}"
        for info in pkgutil.iter_modules(integrations.__path__)
        if not info.name.startswith("_")
    ),
]


def defined_names(module: ModuleType) -> Iterator[str]:
    """The public names that the module's own source defines; what it imports belongs to others."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def public_names(module: ModuleType) -> set[str]:
    """`__all__`, or what the module defines."""
    if module is ckptstore:
        return {*ckptstore.__all__, "__version__"} - set(MODULES["ckptstore.errors"])
    if hasattr(module, "__all__"):
        return set(module.__all__)
    names = {name for name in defined_names(module) if not name.startswith("_")}
    return {name for name in names if not isinstance(getattr(module, name), TypeVar)}


def public_members(kind: type) -> set[str]:
    """Methods, properties and fields of a class, also those that `__init__` sets."""
    fields = set(re.findall(r"^\s+self\.(\w+)(?:: .*)? = ", inspect.getsource(kind), re.MULTILINE))
    return {name for name in {*vars(kind), *fields} if not name.startswith("_")}


def test_every_promised_module_has_a_section() -> None:
    assert sorted(MODULES) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_every_public_name_is_listed(name: str) -> None:
    module = importlib.import_module(name)
    for public in MODULES[name]:
        assert hasattr(module, public), public
    assert set(MODULES[name]) == public_names(module)


@pytest.mark.parametrize("name", ["CheckpointStore", "Checkpoint", "Checkpointer", "Staged"])
def test_every_public_member_is_listed(name: str) -> None:
    assert MEMBERS.keys() == {"CheckpointStore", "Checkpoint", "Checkpointer", "Staged"}
    assert not MEMBERS[name] & OTHERS[name]
    assert MEMBERS[name] | OTHERS[name] == public_members(getattr(ckptstore, name))


def test_every_error_comes_from_the_package_itself() -> None:
    for name in MODULES["ckptstore.errors"]:
        assert getattr(ckptstore, name) is getattr(errors, name)


@pytest.mark.parametrize("name", MODULES["ckptstore.errors"])
def test_errors_are_what_the_page_says(name: str) -> None:
    builtin, code, _ = (cell.strip(" `") for cell in MODULES["ckptstore.errors"][name].split("|"))
    kind = getattr(errors, name)
    assert kind.exit_code == int(code)
    bases = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
    assert bases[0] == (builtin or "Exception")
    assert issubclass(kind, errors.CheckpointError)


def test_every_command_is_listed() -> None:
    section = PAGE.partition("## The command `ckptstore`\n")[2]
    assert sorted(re.findall(r"`(\w+)`", section.strip().splitlines()[0])) == sorted(root.commands)


def test_the_public_names() -> None:
    assert all(getattr(ckptstore, name).__name__ == name for name in ckptstore.__all__)
    assert set(ckptstore.__all__) <= set(dir(ckptstore))
    with pytest.raises(AttributeError):
        ckptstore.Nonsense  # noqa: B018
    assert sorted(ckptstore.__all__) == [
        "AlgorithmState", "BestN", "Checkpoint", "CheckpointCorrupt", "CheckpointError", "CheckpointExists",
        "CheckpointGone", "CheckpointNotFound", "CheckpointProtected", "CheckpointStore",
        "CheckpointUntrusted", "Checkpointer", "EveryNSteps", "InvalidRequest", "LatestDuration", "LatestN",
        "Opaque",
        "Raw", "SaveAborted", "Staged", "StoreDenied", "StoreFull", "StoreNotFound", "StoreUnavailable",
        "StoreUnsuitable", "Tagged", "UnreadableFormat", "UnsafeContent",
    ]  # fmt: skip


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import ckptstore; "
    code += "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
    code += "print(sorted(name for name in sys.modules if name.startswith('ckptstore')), 'numpy' in new)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ckptstore', 'ckptstore.version'] False"
