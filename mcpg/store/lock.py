"""
One control plane a state directory, and one an SQLite file: flocks that die with their process, and who holds each in
words. Both are taken by mcpg/server.py before anything is read or written, and released when all is closed.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

from mcpg.errors import StateDirBusy, StateDirUnusable


class Lock(ABC):
    """A file that is locked while its holder lives. Its text says who that is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    @abstractmethod
    def _busy(self, holder: str) -> StateDirBusy:
        """The refusal, which names the *holder*."""

    def take(self) -> None:
        """Raises StateDirBusy when another process holds it, StateDirUnusable when it cannot be opened."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            file = os.fdopen(descriptor, "a+", encoding="utf-8")
        except OSError as exc:
            raise StateDirUnusable(f"{self._path} cannot be opened", cause=exc.strerror or str(exc)) from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(2000).strip() or "another process"
            file.close()
            raise self._busy(holder) from None
        self._file = file
        self.say(f"pid {os.getpid()}, starting")

    def say(self, words: str) -> None:
        assert self._file is not None  # noqa: S101 - taken
        self._file.truncate(0)
        self._file.write(words + "\n")
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


class StateLock(Lock):
    """One control plane a state directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "server.lock")

    def _busy(self, holder: str) -> StateDirBusy:
        where = self._path.parent
        return StateDirBusy(
            f"another control plane runs on {where}: {holder}",
            cause="one process at a time may work on a state directory",
            hint=f"mcpg-ctl status --state-dir {where} shows it; give this one another --state-dir, or stop that one first",
        )


class FileLock(Lock):
    """
    One control plane an SQLite file, whatever their state directories: a file beside it, by its real name, so that a
    symbolic link leads to the same lock. The folder is there.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        real = database.resolve()
        super().__init__(real.with_name(f"{real.name}.lock"))

    def _busy(self, holder: str) -> StateDirBusy:
        return StateDirBusy(
            f"another control plane works on the database {self._database}: {holder}",
            cause="an SQLite file belongs to one control plane at a time, whatever their state directories are",
            hint="stop that one first, or give this one another --db-url; several on one database: docs/postgres.md",
        )
