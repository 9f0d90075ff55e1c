"""The one table of checkpoint versions: it is whole, and nothing else in the package has one of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptstore
from ckptstore.errors import UnreadableFormat
from ckptstore.format import layout as ours
from ckptstore.rllib_formats import detect, migrate, versions
from ckptstore.rllib_formats.layouts import _LAYOUTS
from ckptstore.rllib_formats.migrations import chain
from ckptstore.rllib_formats.versions import KNOWN, VERSIONS, Version
from ckptstore.rllib_formats.weight_files import module_files

PACKAGE = Path(ckptstore.__file__).parent
DOCS = PACKAGE.parent / "docs"

TABLE = {
    # first Ray, API stack, layout, extensions of the files with weights, whether ckptstore writes it
    "0.1": ("1.0", "old", "single_file", ("",), False),
    "1.0": ("2.1", "old", "policies", ("pkl",), False),
    "1.1": ("2.4", "old", "policies", ("pkl", "msgpck"), True),
    "1.2": ("2.5", "new", "policies", ("pt", "pkl", "msgpck"), False),
    "2.0": ("2.33", "new", "tree", ("pt",), False),
    "2.1": ("2.41", "new", "tree", ("msgpack", "pkl"), True),
}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_every_version_has_all_facts(version: Version) -> None:
    facts = (version.first_ray, version.stack, version.layout, version.weights, version.written)
    assert facts == TABLE[version.name]
    assert versions.find_version(version.name) is version
    assert version.layout in _LAYOUTS
    assert (version.stack == "new") == (version.name in versions.NEW_STACK)
    assert versions.parse(version.first_ray) is not None


def test_the_table_is_in_order_and_the_only_one() -> None:
    assert tuple(TABLE) == KNOWN
    assert [version.number for version in VERSIONS] == sorted({version.number for version in VERSIONS})
    rays = [versions.parse(version.first_ray) for version in VERSIONS]
    assert rays == sorted(filter(None, rays))
    assert KNOWN[-1] == versions.NEWEST == chain.CHAIN[-1].TO
    assert set(versions.WRITABLE) == set(migrate._WRITERS) <= set(KNOWN)
    assert ours.CHECKPOINT_VERSION in versions.WRITABLE
    with pytest.raises(KeyError):
        versions.find_version("2.10")


def test_versions_compare_as_versions() -> None:
    assert "2.10" < "2.9"  # which is why they are never compared as text
    newer, older = versions.parse("2.10"), versions.parse("2.9")
    assert newer is not None
    assert older is not None
    assert newer > older > VERSIONS[-1].number
    assert [versions.parse(text) for text in ("2", "2.1.0", "2.x", "", "2.1\n", "²·1")] == [None] * 6
    with pytest.raises(TypeError):
        sorted(VERSIONS)  # type: ignore[type-var]
    for text in ("2.10", "2.9", "10.0"):
        info = {"rllib_checkpoint.json": {"checkpoint_version": text}}
        with pytest.raises(UnreadableFormat, match="Upgrade ckptstore"):
            detect.detect(dict.fromkeys(info, 1), info.__getitem__)


def test_the_oldest_version_that_writes_such_files_is_the_guess() -> None:
    old, trees = versions.select_versions("policies", "old"), versions.select_versions("tree")
    assert (old, trees) == (("1.0", "1.1"), ("2.0", "2.1"))
    assert [versions.guess_version(old, extension) for extension in ("pkl", "msgpck", "pt")] == [
        "1.0",
        "1.1",
        "1.1",
    ]
    assert [versions.guess_version(trees, extension) for extension in ("pt", "pkl", "")] == [
        "2.0",
        "2.1",
        "2.1",
    ]


@pytest.mark.parametrize("version", KNOWN)
def test_a_module_is_found_in_any_format(version: str) -> None:
    every = {f"m/x/module_state.{extension}": 1 for extension in ("pkl", "msgpack", "pt")}
    first = next((each for each in TABLE[version][3] if f"m/x/module_state.{each}" in every), "pkl")
    assert module_files(every, "m", version) == {"x": f"m/x/module_state.{first}"}
    for path in every:
        assert module_files({path: 1}, "m", version) == {"x": path}


def test_the_page_about_the_model_has_the_same_table() -> None:
    rows = re.findall(r"^\| (\d\.\d) \| ([^|]*) \|", (DOCS / "model.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(KNOWN)
    for name, releases in rows[1:]:
        assert releases.startswith(f"{versions.find_version(name).first_ray} "), name


def test_each_step_says_the_first_ray_of_its_version() -> None:
    for step in chain.CHAIN:
        first = (step.__doc__ or "").splitlines()[0]
        assert first.endswith(f"Since Ray {versions.find_version(step.TO).first_ray}."), step.__name__


ALLOWED = {
    "rllib_formats/versions.py": set(KNOWN),
    "rllib_formats/write/v2_1.py": {"2.1"},  # its own version
    "format/layout.py": {"1.1"},  # what `save` writes; `format` is below `rllib_formats`
    # Signatures, and their defaults.
    "bulk.py": {"1.1"},
    "checkpoint.py": {"1.1", "2.1"},
    "store.py": {"1.1", "2.1"},
    "cli/commands/migrate.py": {"1.1"},
}


def test_nothing_else_spells_a_version() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text())
        spelled = {node.value for node in _literals(tree) if isinstance(node.value, str)} & set(KNOWN)
        if name.startswith("rllib_formats/migrations/v"):
            spelled -= _ends_of_step(tree)
        found[name] = spelled
    assert {name: spelled for name, spelled in found.items() if spelled} == ALLOWED


def test_no_version_is_compared_as_text() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, _ORDER) for op in node.ops):
                for side in (node.left, *node.comparators):
                    text = isinstance(side, ast.Constant) and isinstance(side.value, str)
                    name = side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "")
                    assert not text, f"{path}:{node.lineno}"
                    # Elsewhere versions are numbers: those of our own schemas, and numpy's.
                    assert room not in RLLIBS or not name.endswith("version"), f"{path}:{node.lineno}"


RLLIBS = ("rllib_formats", "integrations", "export", "cli", "store.py", "checkpoint.py", "bulk.py")
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def _literals(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every constant but docstrings and other texts that stand alone."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in alone:
            yield node


def _ends_of_step(tree: ast.Module) -> set[object]:
    """The values of FROM and TO."""
    return {
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("FROM", "TO")
    }
