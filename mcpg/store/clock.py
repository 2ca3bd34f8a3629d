"""Time and ids as the database has them. Injectable: everything that needs a clock takes one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]  # microseconds since the epoch, UTC

_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford: no i, l, o, u


def now_us() -> int:
    return time.time_ns() // 1000


def to_datetime(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def uuid7() -> str:
    """RFC 9562 version 7: 48 bits of milliseconds, 74 of randomness."""
    ms = time.time_ns() // 1_000_000
    raw = bytearray(ms.to_bytes(6, "big") + os.urandom(10))
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def short_id(prefix: str) -> str:
    """`op-` and 50 random bits in ten characters that can be read aloud."""
    bits = secrets.randbits(50)
    return prefix + "".join(_BASE32[bits >> shift & 31] for shift in range(45, -5, -5))
