"""The keys and patterns that have limits in a quota, and how clients keep up with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._shared.host.messages import text_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

_FEW = 1000
"""Names in a log that is never made shorter: to restart it would cost more."""


class NamesInForce:
    """The names that have limits, and a log of their changes.

    Hundreds of clients may each have hundreds of lanes that no other has. All of them are sent the
    same texts, and each text once: a list for each client would take a gigabyte.

    Attributes:
        number: of the last change.
    """

    def __init__(self) -> None:
        self.number = 0
        self._names: dict[Hashable, None] = {}
        self._restart()

    def _restart(self) -> None:
        """Begin the log again, with all names."""
        self._first = self.number
        self._texts = [text_of(list(self._names), None)]
        self._logged = len(self._names)

    def change(self, added: Sequence[Hashable], removed: Sequence[Hashable]) -> None:
        """Note names that have limits now, and those that no longer have any."""
        for name in removed:
            del self._names[name]
        self._names |= dict.fromkeys(added)
        self.number += 1
        self._texts.append(text_of(added, removed))
        self._logged += len(added) + len(removed)
        if self._logged > 2 * len(self._names) + _FEW:
            self._restart()

    def are_all_in(self, lanes: Mapping[Hashable, object]) -> bool:
        """Return whether these lanes contain all names."""
        # Most clients have fewer lanes, or just these.
        return len(lanes) >= len(self._names) and all(name in lanes for name in self._names)

    def since(self, number: int) -> str:
        """Return the text of the message for a client.

        Args:
            number: of the last change that it knows; -1: none.
        """
        skipped = number - self._first + 1 if number >= self._first else 0
        return f'["lanes",[{",".join(self._texts[skipped:])}]]'
