"""URLs with credentials in them: refused, and never shown. Each text about a URL goes through here."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

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


def show_url(url: str) -> str:
    """`url` for people and messages: without what may be a secret, in each link of a chain.

    That is a user with a password, a token in a user's place, a query, and whatever else looks like
    parameters. Of ``sftp://bob@host`` and ``abfs://container@account`` the name is kept.
    """
    plain = unicodedata.normalize("NFKC", url)
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
