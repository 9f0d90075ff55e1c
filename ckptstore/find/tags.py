"""Move and follow tags and pins, and refuse to remove what they point at."""

from __future__ import annotations

from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.commit.identity import Identity, Standing
from ckptstore.errors import CheckpointCorrupt, CheckpointGone, CheckpointNotFound, UnreadableFormat
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
        manifest = self._survey.fetch(name)
        if manifest is None:
            why = f"{name}, which it points at, has no manifest"
            raise CheckpointNotFound(where, why, "Find out more with `ckptstore verify`, or move the tag")
        if manifest.id != target.id:
            raise CheckpointGone(where, "the checkpoint it points at was deleted")
        return name, manifest

    def point(self, ref: str, target: Target) -> int:
        """Point `ref` at a checkpoint; the move's number.

        CheckpointGone, with `ref` where it was, if that was deleted.
        """
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
        return number

    def clear(self, ref: str) -> None:
        """Point `ref` at nothing."""
        self._identity.prove()
        refs.write(self._backend, ref, None)

    def pins_of(self, name: str) -> list[str]:
        """The pins that point at the directory `name`, committed or not."""
        return [
            ref for ref, target in self.read().items() if ref.startswith(names.PIN) and target.name == name
        ]

    def pins_on(self, target: Target) -> list[str]:
        """The pins that are of this save: its own, and those of rollbacks to it."""
        return [
            ref
            for ref, found in self.read().items()
            if ref == names.PIN + target.id or (ref.startswith(names.HOLD) and found.id == target.id)
        ]

    def check_same(self, target: Target) -> Manifest:
        """Its manifest. CheckpointGone if the name is another's by now: a disk gives names away again."""
        manifest = self._survey.manifest_of(target.name, misnamed=True)
        if manifest.id != target.id:
            where = f"{self._backend.url}/{target.name}"
            raise CheckpointGone(where, "it was deleted, and its step saved anew")
        return manifest

    def find_dangling(self) -> dict[str, tuple[str, ...]]:
        """By name of a directory: what is wrong with the refs that point at it, where no such save is."""
        found: dict[str, tuple[str, ...]] = {}
        for ref, target in self.read().items():
            problem = self._why_dangling(target)
            if problem and self.read().get(ref) != target:
                continue  # it was moved, and what it pointed at deleted
            if problem:
                by = refs.refs_to({ref: target}, target.name)[0]
                found[target.name] = (*found.get(target.name, ()), f"{by} points at it, {problem}")
        return found

    def _why_dangling(self, target: refs.Target) -> str | None:
        name = CheckpointName.parse(target.name)
        if name is None:
            return "which is not a checkpoint name"
        try:
            manifest = self._survey.fetch(name, misnamed=True)
        except (CheckpointCorrupt, UnreadableFormat):
            return None  # that it is damaged, or a later release's, is said by others
        if manifest is None:
            return "and it has no manifest"
        return None if manifest.id == target.id else "or rather at one that had that name and was deleted"

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
