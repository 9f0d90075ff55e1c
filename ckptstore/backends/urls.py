"""What a path or URL means, and what of it may be shown. Each text about a place goes through here.

A spelling is understood, or refused with the right one: none becomes a local directory of that name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from ckptstore.errors import InvalidRequest

_USERS = frozenset({"sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"})
_CONTAINERS = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})
"""Where what stands before the ``@`` is the name of a user or a container: needed, and no secret."""
_NAME = re.compile(r"[A-Za-z0-9_.+;-]{1,64}")
_SETTING = re.compile(
    r"(?:[?#&;]|%3f|%23|%26|%3b)(?=[^/]*(?:sig|token|delegat|secret|passw|pwd|credential|key|auth|user)[^/]*=)",
    re.IGNORECASE,
)
"""Where parameters begin that hold a secret, also if their ``?`` was written otherwise."""
_LOCAL = frozenset({"file", "local"})
_BUCKETS = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "r2", "b2", "minio", "oss", "cos", "oci", "swift", "adl", "hf"}
    | {"http", "https", "dbfs", "webdav", "gdrive", "wandb", *_USERS, *_CONTAINERS}
)
_OTHERS = frozenset(
    {"memory", "box", "dropbox", "dvc", "lakefs", "github", "gist", "git", "jlab", "jupyter", "ocilake"}
    | {"root", "tos", "tosfs", "arrow_hdfs", "dask", "libarchive", "tar", "zip"}
    | {"blockcache", "filecache", "simplecache"}
)
_KNOWN = _LOCAL | _BUCKETS | _OTHERS
"""Schemes that mean a place elsewhere also where their ``://`` was mangled: fsspec's, and their cousins."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_WINDOWS = re.compile(r"/?[A-Za-z]:(?:[/\\]|\Z)|\\\\[^\\]")
_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_SPEAKS_S3 = {
    "r2": "https://<account>.r2.cloudflarestorage.com",
    "b2": "https://s3.<region>.backblazeb2.com",
    "minio": "http://<host>:9000",
    "cos": "https://cos.<region>.myqcloud.com",
}
"""Endpoints of stores that speak S3 and that fsspec has no scheme for."""
_PASS = "Pass for example 'runs/ppo', or '.' for this directory"


class Place(NamedTuple):
    """Where a URL leads. `text` is a path on the local disk where `scheme` is empty, else the whole URL."""

    scheme: str
    text: str


def parse_url(url: object) -> Place:
    """The place that `url` names: a path, ``~/path``, ``file://`` or a URL of any other scheme.

    A ``file://`` URL is read as `pathlib.Path.as_uri` writes it, so ``%20`` is a space. Raises InvalidRequest
    for what names no place, holds credentials, or is a URL that something made a path of.
    """
    if not isinstance(url, (str, os.PathLike)) or not isinstance(text := os.fspath(url), str):
        why = f"it is of type {type(url).__name__}, not a path or URL"
        raise InvalidRequest(f"url {url!r:.80}", why, "Pass for example 'runs/ppo'. Is a variable unset?")
    if not text.strip() or text.endswith("://") or "\0" in text:
        why = "it holds a NUL" if "\0" in text else "it names no place"
        raise InvalidRequest(f"url {show_url(text)!r:.80}", why, _PASS)
    head, separator, rest = text.partition("://")
    if not separator:
        return _parse_path(text)
    if text != text.strip():
        refuse_secrets(text.strip())
        _refuse(text, "it begins or ends with a space or a line break", repr(show_url(text.strip())))
    if "::" not in head and not _SCHEME.fullmatch(head):
        _refuse_lost(text)
    scheme = head if "::" in head else head.lower()
    text = f"{scheme}://{rest}"
    refuse_secrets(text)
    if scheme in _LOCAL:
        return Place("", _parse_file_url(text, rest))
    if scheme in _SPEAKS_S3:
        why = f"{scheme}:// is no scheme of fsspec: that store speaks S3's protocol"
        options = f"storage_options={{'endpoint_url': '{_SPEAKS_S3[scheme]}'}}"
        raise InvalidRequest(show_url(text), why, f"Write {show_url(f's3://{rest}')} with {options}")
    return Place(scheme, text)


def check_url(url: object) -> str:
    """`url` as a text that means the same place wherever it is parsed again; see `parse_url`."""
    place = parse_url(url)
    odd = not place.scheme and _find_lost(place.text)
    return to_file_url(place.text) if odd else place.text


def local_path(path: object) -> str:
    """The path of the local directory `path`, as `parse_url` reads it. InvalidRequest if it is elsewhere."""
    place = parse_url(path)
    if place.scheme:
        _refuse(
            place.text, "it isn't on the local disk, and a local directory is needed", "for example 'copy'"
        )
    return place.text


def to_file_url(path: str) -> str:
    """The ``file://`` URL of an absolute `path`: as it is, but for what would be read as an escape."""
    return "file://" + _ESCAPE.sub("%25", path.replace(os.sep, "/"))


def parent_url(url: str) -> tuple[str, str]:
    """The directory that `url`, a backend's own, lies in, and its name there; "" where none is above."""
    parent, _, name = url.rstrip("/").rpartition("/")
    if parent == "file://":
        return ("file:///", name)
    return ("", name) if parent.endswith("/") else (parent, name)


