"""
The files of one replica: `<state-dir>/gateways/<instance id>/replica-<n>/`, 0700; or under --gateways-dir.

    gateway.yaml      what it boots from, 0600: for the real gateway it holds the enrolment URL
    port              its port, kept over restarts
    log, log.1        what it printed
    agent/            the gateway's own: credentials and last known good config
    <operation>.pid   written by the launcher (processes.py): that operation started a process, this one
    <operation>.ended that process ended on its own and was reported: why, and where its part of the log begins
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcpg import faults
from mcpg.errors import PermanentError, TemporaryError
from mcpg.host import processes, words
from mcpg.host.processes import Record

LOG_BYTES: Final = 10 * 1024 * 1024  # a log beyond this becomes log.1 at the next start; log.1 goes
ROOM_BYTES: Final = 1024 * 1024  # of disk that a replica's files want at least
_OPERATION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Ended:
    """An end that was reported: `reason` as in ports.Exited, `log_offset` in bytes."""

    reason: str
    log_offset: int


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica's place on disk; whether its process runs is not known here."""

    directory: Path
    instance_id: str
    number: int

    def running(self) -> Record | None:
        """Of its process, where one runs."""
        record = self.record()
        return record if record is not None and processes.is_alive(record.identity, self.marker) else None

    def is_starting(self) -> bool:
        """Whether its process began a moment ago and does not listen yet."""
        record = self.running()
        return record is not None and processes.is_starting(self.port, record.identity, self.marker)

    @property
    def key(self) -> tuple[str, int]:
        return self.instance_id, self.number

    @property
    def marker(self) -> str:
        return f"{self.instance_id}/{self.number}"

    @property
    def boot_file(self) -> Path:
        return self.directory / "gateway.yaml"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def agent_dir(self) -> Path:
        return self.directory / "agent"

    def pid_file(self, operation_id: str) -> Path:
        if not _OPERATION.fullmatch(operation_id):
            raise PermanentError(f"{operation_id!r} cannot be an operation id")
        return self.directory / f"{operation_id}.pid"

    def prepare(self) -> int:
        """Make the directories, put a large log aside; returns where the next process's part of the log begins."""
        self.directory.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.directory.parent, self.directory, self.agent_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
        size = self.log.stat().st_size if self.log.exists() else 0
        if size <= LOG_BYTES:
            return size
        self.log.replace(self.directory / "log.1")
        return 0

    def launched(self) -> str:
        """The operation that started the process on record; "" when there is none."""
        return next((path.stem for path in sorted(self.directory.glob("*.pid"))), "")

    def record(self) -> Record | None:
        """Of that process, what its launcher wrote."""
        operation_id = self.launched()
        return processes.read_record(self.pid_file(operation_id)) if operation_id else None

    async def written(self, operation_id: str) -> Record | None:
        """A launcher creates its record and writes it in two steps: an empty one is looked at again, for 0.2 s."""
        for _ in range(20):
            if record := processes.read_record(self.pid_file(operation_id)):
                return record
            await asyncio.sleep(0.01)
        return None

    def forget_launch(self, operation_id: str) -> None:
        """We ended that process: the operation may start another."""
        self.pid_file(operation_id).unlink(missing_ok=True)

    def mark_ended(self, operation_id: str, ended: Ended) -> None:
        """The process of that operation ended on its own; a repeat of the operation must not start it again."""
        pid_file = self.pid_file(operation_id)
        write(pid_file.with_suffix(".ended"), json.dumps([ended.reason, ended.log_offset]))
        pid_file.unlink(missing_ok=True)

    def last_end(self) -> Ended | None:
        """How the process that ran last ended, while no other was started since."""
        paths = sorted(self.directory.glob("*.ended"), key=lambda path: path.stat().st_mtime_ns)
        return self.ended(paths[-1].stem) if paths else None

    def ended(self, operation_id: str) -> Ended | None:
        try:
            reason, offset = json.loads(self.pid_file(operation_id).with_suffix(".ended").read_text())
            return Ended(str(reason), int(offset))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # cut short by a full disk: it ended, more is not known
            return Ended("ended", 0)

    def forget_halves(self) -> None:
        """What somebody was writing who was killed: it may hold an enrolment URL, and nobody will finish it."""
        for path in self.directory.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def forget_ends(self) -> None:
        """A new operation starts it afresh."""
        for path in self.directory.glob("*.ended"):
            path.unlink(missing_ok=True)

    @property
    def port(self) -> int:
        """The remembered port; 0 when none is."""
        try:
            return int((self.directory / "port").read_text())
        except (OSError, ValueError):
            return 0

    def remember_port(self, port: int, still: Callable[[], None]) -> None:
        write(self.directory / "port", str(port), still)

    @property
    def control_plane(self) -> str:
        """The gRPC URL its process was started with; "" when that was not noted."""
        try:
            return (self.directory / "control-plane").read_text()
        except OSError:
            return ""

    def remember_control_plane(self, url: str, still: Callable[[], None]) -> None:
        write(self.directory / "control-plane", url, still)

    def words(self, log_offset: int) -> str:
        return words.last_words(self.log, log_offset)


def write(path: Path, text: str, still: Callable[[], None] = lambda: None) -> None:
    """
    Write *text* at once, mode 0600: a reader sees the old file or the new one, also after a power cut. *still* raises when it
    is not to be written any more: it is asked last.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        faults.reach("file:between:write")
        still()
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def delete(directory: Path) -> None:
    """Nothing of *directory* is left; succeeds when there is nothing. Raises TemporaryError."""
    faults.reach("files:before:delete")
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TemporaryError(f"{directory} cannot be deleted", cause=str(error)) from error
    faults.reach("files:after:delete")


class Shelf:
    """Every replica under one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        return self._root

    def why_not(self) -> str:
        """Why nothing could be written there now, or ""; asks the kernel, writes nothing."""
        where = self._root if self._root.exists() else self._root.parent
        try:
            left = os.statvfs(where)
        except OSError as exc:
            return f"{where}: {exc.strerror}"
        if left.f_bavail * left.f_frsize < ROOM_BYTES:
            return f"the disk of {where} is full"
        return (
            "" if os.access(where, os.W_OK | os.X_OK) else f"{where} cannot be written (running as uid {os.getuid()})"
        )

    def directory(self, instance_id: str) -> Path:
        """Where an instance's replicas are. Raises PermanentError for an id that is no UUID: nothing else is a name."""
        try:
            is_uuid = str(uuid.UUID(instance_id)) == instance_id
        except ValueError:
            is_uuid = False
        if not is_uuid:
            raise PermanentError(f"{instance_id!r} cannot be an instance id")
        return self._root / instance_id

    def replica(self, instance_id: str, number: int) -> Replica:
        return Replica(self.directory(instance_id) / f"replica-{number}", instance_id, number)

    def replicas(self, instance_id: str) -> list[Replica]:
        """Those on disk, by number."""
        names = (path.name for path in self.directory(instance_id).glob("replica-*"))
        numbers = sorted(int(name[8:]) for name in names if re.fullmatch(r"replica-[1-9][0-9]{0,5}", name))
        return [self.replica(instance_id, number) for number in numbers]

    def log_of(self, instance_id: str, number: int) -> str:
        """The path of a replica's log, "" where there is none."""
        found = (replica.log for replica in self.replicas(instance_id) if replica.number == number)
        return next((str(log) for log in found if log.exists()), "")

    def everything(self) -> Iterator[Replica]:
        for path in sorted(self._root.glob("*")):
            try:
                yield from self.replicas(path.name)
            except PermanentError:  # not ours: somebody put a file there
                continue
