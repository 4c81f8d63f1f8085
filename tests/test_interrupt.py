"""What Ctrl-C does while the command line is imported, and after; as programs, in test_cli.py."""

from __future__ import annotations

import signal

import pytest

from aioapiqueue._interrupt import raise_again


@pytest.mark.parametrize(
    ("handler", "then"),
    [
        (signal.SIG_DFL, signal.default_int_handler),
        (signal.SIG_IGN, signal.SIG_IGN),
        (signal.default_int_handler, signal.default_int_handler),
    ],
    ids=["ends", "ignored", "raises"],
)
def test_ctrl_c_raises_again_unless_ignored(handler, then):
    """What only ended the command raises from then on; what was ignored stays so."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        raise_again()
        assert signal.getsignal(signal.SIGINT) is then
    finally:
        signal.signal(signal.SIGINT, before)
