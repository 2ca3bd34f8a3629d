"""
Size classes: what one replica of each size takes of its cluster's CPU and memory. Read from a setting, used by requests.py.

A gateway keeps the amounts it was accepted with, until its size is asked for again. The local provisioner accounts them
and enforces nothing: its gateways are plain processes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

CLASSES: Final = ("s", "m", "l", "xl")
DEFAULT: Final = "s=250m/256Mi,m=500m/512Mi,l=1000m/1Gi,xl=2000m/2Gi"
_UNITS: Final = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_CLASS = re.compile(r"([a-z]+)=([0-9]{1,12})m/([0-9]{1,12})(|Ki|Mi|Gi)")


class Size(NamedTuple):
    """Of one replica."""

    cpu_millicores: int
    memory_bytes: int


MOST: Final = Size(10**9, 2**40)  # SQLite can add up a million of them, the places of the largest cluster
Sizes = Mapping[str, Size]


def parse(text: str) -> Sizes:
    """`s=250m/256Mi,…`: millicores and memory of every class. Raises ValueError with what is wrong."""
    found: dict[str, Size] = {}
    for part in text.split(","):
        match = _CLASS.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not CLASS=<millicores>m/<memory>[Ki|Mi|Gi], e.g. s=250m/256Mi")
        name, cpu, memory, unit = match.groups()
        if name not in CLASSES or name in found:
            raise ValueError(
                f"{name!r} is given twice" if name in found else f"{name!r} is none of {', '.join(CLASSES)}"
            )
        found[name] = Size(int(cpu), int(memory) * _UNITS[unit])
        if found[name].cpu_millicores > MOST.cpu_millicores or found[name].memory_bytes > MOST.memory_bytes:
            raise ValueError(f"{part.strip()!r} takes too much: at most 1000000000m and 1024Gi")
        if not all(found[name]):
            raise ValueError(f"{part.strip()!r} takes nothing: CPU and memory are at least 1")
    if missing := [name for name in CLASSES if name not in found]:
        raise ValueError(f"{', '.join(missing)} is missing: all of {', '.join(CLASSES)} are needed")
    return found
