"""Name the checkpoints that share a damaged file: by a link, or by its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ckptstore.backends.base import Backend
from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.errors import CheckpointError
from ckptstore.find.survey import Survey, readable
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import PARTS, CheckpointName
from ckptstore.read.report import VerifyReport
from ckptstore.work import Progress


def check_all(
    survey: Survey, find_dangling: Callable[[], dict[str, tuple[str, ...]]], progress: Progress | None
) -> list[VerifyReport]:
    """A report for each checkpoint of the store, and for what should be one and isn't, in order of names.

    `find_dangling` tells, by name of a directory, what is wrong with the refs that point there.
    """
    found = survey.list_committed()
    dangling = find_dangling()
    reports = [_report_skipped(survey, skip, dangling.pop(skip.name, ())) for skip in found.skipped]
    reports += [VerifyReport(f"{survey.url}/{name}", 0, 0, problems) for name, problems in dangling.items()]
    reports += [
        VerifyReport(f"{survey.url}/{name}", 0, 0, notes=(why,)) for name, why in found.unfinished.items()
    ]
    reports += [checkpoint.check(progress=progress) for checkpoint in found.checkpoints]
    return _with_sharers(survey, reports)


def check_chosen(
    survey: Survey, chosen: Iterable[Checkpoint], progress: Progress | None
) -> list[VerifyReport]:
    """A report for each of these checkpoints of the store, in order of names."""
    return _with_sharers(survey, [checkpoint.check(progress=progress) for checkpoint in chosen])


def _with_sharers(survey: Survey, reports: list[VerifyReport]) -> list[VerifyReport]:
    if any(report.damaged for report in reports):
        manifests = readable(survey.manifests().items())
        reports = [name_sharers(report, survey.backend, manifests) for report in reports]
    return sorted(reports, key=lambda report: report.name)


def _report_skipped(survey: Survey, skip: Skipped, dangling: tuple[str, ...]) -> VerifyReport:
    """All that is wrong with it, not only what was noticed first. Of a later release nothing is read."""
    url, name = f"{survey.url}/{skip.name}", CheckpointName.parse(skip.name)
    if skip.newer or name is None:
        return VerifyReport(url, 0, 0, notes=(skip.reason,))
    try:
        manifest = survey.fetch(name)
    except CheckpointError:
        manifest = None
    report = VerifyReport(url, 0, 0) if manifest is None else survey.checkpoint(name, manifest).check()
    problems = (*(report.problems or (skip.reason,)), *dangling)
    return replace(report, problems=problems, untrusted=skip.untrusted and not dangling)


def file_id(backend: Backend, key: str) -> object:
    """What names of one file have in common, where a file can have several; None where it can't be told."""
    find: Callable[[str], object] | None = getattr(backend, "file_id", None)
    try:
        return find(key) if find is not None else None
    except OSError:
        return None


def find_sharers(
    backend: Backend,
    name: CheckpointName,
    path: str,
    digest: str,
    manifests: Mapping[CheckpointName, Manifest],
) -> Iterator[tuple[CheckpointName, bool]]:
    """Other checkpoints with a file of the `digest` of `name`'s file `path`; whether it is the very same."""
    mine = file_id(backend, f"{name}/{path}")
    for other, manifest in manifests.items():
        for file in manifest.files:
            if other != name and file.digest == digest:
                yield other, mine is not None and mine == file_id(backend, f"{other}/{file.path}")


def name_sharers(
    report: VerifyReport, backend: Backend, manifests: Mapping[CheckpointName, Manifest]
) -> VerifyReport:
    """`report` with the sharers of what is damaged, among all `manifests`."""
    name = CheckpointName.parse(report.name.rpartition("/")[2])
    if name is None or name not in manifests or not report.damaged:
        return report
    digests = {file.path: file.digest for file in manifests[name].files}
    sharers: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for path in report.damaged:
        if path == PARTS:
            continue
        linked, equal = list[str](), list[str]()
        for other, same in find_sharers(backend, name, path, digests[path], manifests):
            (linked if same else equal).append(str(other))
        if linked:
            notes.append(f"{path}: the very file is shared by {_join(linked)}")
        if equal:
            notes.append(f"{path}: the same bytes should lie in {_join(equal)}")
        if linked or equal:
            sharers[path] = tuple(dict.fromkeys(linked + equal))
    return replace(report, problems=(*report.problems, *notes), sharers=sharers)


def _join(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    shown = ", ".join(unique[:10])
    return shown + (f" and {len(unique) - 10} more" if len(unique) > 10 else "")
