"""The ramp of limits that are learnt. Apart, as a profile must not need what reads headers."""

from __future__ import annotations

from dataclasses import replace

from aioapiqueue import Ramp


def check_ramp(ramp: object) -> None:
    """Refuse what cannot be the ramp of learnt limits, whose size is not known.

    Raises:
        ValueError: it has a floor.
        TypeError: it is not a `Ramp`.
    """
    if ramp is None:
        return
    if not isinstance(ramp, Ramp):
        raise TypeError(f"ramp must be a Ramp such as Ramp(2, per=120), not {ramp!r}")
    if ramp.floor is not None:
        raise ValueError(
            f"a ramp of learnt limits cannot have a floor: write {replace(ramp, floor=None)!r}, "
            "which starts at a tenth of each"
        )
