"""Repair: examine checkpoints, find good copies of what is damaged, and put them in its place.

Nothing is written before every byte of it was found good, and nothing is reported mended before it was
read back. The payload comes first and the manifest last, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ckptstore.backends.base import Backend, Sink
from ckptstore.backends.translate import translate_errors
from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.commit.failures import url_of, was_deleted
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointGone,
    InvalidRequest,
    UnreadableFormat,
)
from ckptstore.find.lost import may_be_lost
from ckptstore.find.sharing import file_id, find_sharers
from ckptstore.find.survey import Survey, readable
from ckptstore.format.manifest import Check, Manifest
from ckptstore.format.manifest import load as load_manifest
from ckptstore.format.markers import derive_marker
from ckptstore.format.names import CLAIM, MANIFEST, PARTS, RETIRED, SMALL_STATE_BYTES, CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.format.strictjson import loads
from ckptstore.logs import logger
from ckptstore.read.spot_checks import find_damage
from ckptstore.repair.report import RepairReport
from ckptstore.repair.sources import (
    Copy,
    Pieces,
    Source,
    find_copies,
    find_pieces,
    find_table,
    load_table,
    read_bytes,
    read_table,
)
from ckptstore.work import Progress, run_all

Write = Callable[[Sink], None]


class Repair:
    """One run of `repair` over a store."""

    def __init__(
        self,
        catalog: Catalog,
        survey: Survey,
        mirrors: Sequence[Source],
        trust: Check | None,
        concurrency: int,
        progress: Progress | None = None,
    ) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._survey = survey
        self._mirrors = mirrors
        self._trust = trust
        self._concurrency = concurrency
        self._progress = progress
        self._healed: dict[tuple[str, object], str] = {}  # digest and old file to the key that is good now

    def run(
        self,
        chosen: Iterable[CheckpointName] | None,
        dry_run: bool,
        dangling: Mapping[str, tuple[str, ...]],
    ) -> list[RepairReport]:
        """A report for every damaged checkpoint, of those `chosen` and of what shares a file with them.

        `dangling` tells, by name of a directory, what is wrong with the refs that point there: it can't be
        mended here where nothing is in that directory.
        """
        chosen = None if chosen is None else list(chosen)
        manifests = self._survey.manifests()
        with translate_errors(self._backend.url):
            self._scan = self._catalog.scan()
            self._refs = refs.read_all(self._backend)
        without = [name for name, files in self._scan.items() if may_be_lost(files)]
        self._losses = self._survey.find_losses(without)
        self._whole = readable(manifests.items())
        self._sources = [*_sources(self._backend, self._whole), *self._mirrors]
        waiting = sorted(self._scan if chosen is None else set(chosen))
        seen = set(waiting)
        patients: list[_Patient] = []
        for name in waiting:  # grows
            patient = _Patient(name, url_of(self._backend, name))
            if self._examine(patient, manifests.get(name)):
                if chosen is not None:
                    more = sorted(self._find_sharers(patient) - seen)
                    waiting += more
                    seen |= set(more)
                patients.append(patient)
        if not dry_run:
            for patient in patients:
                self._mend(patient)
        reports = [
            RepairReport(patient.url, patient.told, patient.lost, patient.notes) for patient in patients
        ]
        reported = {str(patient.name) for patient in patients}
        for pointed, problems in dangling.items():
            if pointed not in reported and (chosen is None or CheckpointName.parse(pointed) in chosen):
                url = f"{self._backend.url.rstrip('/')}/{pointed}"
                reports.append(RepairReport(url, {}, {MANIFEST: self._describe_dangling(pointed, problems)}))
        return sorted(reports, key=lambda report: report.name)

    # ---- Looking

    def _describe_dangling(self, pointed: str, problems: tuple[str, ...]) -> str:
        ids = {target.id for target in self._refs.values() if target.name == pointed}
        copies = [source.url for source in self._mirrors if source.manifest.id in ids]
        remedy = f"; `ckptstore cp {copies[0]} {self._backend.url}` brings a copy back" if copies else ""
        return "; ".join(problems) + remedy

    def _examine(self, patient: _Patient, found: Manifest | Skipped | None) -> bool:
        """Whether anything is damaged; then what can be done about it."""
        name = patient.name
        if isinstance(found, Skipped) and found.newer:
            return False  # nothing is wrong with it that this release could tell
        files = self._scan.get(name, {})
        patient.raw = read_bytes(self._backend, f"{name}/{MANIFEST}")
        if isinstance(found, Manifest):
            patient.source = Source(self._backend, str(name), found, patient.url)
        elif not self._is_lost(name, files, found):
            return False
        else:
            self._find_manifest(patient, "it is missing" if found is None else found.reason)
        if patient.source is not None:
            self._find_table(patient)
        if patient.table is not None and patient.source is not None:
            self._find_files(patient, files)
        if MANIFEST in patient.writes and patient.lost:
            del patient.writes[MANIFEST], patient.told[MANIFEST]
            patient.lost[MANIFEST] = "other files of it can't be mended"
        if found is None and patient.lost and patient.source is None and not self._is_certain(name):
            # With nothing that tells it from a save in flight, `verify` calls it no damage either.
            patient.writes, patient.told, patient.lost = {}, {}, {}
            patient.notes = tuple(loss.why for loss in [self._losses.get(name)] if loss is not None)
        return bool(patient.writes or patient.lost or patient.notes)

    def _is_certain(self, name: CheckpointName) -> bool:
        loss = self._losses.get(name)
        return loss is not None and loss.certain

    def _is_lost(self, name: CheckpointName, files: Mapping[str, int], found: Skipped | None) -> bool:
        """Whether a directory without a manifest that can be read seems to have had one."""
        if found is not None:
            return True
        if MANIFEST in files or RETIRED in files:
            return False  # a seal or a tombstone: it was given up, or deleted
        mirrored = any(source.manifest.step == name.step for source in self._mirrors)
        return PARTS in files or (mirrored and bool(files))

    def _find_manifest(self, patient: _Patient, why: str) -> None:
        name = patient.name
        if taken := self._other_attempt(name):
            patient.lost[MANIFEST] = f"{taken} holds its step by now"
            return
        if patient.raw is not None and _load(patient.raw, patient.url, None) is not None:
            patient.lost[MANIFEST] = why
            return
        for mirror in self._mirrors:
            data = read_bytes(mirror.backend, Copy(mirror, MANIFEST).key)
            manifest = None if data is None else _load(data, mirror.url, self._trust)
            if data is None or manifest is None or manifest.step != name.step:
                continue
            source = Source(self._backend, str(name), manifest, patient.url)
            if self._is_same(patient, source, mirror):
                patient.source = source
                patient.plan(MANIFEST, f"{mirror.url}/{MANIFEST}", partial(_write_bytes, data), data)
                return
        patient.lost[MANIFEST] = f"{why}; no mirror has it"

    def _other_attempt(self, name: CheckpointName) -> CheckpointName | None:
        """Another directory that is committed at the same step now."""
        with translate_errors(self._backend.url):
            listed = self._catalog.names()
        for other in listed:
            if other.step == name.step and other != name:
                data = read_bytes(self._backend, f"{other}/{MANIFEST}")
                if data is not None and len(data) > SMALL_STATE_BYTES:
                    return other
        return None

    def _is_same(self, patient: _Patient, source: Source, mirror: Source) -> bool:
        """Whether the mirror's manifest is the one that was lost: by its id, or by all that lies here."""
        name, manifest = patient.name, source.manifest
        pointed = {target.id for target in self._refs.values() if target.name == str(name)}
        if pointed:
            return pointed == {manifest.id}
        if patient.raw and f'"id":"{manifest.id}"'.encode() in patient.raw:
            return True
        claim = read_bytes(self._backend, f"{name}/{CLAIM}", most=SMALL_STATE_BYTES)
        if claim and _attempt_of(claim) == manifest.id:
            return True
        if read_table(source) is not None:
            return True  # the same digests, of every part
        table = read_table(mirror)
        return table is not None and all(
            find_damage(self._backend, f"{name}/{path}", file) is None for path, file in table[1].items()
        )

    def _find_table(self, patient: _Patient) -> None:
        assert patient.source is not None
        try:
            own = read_table(patient.source)
            if own is not None:
                patient.table = own[1]
                return
            others = (source for source in self._sources if source.url != patient.url)
            found = find_table(patient.source, others)
            if found is not None:
                patient.table = load_table(found[0], patient.source)
                patient.plan(PARTS, found[1], partial(_write_bytes, found[0]), found[0])
                return
        except (CheckpointCorrupt, UnreadableFormat) as error:
            patient.lost[PARTS] = error.why
            return
        patient.lost[PARTS] = "it is damaged, and no good copy of it was found"

    def _find_files(self, patient: _Patient, files: Mapping[str, int]) -> None:
        source = patient.source
        assert source is not None
        assert patient.table is not None
        table = patient.table

        def look(path: str) -> str | None:
            if path not in files:
                return "it is missing"
            if files[path] != table[path].size:
                return f"it has {files[path]} bytes, not {table[path].size}"
            why = find_damage(self._backend, f"{patient.name}/{path}", table[path])
            if self._progress is not None:
                self._progress(table[path].size)
            return why

        paths = list(table)
        for file, why in zip(paths, run_all(look, paths, self._concurrency), strict=True):
            if why is None:
                continue
            marker = derive_marker(source.manifest, file)
            if marker is not None:
                patient.plan(file, "its manifest, which tells it", partial(_write_bytes, marker), None)
                continue
            known = next(item for item in source.manifest.files if item.path == file)
            # Its own good parts first; a source of this very place may be among the others once more.
            pieces = find_pieces(table[file], [Copy(source, file), *find_copies(known, self._sources)])
            if pieces is None:
                patient.lost[file] = f"{why}; no good copy of it was found"
                continue
            told = pieces.told or "nothing: it is empty"
            patient.plan(file, told, partial(_write_pieces, pieces), None)

    def _find_sharers(self, patient: _Patient) -> set[CheckpointName]:
        """The checkpoints with a link to a damaged file."""
        found: set[CheckpointName] = set()
        for path in patient.writes.keys() | patient.lost.keys():
            file = patient.table.get(path) if patient.table is not None else None
            if file is None:
                continue
            sharers = find_sharers(self._backend, patient.name, path, file.digest, self._whole)
            found |= {name for name, linked in sharers if linked}
        return found

    # ---- Mending

    def _mend(self, patient: _Patient) -> None:
        last = [path for path in (PARTS, MANIFEST) if path in patient.writes]
        for path in [*(path for path in patient.writes if path not in last), *last]:
            if path == MANIFEST and patient.lost:
                patient.fail(path, "other files of it can't be mended")
                continue
            try:
                self._put(patient, path)
            except CheckpointGone:
                patient.fail(path, "the checkpoint was deleted or replaced meanwhile")
            except (CheckpointCorrupt, InvalidRequest) as error:  # the latter: a directory is in its place
                patient.fail(path, error.why)
            else:
                logger.info("mended %s/%s from %s", patient.url, path, patient.told[path])

    def _put(self, patient: _Patient, path: str) -> None:
        key = f"{patient.name}/{path}"
        file = patient.table.get(path) if patient.table is not None else None
        old = None if file is None else (file.digest, file_id(self._backend, key))
        twin = self._healed.get(old) if old is not None and old[1] is not None else None
        with translate_errors(f"{self._backend.url}/{key}"):
            self._catalog.mend(patient.name, path, patient.writes[path], partial(self._check, patient), twin)
        if file is not None:
            wrong = find_damage(self._backend, key, file)
        else:
            wrong = None if read_bytes(self._backend, key) == patient.bytes[path] else "it reads otherwise"
        if wrong is not None:
            raise CheckpointCorrupt(f"{self._backend.url}/{key}", f"written anew, {wrong}")
        if old is not None and old[1] is not None:
            self._healed[old] = key

    def _check(self, patient: _Patient) -> None:
        """CheckpointGone unless the directory is still the one that was examined, and may be mended."""
        now = read_bytes(self._backend, f"{patient.name}/{MANIFEST}")
        if now != patient.raw and now != patient.bytes.get(MANIFEST, patient.raw):
            raise was_deleted(self._backend, patient.name)
        if MANIFEST in patient.writes and self._other_attempt(patient.name) is not None:
            raise was_deleted(self._backend, patient.name)


