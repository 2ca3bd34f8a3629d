"""
Detached processes, known again with certainty: launch once, recognise, watch the end, signal. Linux only.

A pid alone is no name: it is used again. A process here is its pid, its start time (clock ticks after boot), the boot
it belongs to, and the marker in its environment. Called by mcpg/provisioners/local.py and, for `gateway --exec`,
mcpg/agent/child.py; knows nothing of gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mcpg import faults
from mcpg.errors import PermanentError, TemporaryError

MARKER: Final = "MCPG_CTL_REPLICA"
BIND_S: Final = 5.0  # a gateway listens within a tenth of a second; one that does not by then will not
EXEC_TIMEOUT_S: Final = 10.0  # fork to exec takes 2 ms; a machine that needs 10 s is not fit to start anything
_LOST_RACE: Final = 75  # EX_TEMPFAIL: another launch with the same record exists

# Written as one line by the process that becomes the gateway, in a file only one launch can create (set -C: O_EXCL),
# before the gateway's first instruction. So a gateway that exists is on record, whatever happens to its parent.
# Its stdin is the pipe the parent waits on: replacing it closes the pipe at the moment of exec. A gateway's files are
# its user's alone, hence the umask.
_LAUNCHER: Final = """
umask 077
set -C
read -r boot < /proc/sys/kernel/random/boot_id || exit 71
read -r stat < "/proc/$$/stat" || exit 71
{ echo "$$ $boot $2 $stat" > "$1"; } 2>/dev/null || exit 75
shift 2
exec "$@" < /dev/null
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for all time: *started* is field 22 of /proc/PID/stat, *boot* the kernel's random boot id."""

    pid: int
    started: str
    boot: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a launcher wrote: who it became, and where its part of the log begins (bytes)."""

    identity: Identity
    log_offset: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_record(path: Path) -> Record | None:
    """The record at *path*; None where there is none, or where its launcher has not finished writing it."""
    try:
        return parse_record(path.read_text())
    except OSError:
        return None


def parse_record(line: str) -> Record | None:
    """The launcher's line `PID BOOT OFFSET STAT`; None for anything else (an empty file: it ended while writing)."""
    match = re.match(r"(\d+) ([0-9a-f-]{36}) (\d+) (.*)", line)
    started = _started(match[4]) if match else ""
    if match is None or not started:
        return None
    return Record(Identity(int(match[1]), started, match[2]), int(match[3]))


def started_at(pid: int) -> str:
    """The start time of the process that has *pid* now, in clock ticks after boot; "" when none does or it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return "" if stat.rpartition(")")[2].split()[0] in {"Z", "X"} else _started(stat)


def _started(stat: str) -> str:
    """Field 22 of a stat line; the second is a name in parentheses that may hold anything, so count from its end."""
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def is_alive(identity: Identity, marker: str) -> bool:
    """Whether exactly this process runs now. A zombie does not; a process without our *marker* is not ours."""
    try:
        stat = Path(f"/proc/{identity.pid}/stat").read_text()
        if _started(stat) != identity.started or stat.rpartition(")")[2].split()[0] in {"Z", "X"}:
            return False
        environ = _environ(identity.pid)
        return identity.boot == boot_id() and (not environ or _is_marked(environ, marker))
    except OSError:
        return False


def _environ(pid: int) -> bytes:
    """
    The environment of *pid*; empty during its exec and during its exit, the moments when we look first and last.

    So nothing to read contradicts nothing: start time and boot id stand. A dying process counts as alive until its
    pidfd says that it ended, and only then is its exit code there to collect.
    """
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # the process is there, its memory is gone
        return b""


def _is_marked(environ: bytes, marker: str) -> bool:
    return f"{MARKER}={marker}".encode() in environ.split(b"\0")


def _has_marker(pid: int, marker: str) -> bool:
    return _is_marked(_environ(pid), marker)


def marked(marker: str) -> Iterator[int]:
    """Every living process of this user that carries *marker*: a gateway, what it started, a launcher on its way."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if _has_marker(int(entry), marker):
                    yield int(entry)


async def launch(
    argv: Sequence[str], *, record: Path, log: Path, log_offset: int, cwd: Path, env: dict[str, str]
) -> int | None:
    """
    Start *argv* detached and wait until it was exec'ed: its pid, or None when *record* exists (launched before).

    stdout and stderr are appended to *log*. A program that cannot be exec'ed has a record too, and ends with code 126
    or 127, its reason in the log. Raises TemporaryError when the machine cannot start a process now.
    """
    faults.reach("replica:before:launch")
    pid, read_end = _spawn(["/bin/sh", "-c", _LAUNCHER, "sh", str(record), str(log_offset), *argv], log, cwd, env)
    faults.reach("replica:between:launch")
    await _end_of_file(read_end)
    written = read_record(record)
    faults.reach("replica:after:launch")
    if written is not None and written.identity.pid == pid:
        return pid
    code = collect(pid, block=True)
    if code == _LOST_RACE:
        return None
    raise TemporaryError("a gateway process could not be started", cause=f"its launcher ended with code {code}")


def _spawn(argv: Sequence[str], log: Path, cwd: Path, env: dict[str, str]) -> tuple[int, int]:
    """The launcher's pid, and the end of the pipe that closes when it has become the gateway. Blocks some 2 ms."""
    read_end, write_end = os.pipe()
    try:
        with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            process = subprocess.Popen(
                argv, stdin=write_end, stdout=output, stderr=output, cwd=cwd, env=env, start_new_session=True
            )
    except OSError as error:
        os.close(read_end)
        raise TemporaryError("a gateway process could not be started", cause=str(error)) from error
    finally:
        os.close(write_end)
    process.returncode = (
        0  # Popen only forks for us: the process outlives this object, and Watch collects its exit code
    )
    return process.pid, read_end


