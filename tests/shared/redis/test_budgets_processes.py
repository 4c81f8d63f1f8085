"""Real processes spend one budget at once; see `test_budgets.py` of the host for the pattern."""

from __future__ import annotations

import pytest

from tests.helpers.ledger import BUDGET, spending

pytestmark = pytest.mark.real


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "calls"), [(2, 160), (4, 1000)])
def test_processes_keep_one_budget(valkey, name, tmp_path, processes, calls):
    """Never above, and nearly all is used; what many programs do overshoots in the same run."""
    how = {"processes": processes, "calls": calls}
    with spending(f"{valkey.url}#{name}", tmp_path / "kept", **how) as finish:
        kept = finish()
    with spending("unsafe", tmp_path / "unsafe", **how) as finish:
        unsafe = finish()
    assert max(kept) <= BUDGET + 1e-9
    assert kept[-1] >= 0.95 * BUDGET
    assert unsafe[-1] > BUDGET
