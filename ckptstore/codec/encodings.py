"""Every encoding of a state file: the endings of its name, and the codec that reads it.

Names tell MessagePack apart; torch files and pickles are told by their bytes, since Ray 2.33 to 2.40 call
ordinary pickles ``.pt``.
"""

from __future__ import annotations

from typing import Any

EXTENSIONS = ("pkl", "msgpck", "msgpack", "pt")
"""What RLlib has ever called such a file; for components see also :mod:`ckptstore.rllib_formats.paths`."""

CODE_EXTENSIONS = ("pkl", "pickle", "pt", "pth", "msgpck", "msgpack")
"""Of files that name code to run where they are opened, whoever wrote them."""

_MSGPACK = (".msgpck", ".msgpack")


def is_msgpack(path: str) -> bool:
    """Whether a file of that name is MessagePack."""
    return path.endswith(_MSGPACK)


def loads(path: str, data: bytes) -> Any:
    """The plain value in `data`, the content of the file `path`. UnsafeContent if it is malformed."""
    # Here, so that a program that only looks for files doesn't import every decoder.
    from ckptstore.codec import rllib_msgpack, torchfile
    from ckptstore.codec.pickles import safe

    if is_msgpack(path):
        return rllib_msgpack.loads(data)
    if torchfile.is_torch(data):
        return torchfile.loads(data)
    return safe.loads(data)