def sources_of(survey: Survey) -> list[Source]:
    """Every committed checkpoint of a store whose manifest can be read."""
    return _sources(survey.backend, readable(survey.manifests().items()))


def source_of(mirror: Checkpoint) -> Source:
    """A single checkpoint. InvalidRequest for one without a manifest: nothing vouches for it."""
    files = mirror.manifest_files()
    if files is None:
        raise InvalidRequest(repr(mirror), "it has no manifest", "Pass a store, or a committed checkpoint")
    return Source(files.backend, files.prefix, files.manifest, files.label)


def _sources(backend: Backend, manifests: Mapping[CheckpointName, Manifest]) -> list[Source]:
    return [
        Source(backend, str(name), manifest, url_of(backend, name)) for name, manifest in manifests.items()
    ]


class _Patient:
    """A damaged checkpoint, and what is to be written."""

    def __init__(self, name: CheckpointName, url: str) -> None:
        self.name = name
        self.url = url
        self.raw: bytes | None = None
        self.source: Source | None = None
        self.table: Mapping[str, FileParts] | None = None
        self.writes: dict[str, Write] = {}
        self.bytes: dict[str, bytes] = {}
        self.told: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()

    def plan(self, path: str, told: str, write: Write, data: bytes | None) -> None:
        """Have `path` written by `write`; `data` is what it will hold, where it is small."""
        self.writes[path], self.told[path] = write, told
        if data is not None:
            self.bytes[path] = data

    def fail(self, path: str, why: str) -> None:
        """It can't be mended after all."""
        self.told.pop(path, None)
        self.lost[path] = why


def _write_bytes(data: bytes, sink: Sink) -> None:
    sink.write(data)


def _write_pieces(pieces: Pieces, sink: Sink) -> None:
    pieces.write(sink.write)


def _load(data: bytes, url: str, trust: Check | None) -> Manifest | None:
    try:
        return load_manifest(data, url, trust)
    except CheckpointError:
        return None


def _attempt_of(claim: bytes) -> Any:
    try:
        return loads(claim, CLAIM).get("attempt")
    except CheckpointCorrupt:
        return None
