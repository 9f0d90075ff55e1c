"""One text for each failure, whatever the backend: the full URL, why, and what to do about it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointError, CheckpointStore
from ckptstore.commit import open_catalog, refs
from ckptstore.format import names
from tests.inside import backend_of


def a_taken_step(store: CheckpointStore) -> None:
    store.save(1)
    store.save(1)


def a_second_delete(store: CheckpointStore) -> None:
    checkpoint = store.save(1)
    store.delete(checkpoint)
    open_catalog(backend_of(store)).delete(names.CheckpointName(1), lambda: None)


def a_step_that_is_not_there(store: CheckpointStore) -> None:
    store.save(1)
    store.get(7)


def a_name_that_is_not_there(store: CheckpointStore) -> None:
    store.save(1)
    store.get("checkpoint_000007")


def an_id_that_is_not_there(store: CheckpointStore) -> None:
    store.save(1)
    store.get(id="nobody")


def a_tag_that_is_not_there(store: CheckpointStore) -> None:
    store.save(1)
    store.get("tag:champion")


def a_tagged_checkpoint_deleted(store: CheckpointStore) -> None:
    store.tag("champion", store.save(1))
    store.delete(1)


def a_tag_whose_checkpoint_is_gone(store: CheckpointStore) -> None:
    checkpoint = store.save(1)
    store.save(2)
    store.tag("champion", checkpoint)
    store.untag("champion")
    store.delete(checkpoint)
    store.save(3)
    refs.write(backend_of(store), "champion", refs.Target("checkpoint_000003", checkpoint.id))
    store.get("tag:champion")


def a_tag_that_names_no_checkpoint(store: CheckpointStore) -> None:
    store.save(1)
    refs.write(backend_of(store), "champion", refs.Target("nonsense", "id"))
    store.get("tag:champion")


def a_deleted_checkpoint_tagged(store: CheckpointStore) -> None:
    checkpoint = store.save(1)
    store.save(2)
    store.delete(checkpoint)
    store.tag("champion", checkpoint)


def a_deleted_checkpoint_read(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"x": 1})
    store.save(2)
    store.delete(checkpoint)
    checkpoint.state  # noqa: B018


def a_store_opened_as_a_checkpoint(store: CheckpointStore) -> None:
    store.save(1)
    Checkpoint.open(store.url)


def a_checkpoint_opened_as_a_store(store: CheckpointStore) -> None:
    checkpoint = store.save(1)
    try:
        CheckpointStore(checkpoint.url).latest()
    finally:
        assert checkpoint.check().ok, "nothing may be written there"


def nothing_opened_as_a_checkpoint(store: CheckpointStore) -> None:
    store.save(1)
    Checkpoint.open(f"{store.url}/nowhere")


def an_unknown_policy(store: CheckpointStore) -> None:
    store.save(1, policies={"a": {"w": 1}}).load(policy_ids=["b"])


def a_missing_directory_adopted(store: CheckpointStore) -> None:
    store.save(1)
    store.adopt("checkpoint_000007")


FAILURES: list[Callable[[CheckpointStore], None]] = [
    a_taken_step,
    a_second_delete,
    a_step_that_is_not_there,
    a_name_that_is_not_there,
    an_id_that_is_not_there,
    a_tag_that_is_not_there,
    a_tagged_checkpoint_deleted,
    a_tag_whose_checkpoint_is_gone,
    a_tag_that_names_no_checkpoint,
    a_deleted_checkpoint_tagged,
    a_deleted_checkpoint_read,
    a_store_opened_as_a_checkpoint,
    a_checkpoint_opened_as_a_store,
    nothing_opened_as_a_checkpoint,
    an_unknown_policy,
    a_missing_directory_adopted,
]


def say(fail: Callable[[CheckpointStore], None], url: str) -> tuple[type, str]:
    store = CheckpointStore(url)
    with pytest.raises(CheckpointError) as caught:
        fail(store)
    text = str(caught.value)
    assert caught.value.what.startswith(store.url), text
    print(text.replace(store.url, "URL"))
    return type(caught.value), text.replace(store.url, "URL")


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_a_failure_reads_the_same_on_a_disk_and_in_a_bucket(
    fail: Callable[[CheckpointStore], None], tmp_path: Path
) -> None:
    kind, text = say(fail, str(tmp_path / "run"))
    assert say(fail, f"memory://{uuid.uuid4().hex}/run") == (kind, text)
    assert "ry again later" not in text
    assert re.search(r"\. [A-Z`]", text), f"it says what to do: {text}"
    assert "..." not in text
