"""
What a server may say, whoever it is: how much, how long, and what counts as JSON. Used by client.py for every answer and
every event; failure.py asks here whether a server was heard at all.
"""

from __future__ import annotations

import codecs
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from mcpg.errors import Unreachable

ANSWER_MAX = 64 * 1024 * 1024  # bytes, unpacked
EVENT_MAX = 4 * 1024 * 1024
_PIECE = 64 * 1024
_VERSION_MAX = 40


class Unbounded(Exception):
    """An answer that is too long, too slow or packed in a way nobody asked for; its words say which."""


class NotAnAnswer(Unreachable):
    """What came instead of an answer would come again: not worth another try."""


class Heard:
    """The control plane that answered last in this run, "" for none: then an error cannot be of its making."""

    url = ""


def whole(parts: Iterable[bytes], packing: str, *, end: float, most: int = ANSWER_MAX) -> bytes:
    """An answer's body. Raises Unbounded for more than *most* bytes, or when it goes on after *end* (monotonic)."""
    body = bytearray()
    for part in unpacked(parts, packing):
        body += part
        if len(body) > most:
            raise Unbounded(f"more than {most // 1024**2} MiB")
        if time.monotonic() > end:
            raise Unbounded("an answer that does not end")
    return bytes(body)


def unpacked(parts: Iterable[bytes], packing: str) -> Iterator[bytes]:
    """*parts* without their Content-Encoding, in small pieces however well they were packed. Raises Unbounded."""
    if packing.strip().lower() in ("", "identity"):
        yield from parts
        return
    if packing.strip().lower() != "gzip":
        raise Unbounded("a packing nobody asked for")
    unpack = zlib.decompressobj(wbits=31)
    try:
        for packed in parts:
            left = packed
            while left and not unpack.eof:
                yield unpack.decompress(left, _PIECE)
                left = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error:
        raise Unbounded("what cannot be unpacked") from None


class Text:
    """A stream's text, as httpx_sse reads it from a response: always UTF-8, and no event longer than EVENT_MAX bytes."""

    def __init__(self, headers: Any, parts: Iterable[bytes]) -> None:
        self.headers = headers
        self._parts = parts

    def iter_text(self) -> Iterator[str]:
        """Raises Unbounded."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        size, tail = 0, b""  # bytes since the last empty line, which ends an event
        for part in unpacked(self._parts, self.headers.get("content-encoding", "")):
            seen = (tail + part).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            ended = seen.rfind(b"\n\n")
            size = size + len(part) if ended < 0 else len(seen) - ended
            if size > EVENT_MAX:
                raise Unbounded(f"an event of more than {EVENT_MAX // 1024**2} MiB")
            tail = part[-3:]
            if text := decoder.decode(part):
                yield text


def parsed(said: str | bytes) -> Any:
    """The JSON in *said*; None for anything else, also for NaN, infinities and what is nested beyond all measure."""
    import json

    try:
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refused(digits)


def release(version: str) -> tuple[int, int] | None:
    """Major and minor, None for what is no version."""
    if len(version) > _VERSION_MAX or not version.isascii():
        return None
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
