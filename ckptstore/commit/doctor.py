"""What a place promises: asked of the place itself with a few small files, and said in words."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ckptstore.backends.base import Backend, PlaceMissing
from ckptstore.backends.translate import translate_errors
from ckptstore.commit.failures import ignores_create_only
from ckptstore.commit.place import look_around
from ckptstore.errors import CheckpointError, StoreUnsuitable
from ckptstore.format import names, strictjson


class Check(NamedTuple):
    """One question put to the place, and how it answered."""

    name: str
    problem: CheckpointError | None
    """None if all is well."""


class Diagnosis(NamedTuple):
    """What `diagnose` found."""

    url: str
    checks: list[Check]
    promises: Mapping[str, str]
    """In words, by subject; only what was not found broken."""

    @property
    def problem(self) -> CheckpointError | None:
        """The first thing that is wrong, or None."""
        return next((check.problem for check in self.checks if check.problem is not None), None)


def diagnose(backend: Backend, single_writer: bool = False) -> Diagnosis:
    """Try, with small files below ``_ckptstore/probe/``, everything that a store relies on.

    Leaves nothing behind, and writes nothing into a checkpoint. Stops at the first failure that would make
    the rest meaningless. With `single_writer`, a place that overwrites what it should refuse is no problem:
    the promises then say what that costs.
    """
    key = f"{names.PROBE}/doctor-{uuid.uuid4().hex}.json"
    first, second = b'{"try": 1}', b'{"try": 2}'
    create_only, tried = True, dict[str, str]()
    if single_writer:
        backend = getattr(backend, "for_single_writer", lambda: backend)()

    def reach() -> None:
        try:
            backend.children()
        except PlaceMissing:
            raise
        except FileNotFoundError:
            pass  # a local directory that the first write will make

    def hold_no_checkpoint() -> None:
        try:
            backend.read(names.STORE, most=strictjson.MAX_SMALL_BYTES)
        except FileNotFoundError:
            look_around(backend)

    def write_and_read() -> None:
        tried.update(getattr(backend, "try_calls", lambda prefix: {})(names.PROBE))  # a local disk's
        backend.publish(key, first)
        if (found := backend.read(key)) != first:
            raise StoreUnsuitable(backend.url, f"it gives back {len(found)} other bytes than were written")

    def refuse_overwriting() -> None:
        nonlocal create_only
        try:
            backend.publish(key, second)
        except FileExistsError:
            if backend.read(key) == first:
                return
        create_only = False
        if not single_writer:
            raise ignores_create_only(backend)

    def list_at_once() -> None:
        if key not in {entry.key for entry in backend.list(names.PROBE)}:
            raise StoreUnsuitable(backend.url, "a listing does not show what was just written")

    def delete_for_good() -> None:
        backend.delete([key])
        if key in {entry.key for entry in backend.list(names.PROBE)}:
            raise StoreUnsuitable(backend.url, "a listing still shows what was just deleted")

    steps: dict[str, Callable[[], None]] = {
        "it answers": reach,
        "it is not itself a checkpoint": hold_no_checkpoint,
        "what is written can be read": write_and_read,
        "what exists is not overwritten": refuse_overwriting,
        "a listing shows what was just written": list_at_once,
        "what is deleted is gone": delete_for_good,
    }
    checks: list[Check] = []
    with _remove_made_directories(backend):
        for name, step in steps.items():
            try:
                with translate_errors(backend.url):
                    step()
                checks.append(Check(name, None))
            except CheckpointError as error:
                checks.append(Check(name, error))
                if not isinstance(error, StoreUnsuitable):
                    break
    return Diagnosis(backend.url, checks, {**_promises(backend, create_only, single_writer), **tried})


@contextmanager
def _remove_made_directories(backend: Backend) -> Iterator[None]:
    """Of the directories that a local disk needs for the files, remove those that the block has made."""
    path = os.path.join(getattr(backend, "root", ""), *names.PROBE.split("/"))
    made: list[str] = []
    while hasattr(backend, "root") and not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        yield
    finally:
        with suppress(OSError):  # it isn't empty: somebody uses it by now
            for path in made:
                os.rmdir(path)


def _promises(backend: Backend, create_only: bool, single_writer: bool) -> Mapping[str, str]:
    describe: Callable[[], Mapping[str, str]] | None = getattr(backend, "describe", None)
    promises = dict(describe()) if describe else {}
    if not create_only:
        promises["create-only writes"] = "ignored"
        promises["writers"] = (
            "one at a time, and that is up to you: two may both be told that they won one step. "
            "A torn or mixed checkpoint is still never taken for a whole one"
            if single_writer
            else "none: saving is refused"
        )
    return promises
