"""What Ctrl-C does while the command line is imported, and after; as programs, in test_app.py."""

from __future__ import annotations

import signal
import sys

import pytest

from aioapiqueue.__main__ import restore_interrupt
from tests.helpers import introspect


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
        restore_interrupt()
        assert signal.getsignal(signal.SIGINT) is then
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("argv", "orig_argv", "then"),
    [
        (["-m"], ["python", "-m", "aioapiqueue", "run"], signal.SIG_DFL),
        (["-m"], ["python", "-m", "pytest"], signal.default_int_handler),
        (["/usr/bin/aioapiqueue"], [], signal.SIG_DFL),
        (["scan.py"], ["python", "scan.py", "aioapiqueue"], signal.default_int_handler),
        ([], ["python"], signal.default_int_handler),
    ],
)
def test_ctrl_c_ends_only_our_command(monkeypatch, argv, orig_argv, then):
    """Importing the package lets Ctrl-C end our own command at once, and no other program."""
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        introspect.import_again()
        assert signal.getsignal(signal.SIGINT) is then
    finally:
        signal.signal(signal.SIGINT, before)
