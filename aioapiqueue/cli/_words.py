"""How numbers of things are said."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, thing: str) -> str:
    """Return a number and what there is so much of.

    >>> counted(1, "AWS call"), counted(2000, "AWS call")
    ('1 AWS call', '2,000 AWS calls')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"
