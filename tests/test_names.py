"""Names and keys: what the layout can hold round-trips, all else is refused before a byte is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptstore.errors import CheckpointCorrupt, InvalidRequest
from ckptstore.format import names
from ckptstore.format.names import CheckpointName


@given(st.integers(0, names.MAX_STEP), st.integers(0, names.MAX_ATTEMPT))
def test_names_round_trip(step: int, attempt: int) -> None:
    name = CheckpointName(step, attempt)
    assert CheckpointName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "checkpoint_1",
        "checkpoint_00001",
        "checkpoint_0000001",
        "checkpoint_0100000",
        "checkpoint_000001-r0",
        "checkpoint_000001-r01",
        "checkpoint_000001-r",
        "checkpoint_000001-r1x",
        "checkpoint_000001 ",
        "checkpoint_000001\n",
        "checkpoint_٠٠٠٠٠١",
        "Checkpoint_000001",
        "checkpoint_-00001",
        "xcheckpoint_000001",
        "checkpoint_" + "9" * 19,
        "",
    ],
)
def test_names_are_parsed_exactly(text: str) -> None:
    assert CheckpointName.parse(text) is None


@given(st.text(max_size=30))
def test_no_second_spelling(text: str) -> None:
    for spelled in (text, f"checkpoint_{text}"):
        name = CheckpointName.parse(spelled)
        assert name is None or str(name) == spelled


def test_a_name_that_is_the_prefix_of_another_is_another() -> None:
    assert str(CheckpointName(1_000_000)).startswith(str(CheckpointName(100_000)))
    assert CheckpointName.parse("checkpoint_1000000") == CheckpointName(1_000_000)
    assert sorted([CheckpointName(1_000_000), CheckpointName(2), CheckpointName(2, 1)])[0] == (2, 0)


@pytest.mark.parametrize("step", [0, 7, np.int64(7), 10**18 - 1])
def test_steps(step: int) -> None:
    assert names.step_number(step) == int(step)


@pytest.mark.parametrize("step", [-1, 10**18, True, 1.0, "1", None])
def test_steps_refused(step: object) -> None:
    with pytest.raises(InvalidRequest):
        names.step_number(step)  # type: ignore[arg-type]  # what untyped callers pass


@pytest.mark.parametrize(
    "good", ["default_policy", "pol 0", "pol*1", "pöl_2", "pol.3", "pol%4", "pol#5", "pol&6", "策略"]
)
def test_policy_ids(good: str) -> None:
    assert names.check_policy_ids([good]) == [good]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("a/b", "'/'"),
        ("a\\b", "refuses ids"),
        ("a:b", "':'"),
        ("trailing.", "trailing"),
        ("trailing ", "trailing"),
        ("x" * 300, "300"),
        ("ö" * 150, "300"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("\ud800", "surrogate"),
        (3, "int"),
        (None, "NoneType"),
        (b"pol", "bytes"),
    ],
)
def test_policy_ids_refused_with_the_reason(bad: object, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        names.check_policy_ids(["fine", bad])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"), [("Pol", "pol"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße")]
)
def test_policy_ids_that_one_file_system_would_merge(one: str, other: str) -> None:
    names.check_policy_ids([one])
    names.check_policy_ids([other])
    with pytest.raises(InvalidRequest):
        names.check_policy_ids([one, other])


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "./a",
        "a/.",
        "a\\b",
        "a\0b",
        "\ud800",
        7,
        None,
        "x" * 5000,
    ],
)
def test_paths_that_would_leave_the_checkpoint(path: object) -> None:
    with pytest.raises(CheckpointCorrupt):
        names.relative_path(path, "manifest.json")


def test_paths_that_stay() -> None:
    for path in ("a", ".is_checkpoint", "policies/pol 0%#/policy_state.pkl", "a/..b/c.."):
        assert names.relative_path(path, "manifest.json") == path


@pytest.mark.parametrize("ref", ["champion", "v1.2", "a-b", "_x"])
def test_refs(ref: str) -> None:
    assert names.check_ref(ref) == ref


@pytest.mark.parametrize("ref", ["", ".hidden", "-x", "a/b", "pin.abc", "x" * 101, "é", "a\n", None, 3])
def test_refs_refused(ref: object) -> None:
    with pytest.raises(InvalidRequest):
        names.check_ref(ref)
