"""Where the host hub's files are."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

HUB_DIR = "AIOAPIQUEUE_HUB_DIR"
"""The environment variable that names the hub's directory, instead of the user's own one."""
_SOCKET, _LOCK = "host.sock", "host.lock"


class HubLocation:
    """Where this user's host hub listens. Nothing here depends on the environment.

    A login shell, a cron job and a web server's worker must find the same hub. So XDG_RUNTIME_DIR,
    TMPDIR and HOME are ignored: the hub listens in the runtime directory of the user's id, which
    exists while the user is logged in, or else in `/tmp`. Clients look in both.

    Args:
        override: another directory, as in `AIOAPIQUEUE_HUB_DIR`; None: the user's own.

    Raises:
        ValueError: `override` is relative: processes have different working directories.
    """

    def __init__(self, override: str | None = None) -> None:
        if override and not Path(override).is_absolute():
            raise ValueError(f"{HUB_DIR} must be an absolute path, not {override!r}")
        self._override = Path(override) if override else None

    @property
    def override(self) -> str:
        """The directory that was given; "": the user's own."""
        return str(self._override or "")

    def directories(self) -> list[Path]:
        """Return the directories in which the hub may be; it is started in the first."""
        if self._override is not None:
            return [self._override]
        uid = os.geteuid()
        runtime, found = Path(f"/run/user/{uid}"), [Path(f"/tmp/aioapiqueue-{uid}")]  # noqa: S108 - checked by `make_private`
        with contextlib.suppress(OSError):
            status = runtime.lstat()
            private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
            if private and status.st_uid == uid:
                found.insert(0, runtime / "aioapiqueue")
        return found

    def sockets(self) -> list[Path]:
        """Return the sockets on which the hub may listen; it is started on the first."""
        return [directory / _SOCKET for directory in self.directories()]

    def lock(self) -> Path:
        """Return the file that the hub locks while it runs, in whichever directory it listens."""
        # In the last one, which is the same after the user has logged in or out: so a hub that
        # cron has started keeps a login shell from starting another.
        *others, last = self.directories()
        with contextlib.suppress(OSError):
            if others and last.lstat().st_uid != os.geteuid():  # another user has made it
                last = others[0]
        return last / _LOCK

    def state(self) -> Path:
        """Return the directory of the journal, which outlasts restarts of the machine."""
        if self._override is not None:
            return self._override
        import pwd  # noqa: PLC0415 - POSIX only, where this module is imported everywhere

        # Not `Path.home()`, which is HOME if that is set.
        home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        return home / ".local" / "state" / "aioapiqueue" / _machine()


def _machine() -> str:
    """Return a name of this machine, as several may share one home directory."""
    with contextlib.suppress(OSError):
        if text := Path("/etc/machine-id").read_text("ascii").strip():
            return text
    return socket.gethostname()