async def _end_of_file(fd: int) -> None:
    """Wait until nobody holds the pipe's other end; closes *fd*."""
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not closed.done():
            closed.set_result(None)

    loop.add_reader(fd, readable)
    try:
        async with asyncio.timeout(EXEC_TIMEOUT_S):
            await closed
    except TimeoutError:
        raise TemporaryError("a gateway process did not start", cause=f"no exec in {EXEC_TIMEOUT_S:g} s") from None
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def collect(pid: int, *, block: bool = False) -> int | None:
    """The exit code of our child (negative: the signal), None when it is another's child or still runs."""
    try:
        done, status = os.waitpid(pid, 0 if block else os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


@dataclass(eq=False)
class Watch:
    """
    Sees one process end, without polling: a pidfd becomes readable.

    `on_end` is called once, in the event loop, with the exit code where the process was our child (negative: a signal),
    None where it was adopted. `ended` is the same as a future.
    """

    identity: Identity
    marker: str
    log_offset: int
    on_end: Callable[[Watch, int | None], None]
    ended: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    expected: bool = False  # True while whoever ends or starts it speaks for it
    _fd: int = -1

    def open(self) -> bool:
        """Begin to watch; False when exactly this process is not running (then `on_end` is never called)."""
        if not hasattr(os, "pidfd_open"):
            raise PermanentError(
                "this system has no pidfd_open", hint="gateways on this machine need Linux 5.3 or newer"
            )
        try:
            self._fd = os.pidfd_open(self.identity.pid)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise PermanentError("pidfd_open failed", cause=str(error), hint="Linux 5.3 or newer is needed") from error
        # In this order: the pidfd holds on to whoever has the pid now, then we look whether that is the right one.
        if not is_alive(self.identity, self.marker):
            self.close()
            return False
        asyncio.get_running_loop().add_reader(self._fd, self._readable)
        return True

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        self.close()
        code = collect(self.identity.pid)
        if not self.ended.done():
            self.ended.set_result(code)
        self.on_end(self, code)

    async def end(self, grace_s: float) -> bool:
        """SIGTERM to the process group, SIGKILL after *grace_s* seconds; True when the first was enough."""
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.ended}, timeout=grace_s)
        if done:
            return True
        self._signal(signal.SIGKILL)
        await asyncio.wait({self.ended}, timeout=EXEC_TIMEOUT_S)  # a process in uninterruptible sleep dies later
        return False

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group: it leads its session, so the group has its pid; the pidfd says it is still the same."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, 0)
                os.killpg(self.identity.pid, number)


async def end_marked(marker: str, still: Callable[[], None] = lambda: None) -> int:
    """
    SIGKILL whatever still carries *marker* (a gateway's own children, a launcher that was on its way); how many. *still* raises
    when that is not to be done any more: it is asked before each, and at the end, on another thread.
    """
    return await asyncio.to_thread(_end_marked, marker, still)


def _end_marked(marker: str, still: Callable[[], None]) -> int:
    ended = 0
    for pid in marked(marker):
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                if not _has_marker(pid, marker):  # the pid was another's by the time we held it
                    continue
                still()
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                ended += 1
                end = select.poll()
                end.register(fd, select.POLLIN)
                end.poll(EXEC_TIMEOUT_S * 1000)
            finally:
                os.close(fd)
    still()
    return ended


def listener(port: int, identity: Identity, marker: str, host: str = "127.0.0.1") -> str:
    """Who listens on *host*:*port*, host being an address: "ours", "other", or "" for nobody."""
    inodes = set(_listening(port, host))
    if not inodes:
        return ""
    if _holds(identity.pid, inodes) or any(_holds(pid, inodes) for pid in marked(marker)):
        return "ours"
    return "other" if inodes & set(_listening(port, host)) else ""  # it may have ended while we looked for it


def is_deaf(port: int, identity: Identity, marker: str) -> bool:
    """
    Whether this living process will never be reached on 127.0.0.1:*port*: another listens there, or nobody does though it
    has run for `BIND_S` seconds. It may listen elsewhere: the real gateway does when a pushed config reaches it first.
    """
    owner = listener(port, identity, marker)
    return owner == "other" or (owner == "" and _age_s(identity) >= BIND_S)


def is_starting(port: int, identity: Identity, marker: str) -> bool:
    """Whether this living process may still be on its way to 127.0.0.1:*port*."""
    return _age_s(identity) < BIND_S and listener(port, identity, marker) == ""


def _age_s(identity: Identity) -> float:
    """Seconds since this process of this boot began."""
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - int(identity.started) / os.sysconf("SC_CLK_TCK")


def _listening(port: int, host: str) -> Iterator[str]:
    """Inodes of sockets that listen where *host*:*port* is or would be bound (/proc/net/tcp: hex, state 0A)."""
    address = _kernel_hex(host)
    addresses = {address, f"0000000000000000FFFF0000{address}", "00000000", "0" * 32}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == "0A" and int(number, 16) == port and address in addresses:
                    yield fields[9]


def _kernel_hex(host: str) -> str:
    """An address as /proc/net has it: each 32-bit word with its bytes turned round; a name is taken for 127.0.0.1."""
    packed = socket.inet_aton("127.0.0.1")
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            packed = socket.inet_pton(family, host)
    return "".join(packed[at : at + 4][::-1].hex() for at in range(0, len(packed), 4)).upper()


def _holds(pid: int, inodes: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    return True
    return False
