"""
One caller at a time changes an instance's processes: in this process, and among control planes that share the directory.

Within the process an asyncio lock; between processes an flock on `<gateways>/.locks/<instance id>`, which the kernel takes
from a process that ends. Waiting for it is bounded. One that stands still (SIGSTOP) while it holds the lock has lost its
leases by the time somebody else wants it: its lock is set aside. What it does when it wakes is harmless by other means: its
work is cancelled, it looks for its lock before it writes a file or ends a process (`still`), and no launch can be made twice
under one operation's id (host/processes.py).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from mcpg.errors import TemporaryError
from mcpg.provisioners.replica import Shelf

WAIT_S: Final = 10.0  # as long as a lease: who still holds it then is slow, or stands still
STOPPED_S: Final = 2.0  # waited for a holder that stands still: it may be a moment's pause
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.2
NOTHING: Final = -1


class Locks:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._directory = shelf.root / ".locks"
        self._here: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._held: dict[str, int] = {}

    @asynccontextmanager
    async def hold(self, instance_id: str) -> AsyncIterator[None]:
        """Raises TemporaryError when another control plane does not let go of it, PermanentError for what is no id."""
        self._shelf.directory(instance_id)
        lock = self._here.get(instance_id)
        if lock is None:  # kept while anybody holds or awaits it
            lock = self._here[instance_id] = asyncio.Lock()
        async with lock:
            held = await self._take(instance_id)
            self._held[instance_id] = held
            try:
                yield
            finally:
                del self._held[instance_id]
                if held != NOTHING:
                    os.close(held)

    def still(self, instance_id: str) -> None:
        """
        Whoever holds it here still does. Raises TemporaryError when it let go, or it was set aside because we stood still: what
        is there now is another's. From any thread.
        """
        held = self._held.get(instance_id)
        if held is None or (held != NOTHING and not _is_still(self._directory / instance_id, held)):
            raise TemporaryError(
                f"another control plane may be working on the processes of {instance_id} by now",
                cause="this one stood still, or let go of them, and touches nothing of them any more",
            )

    def is_here(self, instance_id: str) -> bool:
        """Whether somebody in this process holds it."""
        lock = self._here.get(instance_id)
        return lock is not None and lock.locked()

    def is_elsewhere(self, instance_id: str) -> bool:
        """Whether another control plane holds it: what ends now, it may have ended on purpose."""
        if self.is_here(instance_id):
            return False
        try:
            tried = os.open(self._directory / instance_id, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(tried)
        return False

    def forget(self, instance_id: str) -> None:
        """The instance is gone, and its lock, which the caller holds, with it."""
        with suppress(OSError):
            (self._directory / instance_id).unlink()
            self._directory.rmdir()  # when it was the last

    async def _take(self, instance_id: str) -> int:
        """The descriptor that holds the lock."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), FIRST_PAUSE_S
        while True:
            held = self._try(instance_id)
            if held is not None:
                return held
            holder, waited = self._holder(instance_id), loop.time() - began
            if waited > STOPPED_S and _stands_still(holder):
                self.forget(instance_id)
                continue
            if waited > WAIT_S:
                raise TemporaryError(
                    f"another control plane is working on the processes of {instance_id}",
                    cause=f"process {holder} has held its lock for {waited:.0f} s",
                )
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 2)

    def _try(self, instance_id: str) -> int | None:
        path = self._directory / instance_id
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the last lock was forgotten in between
            return None
        except OSError:  # nobody can change anything there; what the caller does next says why, in its own words
            return NOTHING
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, held):  # else it was set aside, or its instance was removed, before we had it
                os.ftruncate(held, 0)
                os.pwrite(held, str(os.getpid()).encode(), 0)
                return held
        except BlockingIOError:
            pass
        except OSError:  # the disk is full: who holds it is not known then, and that is all
            return held
        os.close(held)
        return None

    def _holder(self, instance_id: str) -> int:
        try:
            return int((self._directory / instance_id).read_text() or 0)
        except (OSError, ValueError):
            return 0


def _is_still(path: Path, held: int) -> bool:
    try:
        there, ours = path.stat(), os.fstat(held)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _stands_still(pid: int) -> bool:
    """Whether a process is stopped or traced."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in {"T", "t"}
