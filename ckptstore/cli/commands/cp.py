"""Commands that copy: get (to a plain directory), cp (to a store) and export (to one file)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli import describe
from ckptstore.cli import many as bulk
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import Target, find, find_checkpoint
from ckptstore.cli.text import plural, size, storage_options
from ckptstore.errors import InvalidRequest, StoreNotFound
from ckptstore.export.formats import FORMATS
from ckptstore.work import Progress


def destination_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--to-storage-option``, for commands that write to a store elsewhere."""
    return click.option(
        "--to-storage-option",
        metavar="KEY=VALUE",
        multiple=True,
        help="For the destination, instead of --storage-option. Repeatable.",
    )(function)


@command("get")
@click.argument("target", metavar="CHECKPOINT")
@click.argument("directory", metavar="DIR")
@click.option(
    "--policy", "policy_ids", metavar="ID", multiple=True, help="Only this policy, not all. Repeatable."
)
def get(session: Session, target: str, directory: str, policy_ids: tuple[str, ...]) -> None:
    """Copy a checkpoint into a plain directory.

    DIR must be new or empty. Every byte is verified on the way.
    """
    checkpoint = find_checkpoint(session, target).checkpoint
    assert checkpoint is not None
    total = None if policy_ids else sum(describe.files(checkpoint).values())
    copied = 0
    with session.progress("copying", total) as progress:

        def count(done: int) -> None:
            nonlocal copied
            copied += done
            if progress is not None:
                progress(done)

        path = checkpoint.download(directory, policy_ids=policy_ids or None, progress=count)
    session.show(
        {
            "checkpoint": checkpoint.url,
            "directory": path,
            "policies": list(policy_ids or checkpoint.policy_ids),
            "bytes": copied,
        },
        f"{checkpoint.name} -> {path}, {size(copied)}",
    )


@command("cp")
@click.argument("source", metavar="STORE|CHECKPOINT|URL/**")
@click.argument("destination", metavar="STORE")
@click.option("--step", type=int, metavar="N", help="Commit an RLlib checkpoint as this step, not its own.")
@destination_option
@bulk.option
def cp(
    session: Session,
    source: str,
    destination: str,
    step: int | None,
    to_storage_option: tuple[str, ...],
    workers: int,
) -> None:
    """Copy a store or a checkpoint into a store.

    The destination is made if it isn't there. Copies are verified on the way and keep their ids; tags
    come along. What the destination already has is left alone, so the same command takes up a copy cut
    short. A checkpoint that RLlib wrote becomes a committed one, its files byte for byte as they were.
    """
    if (url := bulk.below(source)) is not None:
        if step is not None:
            raise InvalidRequest("--step", "it is for one checkpoint", "Leave it out")
        mirror = bulk.mirror(session, url, destination, destination_options(session, to_storage_option))
        bulk.each(session, url, workers, lambda item: bulk.done(mirror.copy(item)), ["copy"])
    found = find(session, source)
    target = destination_store(session, destination, to_storage_option)
    if step is not None and (found.checkpoint is None or found.checkpoint.committed):
        raise InvalidRequest("--step", "a committed checkpoint keeps its step", "Leave it out")
    total = sum(sum(describe.files(item).values()) for item in _choose(found))
    with session.progress("copying", total) as progress:
        copied = _copy(found, target, step, progress)
    tags = target.tags()
    session.show(
        {"store": target.url, "copied": [describe.summary(item, tags) for item in copied]},
        *(f"{item.name}  {size(sum(describe.files(item).values()))}" for item in copied),
        f"{plural(len(copied), 'checkpoint')} copied to {target.url}",
    )


def _choose(found: Target) -> list[Checkpoint]:
    if found.checkpoint is not None:
        return [found.checkpoint]
    return found.store.checkpoints() if found.store is not None else []


def _copy(
    found: Target, target: CheckpointStore, step: int | None, progress: Progress | None
) -> list[Checkpoint]:
    if found.store is not None:
        which = None if found.checkpoint is None else [found.checkpoint]
        return found.store.copy_to(target, which, progress=progress)
    checkpoint = found.checkpoint
    assert checkpoint is not None
    if checkpoint.committed:
        return _add(checkpoint, target, progress)
    if step is None and checkpoint.step < 0:
        raise InvalidRequest(checkpoint.url, "its files don't tell its step", "Give it one: --step N")
    return [_import(checkpoint, target, checkpoint.step if step is None else step, progress)]


def _add(checkpoint: Checkpoint, target: CheckpointStore, progress: Progress | None) -> list[Checkpoint]:
    """A copy that lies outside any store, back into one."""
    if any(item.id == checkpoint.id for item in target.checkpoints()):
        return []
    return [target.add(checkpoint, progress=progress)]


def _import(
    checkpoint: Checkpoint, target: CheckpointStore, step: int, progress: Progress | None
) -> Checkpoint:
    with target.stage(step, metrics=checkpoint.metrics) as staged:
        checkpoint.download(os.fspath(staged), progress=progress)
    assert staged.checkpoint is not None
    return staged.checkpoint


def destination_store(session: Session, url: str, options: tuple[str, ...]) -> CheckpointStore:
    """The store at `url`, made if nothing at all lies there.

    A name slipped in by mistake must not turn a home directory into a store.
    """
    there = Session(session.as_json, destination_options(session, options), session.trusted_keys)
    store = there.store(url)
    try:
        store.id  # noqa: B018  # reading it proves that there is a store
    except StoreNotFound as error:
        if _is_occupied(open_backend(url, there.options)):
            raise InvalidRequest(
                url,
                "it is no store, and it isn't empty",
                "Name a store or a new place; `ckptstore get` copies a checkpoint into a plain directory",
            ) from error
        store = there.store(url, create=True)
    return store


def destination_options(session: Session, options: tuple[str, ...]) -> Mapping[str, Any]:
    """What the client of the destination is given."""
    return storage_options(options, "--to-storage-option") or session.options


def _is_occupied(place: Backend) -> bool:
    with translate_errors(place.url):
        try:
            return bool(place.children(""))
        except FileNotFoundError:
            return False


@command("export")
@click.argument("target", metavar="CHECKPOINT")
@click.argument("destination", metavar="FILE")
@click.option("--policy", "policy_id", metavar="ID", help="Which one; may be left out if there is one only.")
@click.option(
    "--format", "kind", type=click.Choice(list(FORMATS)), help="By default what FILE's name ends in."
)
def export(session: Session, target: str, destination: str, policy_id: str | None, kind: str | None) -> None:
    """Write one policy to a file that other tools read or run.

    FILE is a path or URL and must be new. npz is for numpy, safetensors for most frameworks, json for
    anything else: they hold its weights. onnx and torchscript hold the network, if it is one of RLlib's own,
    and are run and compared with the weights first.
    """
    checkpoint = find_checkpoint(session, target).checkpoint
    assert checkpoint is not None
    done = checkpoint.export(destination, policy_id, format=kind, storage_options=session.options)
    session.show(
        {
            "checkpoint": checkpoint.url,
            "policy": done.policy_id,
            "format": done.format,
            "file": done.path,
            "bytes": done.bytes,
            "difference": done.difference,
        },
        f"{checkpoint.name} policy {done.policy_id} -> {done.path}, {size(done.bytes)}"
        + ("" if done.difference is None else f", within {done.difference:.1g} of the weights in a trial"),
    )


COMMANDS = (get, cp, export)
