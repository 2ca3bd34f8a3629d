"""States as people see them: word, glyph and tone together, never colour alone. One table for every page."""

from __future__ import annotations

from datetime import datetime

_TONES = {
    "good": ("✓", ("ready", "online", "registered", "deleted", "recovered")),
    "busy": (
        "◐",
        (
            "allocating",
            "applying",
            "confirming",
            "requested",
            "enrolling",
            "draining",
            "deleting",
            "recovering",
            "waiting",
            "restarting",
            "watching",
        ),
    ),
    "warn": ("!", ("stale", "rolling_back", "compensating", "paused", "quarantined", "cancelled")),
    "bad": ("✕", ("failed", "departed")),
    "none": ("–", ("decommissioned", "superseded")),
}
_BY_STATE = {state: (glyph, tone) for tone, (glyph, states) in _TONES.items() for state in states}


def glyph(state: str) -> str:
    return _BY_STATE.get(state, ("·", "none"))[0]


def tone(state: str) -> str:
    """good, busy, warn, bad or none: the CSS class."""
    return _BY_STATE.get(state, ("·", "none"))[1]


def age(then: datetime | None, now: datetime) -> str:
    """`3m`, `2h`, `5d`: how long ago; "never" without a time."""
    if then is None:
        return "never"
    seconds = max(0, int((now - then).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def duration(ms: float) -> str:
    """`83ms`, `2.6s`, `4m12s`."""
    if ms < 1000:
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
