"""Text of others, as a terminal or a log may show it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text with escapes in the place of what a terminal would obey, on one line.

    Names and keys may be chosen by somebody else, such as a tenant. An escape sequence in one could
    erase what a terminal shows, and a line feed could forge a line of a log.

    >>> print(printable("tenant\n\x1b[2Jé"))
    tenant\n\x1b[2Jé
    """
    if text.isprintable():  # most
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
