"""The threat model: each line names the test that holds it, and that test is there."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from ckptstore import CheckpointStore

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/threats.md").read_text(encoding="utf-8")
ENTRIES = ("listing", "manifest", "pickle", "URL", "destination", "signature", "Tags", "Temporary")
_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows(section: str) -> list[list[str]]:
    """The cells of the section's table, below its head."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.strip("|").split(" | ") for line in lines[1:]]


SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")[1:]}
LINES = [(title, cells) for title, text in SECTIONS.items() for cells in rows(text)]


def functions(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_each_way_in_has_its_lines() -> None:
    for entry in ENTRIES:
        [title] = [title for title in SECTIONS if entry in title.split()[:2] or title.startswith(entry)]
        assert len(rows(SECTIONS[title])) >= 3, title


@pytest.mark.parametrize(("title", "cells"), LINES, ids=[cells[0].strip()[:50] for _, cells in LINES])
def test_each_line_names_a_test_that_is_there(title: str, cells: list[str]) -> None:
    threat, answer, test = cells
    assert threat.strip()
    assert answer.strip(), title
    named = _NAMED.findall(test)
    assert named, "no test is named"
    assert test.count("`") == 2 * len(named), "one is no name of a test"
    for file, name in named:
        assert name in functions(TESTS / file), f"{file}::{name}"


def test_temporary_copies_are_their_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    for place in (shared, outside):
        place.mkdir()
        place.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    for name in ("ckptstore", "ckptstore-", "checkpoint_000001"):
        (shared / name).symlink_to(outside)
    before = os.umask(0)
    try:
        made = CheckpointStore(tmp_path / "store").save(1, {"x": 1})
        with made.as_directory() as first, made.as_directory() as second:
            for path in map(Path, (first, second)):
                assert path.parent.parent == shared
                assert path.parent.stat().st_mode & 0o777 == 0o700
            assert Path(first).parent != Path(second).parent
    finally:
        os.umask(before)
    assert not list(outside.iterdir())
    assert len(list(shared.iterdir())) == 3
