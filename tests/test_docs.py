"""What the documents name exists: links, files, tests and names of the package."""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import CheckpointStore
from ckptstore.backends.objects.http_status import Outcome
from ckptstore.backends.objects.memory import MemoryClient
from ckptstore.export import formats
from ckptstore.rllib_formats import versions

TOP = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(TOP))
    for pattern in ("*.md", "changelog.d/README.md", "docs/*.md", "docs/*/*.md")
    for path in TOP.glob(pattern)
)
SOURCES = [
    f"/{path.relative_to(TOP)}"
    for folder in ("benchmarks", "ckptstore", "examples", "tests")
    for path in (TOP / folder).rglob("*.py")
]
OURS = re.compile(r"https://github\.com/ckptstore/ckptstore/(blob|tree)/main/")

_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
_BARE = re.compile(r"(?<!\w)(\[(?:[\w ]+|[\w./]+)\])(?![(:])")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
# A path that begins at the top; one that is followed by "(new)" is for the reader to make.
_PATH = re.compile(
    r"(?<![\w./-])((?:ckptstore|tests|docs|benchmarks|examples|changelog\.d)/[\w./-]*)( \(new\))?"
)
# A test file, below `tests/` or at the top, with the name of a test or without; or one more name in it.
_TEST = re.compile(r"(?<![\w/])((?:[\w/]+/)?test_\w+\.py)?(?:::(\w+))?")
_SOURCE = re.compile(r"`([\w./]+\.py)`(?! \(new\))")
_CODE = re.compile(r"`([^`\n]+)`")
_DOTTED = re.compile(r"ckptstore(?:\.[A-Za-z]\w*)+")
_IMPORT = re.compile(r"^\s*from (ckptstore[\w.]*) import ([\w, ]+)", re.MULTILINE)


def read(document: str) -> str:
    return (TOP / document).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = _HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: str) -> list[str]:
    """Where its links lead, be they inline or defined at its end."""
    return [inline or defined for inline, defined in _LINK.findall(read(document))]


def missing_links(document: str) -> Iterator[str]:
    for link in links(document):
        ours = OURS.match(link)
        if "://" in link and not ours:
            continue
        name, _, anchor = OURS.sub("", link).partition("#")
        base = TOP if ours else (TOP / document).parent
        target = base / name if name else TOP / document
        wrong_kind = ours and target.is_dir() != (ours[1] == "tree")
        if not target.exists() or wrong_kind or (anchor and anchor not in anchors(target)):
            yield link


def named_paths(text: str) -> list[str]:
    return [path.rstrip(".-") for path, new in _PATH.findall(text) if not new]


def missing_tests(document: str) -> Iterator[str]:
    for line in read(document).splitlines():
        file: Path | None = None
        for code in _CODE.findall(line):
            match = _TEST.fullmatch(code)
            if match is None or not code:
                continue
            if match[1]:
                file = next(
                    (path for path in (TOP / match[1], TOP / "tests" / match[1]) if path.exists()), None
                )
            if file is None or (match[2] and f"def {match[2]}(" not in file.read_text(encoding="utf-8")):
                yield code


