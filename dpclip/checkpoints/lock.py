"""One process at a time writes into a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """Holds `folder/lock` until it is closed or the process ends, however it ends.

    A record lock, because it dies with the process that took it: a lock that forked children
    share would outlive a killed process by the seconds that its loader's workers need to notice.

    Args:
        folder: is made if it is not there.

    Raises:
        RuntimeError: another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 64, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise RuntimeError(
                f"{folder} is in use by another process (pid {holder or 'unknown'}), and two runs "
                "must not write into one folder. Wait for it, stop it, or name another folder."
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Lets another process in."""
        os.close(self._handle)
