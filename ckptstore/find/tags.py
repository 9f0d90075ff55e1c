"""Move and follow tags and pins, and refuse to remove what they point at."""

from __future__ import annotations

from collections.abc import Mapping

from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.commit.identity import Identity, Standing
from ckptstore.errors import CheckpointGone, CheckpointNotFound, CheckpointProtected, UnreadableFormat
from ckptstore.find.survey import Survey
from ckptstore.find.targets import Target
from ckptstore.format import names
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import CheckpointName


class Tags:
    """The refs of one store. A pin is a ref too, named after the checkpoint's id."""

    def __init__(self, catalog: Catalog, identity: Identity, survey: Survey) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._identity = identity
        self._survey = survey

    def read(self) -> dict[str, refs.Target]:
        """Every ref that points somewhere, pins included."""
        standing = self._identity.look()
        if standing is Standing.NOTHING:
            return {}
        return refs.read_all(self._backend, lost=standing is Standing.LOST)

    def prove_store(self) -> None:
        """StoreNotFound where ``store.json`` is missing: nothing is changed there."""
        self._identity.prove()

    def follow(self, tag: str) -> tuple[CheckpointName, Manifest]:
        """The checkpoint that `tag` points at. CheckpointNotFound, or CheckpointGone if it was deleted."""
        where = f"{self._backend.url} tag {tag!r}"
        target = self.read().get(names.check_ref(tag))
        if target is None:
            raise CheckpointNotFound(where, "there is no such tag", "See `ckptstore tag`")
        if target.newer:
            raise UnreadableFormat(where, target.newer, "Upgrade ckptstore")
        name = refs.parse_name(target, where)
        manifest = self._survey.manifest_of(name)
        if manifest.id != target.id:
            raise CheckpointGone(where, "the checkpoint it points at was deleted")
        return name, manifest

    def point(self, ref: str, target: Target) -> None:
        """Point `ref` at a checkpoint. CheckpointGone, with `ref` where it was, if that was deleted."""
        self._identity.prove()
        number = None
        try:
            with translate_errors(self._backend.url), self._catalog.guard(target.name):
                self.check_same(target)
                number = refs.write(self._backend, ref, refs.Target(str(target.name), target.id))
        except CheckpointGone:
            if number is not None:
                self._point_back(ref, number)
            raise

    def clear(self, ref: str) -> None:
        """Point `ref` at nothing."""
        self._identity.prove()
        refs.write(self._backend, ref, None)

    def check_same(self, target: Target) -> Manifest:
        """Its manifest. CheckpointGone if the name is another's by now: a disk gives names away again."""
        manifest = self._survey.manifest_of(target.name, misnamed=True)
        if manifest.id != target.id:
            where = f"{self._backend.url}/{target.name}"
            raise CheckpointGone(where, "it was deleted, and its step saved anew")
        return manifest

    def check_removable(self, name: CheckpointName) -> None:
        """CheckpointProtected if a ref points at `name` now."""
        self.check_unprotected(name, refs.read_all(self._backend))

    def check_unprotected(self, name: CheckpointName, protecting: Mapping[str, refs.Target]) -> None:
        """CheckpointProtected if one of the refs `protecting` points at `name`."""
        if found := refs.refs_to(protecting, str(name)):
            where = f"{self._backend.url}/{name}"
            raise CheckpointProtected(
                where, f"{', '.join(found)} points at it", "Use untag() or unpin() first"
            )

    def _point_back(self, ref: str, number: int) -> None:
        """Undo our move of `ref`, unless somebody has moved it on; to nothing if what it left is gone."""
        before = refs.read_at(self._backend, ref, number - 1)
        if before is not None:
            try:
                name = refs.parse_name(before, f"{self._backend.url} tag {ref!r}")
                with translate_errors(self._backend.url), self._catalog.guard(name):
                    if not refs.write_next(self._backend, ref, number, before):
                        return
                    number += 1
            except CheckpointGone:
                pass
            else:
                return
        refs.write_next(self._backend, ref, number, None)
