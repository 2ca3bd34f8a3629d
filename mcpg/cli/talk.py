"""
What is said on stderr: lines for people, or with --json-logs one JSON object a line. Used by failure.py, by the ladder and
by whoever has a note to give.

    {"at": "2026-11-22T10:21:07.114Z", "level": "info", "event": "resumed", "message": "the stream was cut", …}
"""

from __future__ import annotations

import sys
from typing import Any


def tell(text: str, *, as_logs: bool, event: str, level: str = "info", **facts: Any) -> None:
    """
    One line on stderr: *text* for people, which the caller has made safe (render.clean), or the JSON object with
    *event*, *level* (info, warning, error) and *facts*.
    """
    said = logged(text, event=event, level=level, **facts) if as_logs else text
    sys.stderr.write(f"{said}\n")
    sys.stderr.flush()


def logged(text: str, *, event: str, level: str, **facts: Any) -> str:
    """The JSON object of one line. The keys before `message` are always there, in this order."""
    import json
    from datetime import UTC, datetime

    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"at": at, "level": level, "event": event, "message": text, **facts})
