"""What the README shows works: its examples run one after another, as a reader would run them."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import types
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ckptstore import Checkpointer
from ckptstore.cli.app import root

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
FROM_RAY = TOP / "tests/data/rllib_1_0_ppo_multi5/checkpoint"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Algorithm:
    """As much of RLlib's Algorithm as the examples call: it writes and reads a directory."""

    restored = False

    def save_to_path(self, path: Any) -> None:
        path = path if isinstance(path, str) else path.as_posix()  # as RLlib does
        shutil.copytree(FROM_RAY, path, dirs_exist_ok=True)

    def restore_from_path(self, path: str) -> None:
        self.restored = Path(path, "rllib_checkpoint.json").exists()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FROM_RAY, tmp_path / "old/checkpoint_000002")
    return tmp_path


def _at(match: re.Match[str]) -> int:
    return README.count("\n", 0, match.start(2))


def test_examples(here: Path) -> None:
    module = types.ModuleType("readme")
    algorithm = Algorithm()
    names: dict[str, Any] = module.__dict__
    names["algo"] = algorithm
    ran = {"python": 0, "shell": 0}
    for match in _BLOCK.finditer(README):
        kind, body = match.groups()
        if kind == "python":
            if "import torch" in body and find_spec("torch") is None:
                continue  # `make rllib` has it
            # Blank lines in front, so that a traceback names the README's own line.
            exec(compile("\n" * _at(match) + body, "README.md", "exec"), names)
            ran[kind] += 1
        elif kind == "shell":
            for line in body.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "ckptstore"
                result = CliRunner().invoke(root, arguments)
                assert result.exit_code == 0, (line, result.output)
            ran[kind] += 1
        else:
            assert kind == "console"  # make and pip: the set-up itself
    assert ran["python"] >= 8
    assert ran["shell"] >= 1
    assert algorithm.restored


def test_the_lines_for_each_trainer_are_calls_that_exist() -> None:
    """The pages of `docs/trainers` run them; here each is Python, with parameters that there are."""
    table = README.partition("| your trainer | these lines |\n|---|---|\n")[2].partition("\n\n")[0]
    homes = {
        "Lightning": "lightning",
        "Stable-Baselines3": "stable_baselines3",
        "Hugging Face": "huggingface",
        "RLlib": "rllib",
    }
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    assert homes.keys() <= {name for name, _ in rows}
    for name, lines in rows:
        spans = re.findall("`([^`]+)`", lines)
        assert 1 <= len(spans) <= 2
        calls = []
        for span in spans:
            tree = ast.parse(f"{span} pass" if span.endswith(":") else span)
            calls += [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in calls:
            called = ast.unparse(call.func).rpartition(".")[2]
            given = {keyword.arg for keyword in call.keywords}
            if called == "CheckpointCallback":
                module = import_module(f"ckptstore.integrations.{homes[name]}")
                assert given <= set(inspect.signature(module.CheckpointCallback).parameters), name
            elif called == "resume_path":
                module = import_module(f"ckptstore.integrations.{homes[name]}")
                assert hasattr(module.CheckpointCallback, called)
            elif called == "Checkpointer":
                assert given <= set(inspect.signature(Checkpointer).parameters)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/cli.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = TOP / document
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    makefile = (TOP / "Makefile").read_text()
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"`?make ([a-z-]+)`", (TOP / document).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
