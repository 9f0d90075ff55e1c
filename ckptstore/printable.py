"""Text that is shown to people: one line, and nothing in it that a terminal or a log would obey. Pure."""

from __future__ import annotations


def clean(text: object) -> str:
    r"""`text` on one line, with everything escaped that doesn't print: ``\n``, ``\x1b``, ``\u202e``.

    Names come out of files and listings that anybody may have written. A line break in one must not make a
    line of its own in a log, nor an escape sequence move a cursor.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in plain
    )
