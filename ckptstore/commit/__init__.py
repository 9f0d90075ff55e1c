"""How a checkpoint comes to exist, and how it goes (``docs/protocol.md``)."""

from __future__ import annotations

from typing import cast

from ckptstore.backends.base import Backend, ObjectPlace
from ckptstore.commit.base import Catalog
from ckptstore.format.names import CheckpointName


def is_checkpoint_name(name: str) -> bool:
    """Whether a store's directory of that name may hold a checkpoint."""
    return CheckpointName.parse(name) is not None


def open_catalog(backend: Backend, single_writer: bool = False) -> Catalog:
    """The catalog of the store on `backend`: directories and renames on a local disk, else registers.

    Makes no request. Places are asked whether they can keep the promises on the first write;
    `single_writer` skips that question: the caller answers for it that nobody else writes there.
    """
    from ckptstore.backends.local.backend import LocalBackend

    if isinstance(backend, LocalBackend):
        from ckptstore.commit.local.catalog import DirectoryCatalog

        backend.linked = is_checkpoint_name
        return DirectoryCatalog(backend.for_single_writer() if single_writer else backend)
    from ckptstore.commit.objects.catalog import RegisterCatalog

    return RegisterCatalog(cast(ObjectPlace, backend), single_writer=single_writer)
