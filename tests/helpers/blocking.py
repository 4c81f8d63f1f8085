"""What finds calls of the package that block the event loop."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blockbuster import BlockBuster

if TYPE_CHECKING:
    from collections.abc import Callable

    from blockbuster import BlockBusterFunction

__all__ = ["BlockingCalls"]


class BlockingCalls:
    """Raises an error where `aioapiqueue` blocks the event loop, while a test wants it to.

    Patching some thirty functions takes 7 ms, so it is done once a session. In between, the patched
    functions are told to look away.
    """

    def __init__(self) -> None:
        self._watching = False
        # The library's tests also run where its programs are not installed.
        packages = [name for name in ("aioapiqueue", "aioapiqueue_run") if find_spec(name)]
        self._patches = BlockBuster(packages, excluded_modules=["aioapiqueue.testing"])
        for function in self._patches.functions.values():
            # A VirtualClient, which `aioapiqueue` awaits, blocks the loop: its time stands still.
            function.can_block_in("helpers/virtual_client.py", "_run")
            # What redis-py calls itself to the server: it looks at its own files, once a pool.
            function.can_block_in("redis/utils.py", "get_lib_version")
            # It reads a file of the package at its first call, about 1 ms, as an import would.
            function.can_block_in("registry/_names.py", "service_list")
            function.can_block_predicate = self._unless_watching(function)

    def install(self) -> None:
        """Patch the functions that block."""
        self._patches.activate()

    def remove(self) -> None:
        """Restore them."""
        self._patches.deactivate()

    def activate(self) -> None:
        """Fail from now on."""
        self._watching = True

    def deactivate(self) -> None:
        """Let anything block, as a test has to that reads files or starts processes."""
        self._watching = False

    def _unless_watching(self, function: BlockBusterFunction) -> Callable[..., bool]:
        may_block = function.can_block_predicate

        def allowed(*args: Any, **kwargs: Any) -> bool:
            return not self._watching or may_block(*args, **kwargs)

        return allowed
