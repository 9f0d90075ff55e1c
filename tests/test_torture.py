"""What `make torture` says of its parts: sums of what was counted, and no success where nothing was tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import torture
from tests.figures import SUMS
from tests.torture import PARTS, Part

ROOT = Path(__file__).parents[1]
CASES = "tests/data/torture/cases.py"
STATES = "unique crash states checked"


def part(*names: str, reaches: tuple[str, ...] = ()) -> Part:
    return Part(" and ".join(names), tuple(f"{CASES}::test_{name}" for name in names), reaches)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "LOGS", tmp_path)
    monkeypatch.chdir(ROOT)


def test_the_sum_is_of_what_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main([part("good", reaches=(STATES,)), part("expected", "good")]) == 0
    *before, verdicts = capsys.readouterr().out.splitlines()
    told = {what: count for count, what in (line.split(maxsplit=1) for line in before[-len(SUMS) :])}
    assert told == dict.fromkeys(SUMS, "0") | {STATES: "14", "reads checked": "4"}
    assert verdicts == "0 lost, 0 wrong, 0 untyped, 0 false-empty"


@pytest.mark.parametrize(
    ("names", "verdicts"),
    [
        (["counts_what_it_found"], "1 lost, 1 wrong, 0 untyped, 2 false-empty"),
        (["counts_and_forgets_to_fail"], "1 lost, 0 wrong, 0 untyped, 0 false-empty"),
        (["asserts", "typed_error", "untyped_error"], "0 lost, 2 wrong, 1 untyped, 0 false-empty"),
    ],
)
def test_what_a_test_found_is_counted(
    capsys: pytest.CaptureFixture[str], names: list[str], verdicts: str
) -> None:
    assert torture.main([part(*names)]) == 1
    assert verdicts in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (part("skipped"), "no test was run"),
        (part("good")._replace(settings={"CKPTSTORE_SHARE": "0"}), "pytest ended with 5"),
        (part("dies"), "without its figures"),
        (part("good", reaches=("calls failed",)), "nothing counted as calls failed"),
    ],
)
def test_a_part_that_tries_nothing_has_failed(
    capsys: pytest.CaptureFixture[str], failing: Part, why: str
) -> None:
    assert torture.main([failing]) == 1
    out = capsys.readouterr().out
    assert why in out
    assert out.splitlines()[-1] == f"FAILED: {failing.name}"


def test_every_part_is_there() -> None:
    """What a part names exists, and what it has to count is a line of the sum."""
    for named in PARTS:
        assert set(named.reaches) <= set(SUMS)
        assert all((ROOT / path.removeprefix("--ignore=")).exists() for path in named.tests)
    assert {what for named in PARTS for what in named.reaches} == set(SUMS)
