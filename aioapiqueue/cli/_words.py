"""How numbers of things are said, and how words of ours are laid out."""

from __future__ import annotations

import textwrap

__all__ = ["counted", "wrapped"]

_WIDTH = 80 - len("aioapiqueue: ")


def counted(number: int, thing: str) -> str:
    """Return a number and what there is so much of.

    >>> counted(1, "AWS call"), counted(2000, "AWS call")
    ('1 AWS call', '2,000 AWS calls')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def wrapped(text: str) -> str:
    """Return words of ours in lines, so that with our name before each they fit 80 columns."""
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
