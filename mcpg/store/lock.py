"""One control plane a state directory: an flock that dies with its process, and who holds it in words."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from mcpg.errors import StateDirBusy, StateDirUnusable


class StateLock:
    """Taken before anything of the directory is read or written, released when all is closed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "server.lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
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
            raise StateDirBusy(
                f"another control plane runs on {self._path.parent}: {holder}",
                cause="one process at a time may work on a state directory",
                hint=f"mcpg-ctl status --state-dir {self._path.parent} shows it;"
                " give this one another --state-dir, or stop that one first",
            ) from None
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
