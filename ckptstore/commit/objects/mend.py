"""Put a good object in the place of a damaged one, on an object store."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ckptstore.backends.base import Sink
from ckptstore.commit import refs
from ckptstore.commit.failures import was_deleted
from ckptstore.commit.objects.register import Register
from ckptstore.commit.objects.states import State, sizes, state_of
from ckptstore.errors import CheckpointError, CheckpointGone
from ckptstore.format.names import MANIFEST, CheckpointName


def mend(
    register: Register,
    name: CheckpointName,
    path: str,
    write: Callable[[Sink], None],
    check: Callable[[], None],
) -> None:
    """One PUT, visible when it is whole. Whatever ends the directory meanwhile wins.

    A payload that is written into a directory that a delete has just ended is removed again, as a sweep
    would. A manifest that is there and damaged is overwritten: nothing but a replacement ends such a
    directory, so if the step has another one afterwards, this one goes as the replacement meant it to.
    """
    backend, key = register.backend, f"{name}/{path}"
    check()
    if path != MANIFEST:
        with backend.write(key) as sink:
            write(sink)
        try:
            check()
        except CheckpointGone:
            if state_of(sizes(register.directories(name.step).get(name, {}))) is State.DEAD:
                backend.delete([key])
            raise
        return
    buffer = io.BytesIO()
    write(buffer)  # type: ignore[arg-type]  # all that is asked of it is `write`
    data = buffer.getvalue()
    if not any(entry.key == key for entry in backend.starting(key)):
        if register.create(key, data) != data:
            raise was_deleted(backend, name)
        return
    backend.replace(key, data)
    try:
        check()
    except CheckpointGone:
        with suppress(OSError, CheckpointError):
            register.unpublish([name], partial(refs.check_unnamed, backend, name))
        raise