def _parse_path(text: str) -> Place:
    if os.name != "nt" and _WINDOWS.match(text):
        _refuse(text, "it is a path of Windows, and this isn't Windows", "a path such as 'runs/ppo'")
    head, colon, rest = text.partition(":")
    if colon and head.lower() in _LOCAL:
        if rest.startswith("/"):
            return parse_url(f"file:///{rest.lstrip('/')}")  # RFC 8089 has it with one slash, too
        _refuse(text, "file: isn't followed by an absolute path", rest or "file:///runs")
    if rest.startswith(":") and head.lower() in _KNOWN:
        _refuse(text, "no URL follows in its chain", f"{head}::s3://bucket/runs, for example")
    if _find_lost(text):
        _refuse_lost(text)
    return Place("", _expand_home(text) if text.startswith("~") else text)


def _parse_file_url(url: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host.startswith("~"):
        _refuse(url, "a file:// URL has no home directory in it", rest)
    if host.lower() not in ("", "localhost"):
        why = f"{host!r} would be another machine: a file:// URL begins with three slashes"
        _refuse(url, why, f"{to_file_url(os.path.abspath(rest))}, or {rest}")
    written = slash + path
    path = _unquote(written)
    if "\0" in path:
        _refuse(url, "it holds a NUL", "a path without")
    if _WINDOWS.match(path):
        if os.name != "nt":
            _refuse(url, "it is a path of Windows, and this isn't Windows", "a path such as 'runs/ppo'")
        return path.lstrip("/")
    parts = written.split("/")
    escaped = next((index for index, part in enumerate(parts) if _unquote(part) != part), None)
    if escaped is not None:
        literal = "/".join([*map(_unquote, parts[:escaped]), parts[escaped]])
        if os.path.lexists(literal) and not os.path.lexists(_unquote(literal)):
            why = f"there is a directory {literal!r}, with the percent sign, which in a URL begins an escape"
            _refuse(url, why, to_file_url(written))
    return path


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _expand_home(text: str) -> str:
    path = os.path.expanduser(text)
    if path.startswith("~"):
        why = "there is no such user here" if text[1:2] not in ("", "/") else "this user has no home here"
        _refuse(text, why, f"an absolute path; ./{text} is a directory called so")
    return path


def _find_lost(text: str) -> str | None:
    """The URL that `text` was before a slash of it was lost; None if it never was one."""
    parts = re.split(r"[/\\]", text)
    for index, part in enumerate(parts):
        head, colon, bare = part.partition(":")
        scheme = head.lower()
        rest = "/".join([bare, *parts[index + 1 :]]).lstrip("/")
        if colon and scheme in (_BUCKETS if bare and index == 0 else _KNOWN if rest and not bare else ()):
            return f"file:///{rest}" if scheme in _LOCAL else f"{scheme}://{rest}"
    return None


def _refuse_lost(text: str) -> NoReturn:
    right = _find_lost(text)
    if right is None:
        _refuse(text, "its scheme isn't one", "a path, or a URL such as 's3://bucket/runs'")
    shown = show_url(right)
    why = f"it reads like {shown} after something took it for a path, as pathlib and os.path do"
    remedy = f"Write {shown!r} as a text. A local directory that really is called so has a file:// URL"
    raise InvalidRequest(show_url(text), why, remedy)


def _refuse(url: str, why: str, right: str) -> NoReturn:
    raise InvalidRequest(show_url(url), why, f"Write {right}")


def show_url(url: str) -> str:
    """`url` for people and messages: without what may be a secret, in each link of a chain.

    That is a user with a password, a token in a user's place, a query, and whatever else looks like
    parameters. Of ``sftp://bob@host`` and ``abfs://container@account`` the name is kept.
    """
    plain = unicodedata.normalize("NFKC", url)
    if "://" not in plain and (right := _find_lost(plain)):
        shown = show_url(right)
        return url if shown == right else shown
    shown = "::".join(map(_show_link, plain.split("::")))
    return url if shown == plain else shown


def list_hidden(url: str) -> list[str]:
    """The texts of `url` that :func:`show_url` leaves out."""
    if show_url(url) == url:
        return []
    parts = urlsplit(url)
    return [text for text in (parts.password, parts.username, parts.query, parts.fragment, url) if text]


def refuse_secrets(url: str) -> None:
    """InvalidRequest for a URL that can't be shown whole: what it holds would be in messages and pickles."""
    shown = show_url(url)
    if shown != url:
        why = "credentials and settings go into storage_options, not into the URL"
        raise InvalidRequest(shown, why, "Take them out, with the ? and @ that go with them")


def _show_link(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link  # a path, or the name of a protocol
    where = _SETTING.search(rest)
    rest = rest[: where.start()] if where else rest
    if scheme not in ("file", "local"):
        rest = rest.partition("?")[0]
    host, slash, path = rest.partition("/")
    if "@" in path and re.search(r":(?!\d*$)", host):
        host, slash, path = rest.rpartition("@")[2].partition("/")  # of a password with a slash in it
    user, at, place = host.rpartition("@")
    named = scheme in _USERS | _CONTAINERS and _NAME.fullmatch(user)
    return f"{scheme}://{host if named or not at else place}{slash}{path}"
