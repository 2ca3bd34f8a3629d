"""
Ports for programs that are told theirs before they start: each is handed out once, to nobody else.

A port that the kernel chose and that was let go of again can be anybody's a moment later: a client's end of a connection is
given one from the same range. So these lie outside of that range, in blocks of a hundred. Who hands ports of a block out
holds its name among the abstract sockets of the machine, where the ports themselves are: the workers of one run and other
runs beside it have other blocks, and the kernel takes a block back when its process ends, however it ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

FIRST, LAST, BLOCK = 10_000, 65_535, 100
KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody has, and that nobody else is given as long as this process lives."""
    return next(_ports(os.getpid()))


@cache
def _ports(_: int) -> Iterator[int]:
    return handed_out()


def handed_out() -> Iterator[int]:
    """Ports of blocks that are held from then on, until the iterator is closed."""
    held = []
    try:
        for block in blocks(*map(int, KERNELS.read_text().split())):
            if (name := _hold(block)) is not None:
                held.append(name)
                yield from filter(is_free, block)
    finally:
        for name in held:
            name.close()
    raise RuntimeError(f"no port is left outside of the kernel's own range: {KERNELS} is {KERNELS.read_text()}")


def blocks(low: int, high: int) -> Iterator[range]:
    """Those outside of the kernel's own range, from *low* to *high*."""
    for first in range(FIRST, LAST + 2 - BLOCK, BLOCK):
        block = range(first, first + BLOCK)
        if block[-1] < low or block[0] > high:
            yield block


def _hold(block: range) -> socket.socket | None:
    """A socket whose name says that this process has the block; None when another has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0mcpg-test-ports-{block[0]}")
    except OSError:
        name.close()
        return None
    return name


def is_free(port: int) -> bool:
    """Whether nothing listens there, on any address, nor did a moment ago."""
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
