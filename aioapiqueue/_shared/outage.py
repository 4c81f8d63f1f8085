"""What a limiter does while the authority over its limits cannot be reached."""

from __future__ import annotations

__all__ = ["Unreachable"]


class Unreachable(Exception):  # noqa: N818 - never leaves the library
    """The authority gave no reply, for now. The text has the reason, without credentials."""
