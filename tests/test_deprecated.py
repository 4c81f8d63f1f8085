"""Names of the first edition: each still works for one release, and warns with its new name."""

from __future__ import annotations

import pytest

from aioapiqueue import ApiQueue, Stats

OLD_STATS = [
    ("odd", "malformed"),  # an old name
    ("slowed", "backed_off"),
]


async def test_malformed_by_its_old_name():
    """`ApiQueue.odd` counts what `ApiQueue.malformed` does."""
    queue = ApiQueue("10/s")
    with pytest.warns(DeprecationWarning, match=r"ApiQueue\.odd is now ApiQueue\.malformed"):
        getattr(queue, OLD_STATS[0][0])()
    assert queue.stats.malformed == 1


@pytest.mark.parametrize(("old", "now"), OLD_STATS)
def test_stats_by_old_names(old, now):
    """Figures of a queue have their old names as well."""
    stats = Stats(**{now: 3})
    with pytest.warns(DeprecationWarning, match=rf"Stats\.{old} is now Stats\.{now}"):
        assert getattr(stats, old) == 3
