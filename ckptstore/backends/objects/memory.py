"""``memory://``: fsspec's in-process store, with the create-only write it lacks. For tests and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fsspec.implementations.memory import MemoryFileSystem

from ckptstore.backends.base import Listed
from ckptstore.backends.objects.client import BytesLike, GetReply, Page, Unfinished
from ckptstore.backends.objects.http_status import Outcome
from ckptstore.work import Lock

_lock = Lock()  # fsspec keeps one store per process, so one lock makes creation exclusive


class MemoryClient:
    """One prefix of the process-wide memory store."""

    part_bytes = 2**20
    remove_batch = 1000
    secrets: Sequence[str] = ()

    def __init__(self, url: str) -> None:
        self.url = self.place = url.rstrip("/")
        name = self.url.removeprefix("memory://").strip("/")
        self.root = f"/{name}/" if name else "/"
        self._fs = MemoryFileSystem(skip_instance_cache=True)

    def classify(self, error: BaseException) -> Outcome:
        if isinstance(error, FileNotFoundError):
            return Outcome.ABSENT
        if isinstance(error, FileExistsError):
            return Outcome.EXISTS
        return Outcome.SHORT if isinstance(error, EOFError) else Outcome.FATAL

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        data = self._fs.store[key].getbuffer() if key in self._fs.store else None
        if data is None:
            raise FileNotFoundError(key)
        count = max(min(len(target), len(data) - start), 0)
        target[:count] = data[start : start + count]
        return GetReply(count, len(data))

    def put(self, key: str, data: BytesLike, create: bool, seconds: float) -> None:
        with _lock:
            if create and key in self._fs.store:
                raise FileExistsError(key)
            self._fs.pipe_file(key, bytes(data))

    def put_contents(self, key: str, data: BytesLike, seconds: float) -> None:
        self.put(key, data, False, seconds)

    def copy(self, source: str, key: str, size: int, seconds: float) -> None:
        with _lock:
            if source not in self._fs.store:
                raise FileNotFoundError(source)
            self._fs.pipe_file(key, self._fs.store[source].getvalue())

    def remove(self, keys: Sequence[str], seconds: float) -> Mapping[str, Exception]:
        with _lock:
            for key in keys:
                self._fs.store.pop(key, None)
        return {}

    def page(self, prefix: str, delimiter: str, token: str | None, seconds: float) -> Page:
        with _lock:
            found = sorted((key, file) for key, file in self._fs.store.items() if key.startswith(prefix))
        objects, prefixes = [], set()
        for key, file in found:
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                modified = file.modified.timestamp()
                objects.append(Listed(key, len(file.getbuffer()), modified))
        return Page(objects, sorted(prefixes), None)

    def upload(self, key: str, seconds: float) -> _MemoryUpload:
        return _MemoryUpload(self, key)

    def list_uploads(self, prefix: str, seconds: float) -> Sequence[Unfinished]:
        return ()

    def discard(self, upload: Unfinished, seconds: float) -> None:
        raise AssertionError("memory keeps no unfinished uploads")

    def describe(self) -> Mapping[str, str]:
        return {
            "place": "the memory of this process",
            "durability": "none: gone with the process, unseen by any other",
            "create-only writes": "yes, under a lock",
        }

    def close(self) -> None:
        pass


class _MemoryUpload:
    parallel = True

    def __init__(self, client: MemoryClient, key: str) -> None:
        self._client = client
        self._key = key
        self._parts: dict[int, bytes] = {}

    def part(self, number: int, offset: int, data: BytesLike, last: bool, seconds: float) -> None:
        self._parts[offset] = bytes(data)

    def complete(self, size: int, seconds: float) -> None:
        data = b"".join(self._parts[offset] for offset in sorted(self._parts))
        assert len(data) == size
        self._client.put(self._key, data, False, seconds)

    def abort(self, seconds: float) -> None:
        self._parts.clear()


class MemoryOpener:
    """Makes a :class:`MemoryClient`; a pickle of the backend holds this."""

    def __init__(self, url: str, options: object = None, timeout: float = 0, concurrency: int = 0) -> None:
        self.url = url.rstrip("/")
        self.lost = False

    def at(self, url: str) -> MemoryOpener:
        """What opens `url`."""
        return MemoryOpener(url)

    def __call__(self) -> MemoryClient:
        return MemoryClient(self.url)
