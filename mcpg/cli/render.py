"""
How data looks: `-o`, tables, ages, sizes, colour, and text from elsewhere made safe for a terminal. No I/O but stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

Row = Sequence[str]

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2"}
# What a terminal would obey rather than show: C0, C1, DEL, and Unicode's directional overrides and isolates.
_UNSAFE = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], None),
    **dict.fromkeys((0x200E, 0x200F, 0x061C), None),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # bytes of the command line that are not UTF-8
    **dict.fromkeys((0x09, 0x0A, 0x0D, 0x2028, 0x2029), " "),
}


def clean(text: object) -> str:
    """*text* without anything that a terminal would obey; line ends and tabs become spaces."""
    return str(text).translate(_UNSAFE).strip()


def without_login(url: str) -> str:
    """
    *url* without the name and password that it may hold: `https://user:secret@host` is a URL too. Of one that is
    mistyped, everything between the scheme and the last `@` is left out, since a password may hold what ends a host.
    """
    _, login, place = url.rpartition("@")
    scheme, slash, _ = url.partition(":/")
    return f"{scheme}://{place}" if login and slash and scheme.lower() in ("http", "https") else place


def has_colour(stream: TextIO) -> bool:
    """NO_COLOR wins over FORCE_COLOR, as in Python; otherwise colour is for terminals that are not dumb."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return (os.environ.get("TERM") or "dumb") != "dumb" and stream.isatty()


def painted(text: str, colour: str, stream: TextIO) -> str:
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if has_colour(stream) else text


def emit(
    output: str,
    data: Any,
    *,
    table: Callable[[], Iterable[str]],
    wide: Callable[[], Iterable[str]] | None = None,
    names: Iterable[str] = (),
) -> None:
    """Prints *data* on stdout as *output* says. `table` and `wide` make the lines for people, only when asked for."""
    if output == "json":
        import json

        lines: Iterable[str] = (json.dumps(data, indent=2),)
    elif output == "jsonl":
        import json

        lines = (json.dumps(each) for each in (data if isinstance(data, list) else [data]))
    elif output == "yaml":
        import yaml

        lines = (yaml.safe_dump(data, sort_keys=False).rstrip("\n"),)
    elif output == "name":
        lines = (clean(name) for name in names)
    else:
        lines = wide() if output == "wide" and wide is not None else table()
    for line in list(lines):  # all of it or, when it cannot be shown, nothing
        sys.stdout.write(f"{line}\n")


def columns(
    rows: Sequence[Row],
    *,
    width: int | None = None,
    indent: int = 0,
    right: frozenset[int] = frozenset(),
    wrap: bool = False,
) -> list[str]:
    """
    Rows as aligned lines, two spaces between columns, those in *right* flush right; rows may differ in length.

    With a *width* (a terminal) nothing is longer: the widest columns give way first, never the one that names the row, and
    what is cut ends in `…`; with *wrap* the last column goes on in the next line instead, so that nothing is lost.
    """
    rows = [[clean(cell) for cell in row] for row in rows]
    count = max(map(len, rows), default=0)
    sizes = [max((len(row[at]) for row in rows if at < len(row)), default=0) for at in range(count)]
    if width is not None and wrap:
        rows, sizes = _folded(rows, sizes, width - indent)
    if width is not None:
        sizes = _narrowed(sizes, width - indent)

    def aligned(row: Row) -> str:
        ends = len(row) - 1 if len(row) < len(sizes) else len(sizes)  # a short row's last cell has room beside it
        cells = [cell if at == ends else _cut(cell, sizes[at]) for at, cell in enumerate(row)]
        padded = (cell.rjust(sizes[at]) if at in right else cell.ljust(sizes[at]) for at, cell in enumerate(cells))
        return (" " * indent + "  ".join(padded)).rstrip()

    lines = [aligned(row) for row in rows]
    return [line if width is None or len(line) <= width else line[: width - 1] + "…" for line in lines]


_BRIEF = 100  # characters of a sentence in a list, wherever that is printed
_PAGE = 80  # columns, of a terminal that does not say
_LEAST = 12  # a column that gives way keeps so much
_READABLE = 24  # the last column is wrapped beside the others while it has so much, else below them


def _narrowed(sizes: list[int], width: int) -> list[int]:
    """Column widths that fit, as far as the least widths allow. The first column stays as it is."""
    sizes = list(sizes)
    over = sum(sizes) + 2 * (len(sizes) - 1) - width
    while over > 0:
        at = max(range(1, len(sizes)), key=lambda each: sizes[each], default=0)
        if at == 0 or sizes[at] <= _LEAST:
            break
        sizes[at] -= 1
        over -= 1
    return sizes


def _cut(cell: str, size: int) -> str:
    return cell if len(cell) <= size else cell[: size - 1].rstrip() + "…"


def brief(text: str) -> str:
    """A sentence for a cell of a list: what is longer than that ends in `…`, and is told in full where one thing is shown."""
    return _cut(clean(text), _BRIEF)


def _folded(rows: Sequence[Row], sizes: list[int], width: int) -> tuple[Sequence[Row], list[int]]:
    """Rows whose last cell stands on as many lines as it needs: beside the others, or below them from the third on."""
    from textwrap import wrap

    last, left = len(sizes) - 1, width - sum(sizes[:-1]) - 2 * (len(sizes) - 1)
    beside = left >= _READABLE
    if last < (1 if beside else 4) or sizes[-1] <= left:
        return rows, sizes
    room = left if beside else width - sum(sizes[:2]) - 4
    made: list[list[str]] = []
    for row in rows:
        words = wrap(row[last], max(room, _LEAST)) if len(row) > last else []
        first = words[:1] if beside else []
        made.append([*row[:last], *first])
        made += [[""] * (last if beside else 2) + [text] for text in words[len(first) :]]
    return made, [*sizes[:-1], max(left, 0)] if beside else sizes[:-1]


def terminal_width() -> int | None:
    """How many columns stdout has, None when it is not a terminal: then only `brief` cuts."""
    if not sys.stdout.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    return int(said) if is_size(said) else os.get_terminal_size(sys.stdout.fileno()).columns or _PAGE


def is_size(text: str) -> bool:
    """Whether *text* is a number of columns or lines."""
    return text.isascii() and text.isdecimal() and len(text) < 6 and int(text) > 0


def pairs(data: Mapping[str, Any], *, indent: int = 0) -> list[str]:
    """A mapping as `key  value` lines; nested keys are joined with dots."""
    return columns(list(_flat(data)), indent=indent)


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterable[Row]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield f"{prefix}{key}", "yes" if value else "no"
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or "–"
        else:
            yield f"{prefix}{key}", "–" if value is None or value in ("", {}) else str(value)


def counted(counts: Mapping[str, int]) -> str:
    """`ready 3 · failed 1`, or `none`."""
    return " · ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def took(ms: float | None) -> str:
    """A duration for people: 4ms, 0.9s, 12s, 1m19s, 2h5m; "" for None."""
    if ms is None:
        return ""
    if ms < 100:
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60}m"


def age(at: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was, in its largest unit: now, 4s, 3m, 2h, 5d; `?` when it is no time."""
    then = epoch(at)
    if then is None:
        return "?"
    seconds = int(now - then)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "now"


def ago(at: str | None, now: float) -> str:
    """`3m ago`, `now`, `?`."""
    text = age(at, now)
    return text if text in ("now", "?") else f"{text} ago"


def epoch(at: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(at or "").timestamp()
    except ValueError:
        return None


def size(count: int) -> str:
    """Bytes for people: 512 B, 1.2 MiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError(count)
