"""Addresses to listen on: well formed, on loopback, free, and if not, who has it. Reads /proc; sends nothing."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from mcpg.errors import Failed, Usage

_LISTENING = "0A"


class Bind(NamedTuple):
    """HOST:PORT; an IPv6 host without its brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def bind_of(flag: str, text: str) -> Bind:
    """*text* as HOST:PORT. Raises Usage, naming *flag*."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    whole = port.isascii() and port.isdigit() and int(port) < 65536
    if not whole or not host or (":" in host and not text.startswith("[")):
        hint = f"{flag} 127.0.0.1:7843, or {flag} '[::1]:7843'"
        raise Usage(f"{flag} {text} is not HOST:PORT", cause="PORT is 0 to 65535; 0 takes a free one", hint=hint)
    return Bind(host, int(port))


def check_free(command: str, flag: str, bind: Bind) -> None:
    """Raises Failed when nothing can listen there now: who holds it, and which port is free. Port 0 always is."""
    if not bind.port:
        return
    try:
        _try(bind)
    except socket.gaierror as exc:
        raise Usage(f"{flag}: the host {bind.host} cannot be found", cause=exc.strerror or str(exc)) from None
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise Failed(f"cannot listen on {bind.host}:{bind.port}", cause=os.strerror(exc.errno or 0)) from None
        free = f"{bind.host}:{_next_free(bind)}"
        raise Failed(
            f"port {bind.port} on {bind.host} is taken",
            cause=f"held by {holder(bind.port) or 'a process of another user'}",
            hint=f"{command} {flag} {free}",
            port=bind.port,
        ) from None


def _try(bind: Bind) -> None:
    family, kind, proto, _, address = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _next_free(bind: Bind) -> int:
    for port in range(bind.port + 1, min(bind.port + 200, 65536)):
        with contextlib.suppress(OSError):
            _try(Bind(bind.host, port))
            return port
    return 0


class Holder(NamedTuple):
    """The process that listens on a port, and the addresses it does so on, as far as the kernel says them to us."""

    pid: int
    program: str
    addresses: tuple[str, ...]

    @property
    def is_loopback(self) -> bool:
        return all(ipaddress.ip_address(address).is_loopback for address in self.addresses)


def holder(port: int) -> str:
    """`pid 4120 (python3)` for the process that listens on *port*, "" when that cannot be seen."""
    found = held(port)
    return f"pid {found.pid} ({found.program})" if found else ""


def held(port: int) -> Holder | None:
    """Who listens on *port*; None when nobody does, or a process of another user."""
    sockets = _listening(port)
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            mine = {str(fd) for fd in map(_target, (process / "fd").iterdir()) if fd in sockets}
            if mine:
                program = (process / "comm").read_text().strip()
                return Holder(int(process.name), program, tuple(sorted(sockets[each] for each in mine)))
    return None


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:  # closed meanwhile
        return ""


def _listening(port: int) -> dict[str, str]:
    """The sockets that listen on *port*, as /proc/PID/fd names them, and their addresses."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTENING and int(number, 16) == port:
                    found[f"socket:[{fields[9]}]"] = _address(address)
    return found


def _address(raw: str) -> str:
    """`0100007F` is 127.0.0.1: words of four bytes in this machine's byte order."""
    words = bytes.fromhex(raw)
    swap = sys.byteorder == "little"
    octets = b"".join(words[at : at + 4][::-1] if swap else words[at : at + 4] for at in range(0, len(words), 4))
    found = ipaddress.ip_address(octets)
    return str(getattr(found, "ipv4_mapped", None) or found)
