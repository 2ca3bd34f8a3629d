"""
The canonical form of a journal line and its hash: what ties a history together. Pure, and light enough for the command line.

A line's hash is sha256 over the canonical JSON (sorted keys, no spaces, UTF-8) of the array [prev_hash, machine, subject,
seq, event, source, dest, actor, reason, facts, data, definition, at], `at` being microseconds since the epoch and
prev_hash "" in a subject's first line. mcpg/store/journal.py writes it, mcpg/machines/replay.py checks it.
"""

from __future__ import annotations

import hashlib
import json
import json.encoder
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False)
quoted: Callable[[str], str] = json.encoder.encode_basestring  # text as canonical JSON has it


def _encoder() -> Callable[[Any], str]:
    """`_ENCODER.encode`, which makes a new C encoder for each value, with one that is made once; where there is one."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    chunks = make(None, _ENCODER.default, quoted, None, ":", ",", True, False, True)
    join = "".join
    return lambda value: join(chunks(value, 0))


_encode = _encoder()


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, nothing escaped that need not be."""
    return _encode(value)


class Entry(NamedTuple):
    """One line as it is checked: `facts` and `data` are canonical JSON text, `at` microseconds since the epoch."""

    machine: str
    seq: int
    event: str
    source: str
    dest: str
    actor: str
    reason: str
    facts: str
    data: str
    definition: str
    prev_hash: str
    hash: str
    at: int


def entry(machine: str, line: Mapping[str, Any]) -> Entry:
    """
    A line of the wire (`Transition`) as an entry. Raises KeyError for one of a server that does not say `at_us`,
    TypeError for values of another type.
    """
    texts = [line[key] for key in ("event", "source", "dest", "actor", "reason", "definition", "prev_hash", "hash")]
    seq, at = line["seq"], line["at_us"]
    if not all(isinstance(text, str) for text in texts) or type(seq) is not int or type(at) is not int:
        raise TypeError(f"line {seq!r} holds a value of another type")
    event, source, dest, actor, reason, definition, prev_hash, digest = texts
    facts, data = canonical(line["facts"]), canonical(line["data"])
    return Entry(machine, seq, event, source, dest, actor, reason, facts, data, definition, prev_hash, digest, at)


def entry_hash(subject: str, e: Entry) -> str:
    """The hash the line must have; `Entry.hash` is what it has."""
    head = canonical([e.prev_hash, e.machine, subject, e.seq, e.event, e.source, e.dest, e.actor, e.reason])
    text = f"{head[:-1]},{e.facts},{e.data},{canonical([e.definition, e.at])[1:]}"
    return hashlib.sha256(text.encode()).hexdigest()


def broken(subject: str, lines: Iterable[Entry]) -> int:
    """The seq of the first line that does not follow from the one before it; 0 when the whole chain holds."""
    seq, last = 0, ""
    for e in lines:
        if e.seq != seq + 1 or e.prev_hash != last or entry_hash(subject, e) != e.hash:
            return seq + 1
        seq, last = e.seq, e.hash
    return 0
