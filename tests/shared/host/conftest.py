"""A hub's file, and what opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.virtual_hub import folder_in_memory, journals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def file() -> Iterator[Path]:
    """Where a hub keeps what outlasts it: in memory, as hundreds of hubs wait for no disk."""
    with folder_in_memory() as folder:
        yield folder / "quotas.db"


@pytest.fixture
def open_journal(file: Path) -> Iterator[Callable[[], Any]]:
    """Give what opens that file for one hub after the other: see `journals`."""
    with journals(file) as open_next:
        yield open_next
