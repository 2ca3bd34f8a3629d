"""
How an error looks: three short lines on stderr, or one JSON object with `-o json`. Called by main.py alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from mcpg.cli.render import clean, painted
from mcpg.errors import McpgError, exit_code


def wants_json(argv: list[str]) -> bool:
    """Whether the caller asked for JSON. Read from the raw line, since the line itself may be what is wrong."""
    for at, arg in enumerate(argv):
        if arg == "--":
            break
        if arg in ("-o", "--output"):
            return argv[at + 1 : at + 2] in (["json"], ["jsonl"])
        if arg.startswith("--output="):
            return arg.removeprefix("--output=") in ("json", "jsonl")
        if arg.startswith("-o"):
            return arg[2:].removeprefix("=") in ("json", "jsonl")
    return os.environ.get("MCPG_OUTPUT", "") in ("json", "jsonl")


def show(exc: Exception, *, as_json: bool) -> int:
    """Prints *exc* on stderr and returns its exit code."""
    if os.environ.get("MCPG_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(exc)
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        exc = McpgError(f"{where}{exc.strerror or exc}")
    if not isinstance(exc, McpgError):
        exc = McpgError(
            f"this is a bug in mcpg-ctl: {type(exc).__name__}: {exc}",
            hint="run it again with MCPG_DEBUG=1 and report what it prints",
        )
    if as_json:
        import json

        sys.stderr.write(json.dumps({"error": as_data(exc)}) + "\n")
    else:
        sys.stderr.write("".join(f"{line}\n" for line in as_lines(exc)))
    return exit_code(exc.code)


def as_data(exc: McpgError) -> dict[str, Any]:
    return {
        "code": exc.code,
        "message": exc.what,
        "cause": exc.cause,
        "hint": exc.hint,
        "request_id": getattr(exc, "request_id", ""),
        "details": exc.details,
    }


def as_lines(exc: McpgError) -> list[str]:
    title, colour = ("detached:", "yellow") if exc.code == "detached" else ("error:", "red")
    lines = [f"{painted(title, colour, sys.stderr)} {clean(exc.what)}"]
    if exc.cause:
        lines.append(f"{painted('cause:', 'yellow', sys.stderr)} {clean(exc.cause)}")
    if exc.hint:
        lines.append(f"{painted('hint:', 'cyan', sys.stderr)}  {clean(exc.hint)}")
    request_id = getattr(exc, "request_id", "")
    if request_id:
        lines.append(f"request {clean(request_id)}")
    return lines
