"""Room in words: places, cores and bytes, of what there is. Used by `cluster` and by `provision create --dry-run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_GIB = 1024**3
NO_LIMIT = "–"


def room(capacity: dict[str, Any]) -> list[str]:
    """The three kinds, taken (used and reserved) of total: `19 of 50 gateways`, `9.5 of 16 cores`, `31 of 64 GiB`."""
    found = (f"{gateways(capacity)} gateways", cpu(capacity), memory(capacity))
    return [words.replace("/", " of ") for words in found if not words.startswith(NO_LIMIT)]


def gateways(capacity: dict[str, Any], key: str = "") -> str:
    """`19/50`; with a *key* (used, reserved, free) that number alone."""
    return _words(capacity, "gateways", key, str, "")


def cpu(capacity: dict[str, Any], key: str = "") -> str:
    """`9.5/16 cores`."""
    return _words(capacity, "cpu_millicores", key, lambda count: _number(count / 1000), " cores")


def memory(capacity: dict[str, Any], key: str = "") -> str:
    """`31/64 GiB`."""
    return _words(capacity, "memory_bytes", key, lambda count: _number(count / _GIB), " GiB")


def _words(capacity: dict[str, Any], kind: str, key: str, said: Callable[[int], str], unit: str) -> str:
    amount, total = capacity.get(kind) or {}, _total(capacity, kind)
    if key:
        return NO_LIMIT if amount.get(key) is None else said(amount[key]) + unit
    if total is None:
        return NO_LIMIT
    taken = (amount.get("used") or 0) + (amount.get("reserved") or 0)
    return f"{said(taken)}/{said(total)}{unit}"


def _number(amount: float) -> str:
    """Two digits after the point, where they say something."""
    return f"{amount:.2f}".rstrip("0").removesuffix(".")


def _total(capacity: dict[str, Any], kind: str) -> int | None:
    total = (capacity.get(kind) or {}).get("total")
    return total if isinstance(total, int) else None