def resolves(dotted: str) -> bool:
    """Whether `dotted` names a module of the package, or what one of them has."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert list(missing_links(document)) == []


def test_links_work_on_a_package_index() -> None:
    """The README is shown there, away from the files beside it."""
    text = read("README.md")
    assert [link for link in links("README.md") if "://" not in link] == []
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    assert [label for label in _BARE.findall(prose) if f"\n{label}: https://" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document: str) -> None:
    assert [path for path in named_paths(read(document)) if not (TOP / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_source_files_exist(document: str) -> None:
    """Also those that are named without the folders they lie in."""
    named = _SOURCE.findall(read(document))
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in SOURCES)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_exist(document: str) -> None:
    assert list(missing_tests(document)) == []


def test_proofs_exist() -> None:
    """`docs/reliability.md` names them below `tests/`; folders too."""
    rows = [line for line in read("docs/reliability.md").splitlines() if line.startswith("| G")]
    assert len(rows) >= 15
    for row in rows:
        proofs = [code for code in _CODE.findall(row.split("|")[3]) if not code.startswith("::")]
        assert proofs
        for proof in proofs:
            assert (TOP / "tests" / proof.partition("::")[0]).exists(), proof


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_of_the_package_exist(document: str) -> None:
    text = read(document)
    spans = [match[0] for code in _CODE.findall(text) if (match := _DOTTED.match(code))]
    imported = [
        f"{module}.{name.strip()}" for module, names in _IMPORT.findall(text) for name in names.split(",")
    ]
    dotted = [name for name in spans + imported if not name.endswith((".json", ".git"))]
    assert [name for name in dotted if not resolves(name)] == []


def test_this_page_would_notice() -> None:
    assert not resolves("ckptstore.eras.open")
    assert resolves("ckptstore.backends.base.Backend")
    assert "the-bytes" in anchors(TOP / "docs/format.md")
    text = "in `ckptstore/eras/open.py`, not s3://b/ckptstore/x.py or ckptstore/y.py (new)"
    assert named_paths(text) == ["ckptstore/eras/open.py"]


def test_every_wing_says_where_it_is_tested() -> None:
    table = read("docs/testing.md").partition("| below `ckptstore/` | below `tests/` |\n|---|---|\n")[2]
    rows = [row.split("|")[1:3] for row in table.partition("\n\n")[0].splitlines()]
    wings = {code for wing, _ in rows for code in _CODE.findall(wing)}
    assert [wing for wing in wings if not (TOP / "ckptstore" / wing).exists()] == []
    tests = [code for _, tests in rows for code in _CODE.findall(tests) if not code.startswith("make ")]
    assert [test for test in tests if not any((TOP / "tests").glob(test))] == []
    ground_floor = {"__init__.py", "logs.py", "version.py", "work.py"}
    there = {path.name for path in (TOP / "ckptstore").iterdir() if path.suffix == ".py"} - ground_floor
    there |= {path.parent.name for path in (TOP / "ckptstore").glob("*/__init__.py")}
    assert sorted(there - {wing.partition("/")[0] for wing in wings}) == []


def test_the_floors_are_those_of_the_house() -> None:
    house = importlib.import_module("tests.test_house")
    rows = re.findall(r"^\| \d+ \| (.*) \|$", read("CONTRIBUTING.md"), re.MULTILINE)
    assert [_CODE.findall(row) for row in reversed(rows)] == house.FLOORS


class TestExamplesOfContributing:
    """What it shows is code that runs, as far as that goes without a service or package that isn't here."""

    BLOCKS: ClassVar[dict[str, str]] = {
        block.partition(" (new)")[0].removeprefix("# "): block
        for block in re.findall(r"^```python\n(.*?)^```$", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)
    }

    def run(self, path: str) -> dict[str, Any]:
        module = types.ModuleType(path.rpartition("/")[2].removesuffix(".py"))
        exec(compile(self.BLOCKS[path], path, "exec"), module.__dict__)
        return module.__dict__

    @pytest.mark.parametrize("path", [path for path in BLOCKS if path.endswith(".py")])
    def test_they_can_be_imported(self, path: str) -> None:
        assert self.run(path)["__doc__"] or path.startswith("tests/")

    def test_the_client_has_methods_that_clients_have(self) -> None:
        client = self.run("ckptstore/backends/objects/azure.py")["AzureClient"]
        assert {name for name in vars(client) if not name.startswith("__")} <= set(dir(MemoryClient))
        assert client().classify(KeyError()) is Outcome.FATAL

    def test_the_step(self) -> None:
        step = self.run("ckptstore/rllib_formats/migrations/v2_1_to_v2_2.py")
        raw = {"algorithm": {"rl_module": 1, "x": 2}, "policies": {}}
        assert step["upgrade"](raw) == {"algorithm": {"modules": 1, "x": 2}, "policies": {}}
        assert step["upgrade"]({}) == {}
        assert re.search(r"Since Ray \d+\.\d+\.$", step["__doc__"])
        assert step["FROM"] == versions.NEWEST

    def test_the_framework(self, tmp_path: Path) -> None:
        class Model:
            num_timesteps = 7

            def save(self, path: str) -> None:
                Path(path).write_text("weights", encoding="utf-8")

            @classmethod
            def load(cls, path: str) -> str:
                return Path(path).read_text(encoding="utf-8")

        theirs = self.run("ckptstore/integrations/theirs.py")
        checkpoint = theirs["save"](Model(), CheckpointStore(tmp_path / "store"))
        assert checkpoint.step == 7
        assert theirs["load"](Model, checkpoint) == "weights"

    def test_the_command(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path / "store").save(step=1, state={"a": 1})
        command = self.run("ckptstore/cli/commands/sizes.py")["sizes"]
        result = CliRunner().invoke(command, [str(tmp_path / "store")])
        assert result.exit_code == 0
        assert "checkpoint_000001" in result.stdout

    def test_the_format(self, tmp_path: Path) -> None:
        block = next(block for block in self.BLOCKS.values() if block.startswith("def _msgpack"))
        names = {**vars(formats), "msgpack": msgpack}
        exec(compile(f"from __future__ import annotations\n{block}", "formats.py", "exec"), names)
        store = CheckpointStore(tmp_path / "store")
        checkpoint = store.save(step=1, policies={"a": {"weights": {"w": np.ones(2)}}})
        assert msgpack.unpackb(names["_msgpack"](checkpoint, "a").data) == {"w": [1.0, 1.0]}
