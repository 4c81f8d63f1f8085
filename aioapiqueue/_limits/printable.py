"""Text from outside, made safe for terminals and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text on one line, with control characters escaped.

    A tenant, for example, may have chosen a name or a key. An escape sequence in it could erase
    what a terminal shows, and a line feed could forge a line of a log.

    >>> print(printable("tenant\n\x1b[2Jé"))
    tenant\n\x1b[2Jé
    """
    if text.isprintable():  # most
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
