"""
How an error looks: three short lines on stderr, one JSON object with `-o json`, or a log line with `--json-logs`. Called
by main.py alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NamedTuple

from mcpg import __version__
from mcpg.cli.answers import Heard
from mcpg.cli.render import clean, painted
from mcpg.errors import McpgError, Unreachable, exit_code

_CAUSE_MAX = 200  # characters; it may hold what a server said


# What comes of data that is not of the shape it should have: one net here instead of a check for each field.
_MISFITS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)


class Manner(NamedTuple):
    """How the caller wants to be told: `as_json` one object, `as_logs` a log line, which holds the same object."""

    as_json: bool
    as_logs: bool


def manner(argv: list[str]) -> Manner:
    """What *argv*, the environment and the context say. Never raises: the line itself may be what is wrong."""
    from mcpg.cli import resolve
    from mcpg.cli.commands import COMMANDS
    from mcpg.cli.parse import parse

    line = resolve.client_line(parse("", argv, COMMANDS))
    options = {option.field: option for option in resolve.command_of(line).options}
    stored = None

    def value(field: str) -> Any:
        try:
            return resolve.one(options[field], line, os.environ, stored)[0]
        except McpgError:
            return options[field].default

    with contextlib.suppress(McpgError):  # it may be the error that is about to be shown
        stored = resolve.context_of(line, os.environ)
    return Manner(value("output") in ("json", "jsonl"), bool(value("json_logs")))


def show(exc: Exception, how: Manner) -> int:
    """Prints *exc* on stderr and returns its exit code."""
    trace = _trace(exc) if os.environ.get("MCPG_DEBUG", "") not in ("", "0") else ""
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        exc = McpgError(f"{where}{exc.strerror or exc}")
    if isinstance(exc, _MISFITS) and Heard.url:
        exc = _misfit(exc)
    if not isinstance(exc, McpgError):
        exc = McpgError(
            f"this is a bug in mcpg-ctl: {type(exc).__name__}: {exc}",
            hint="run it again with MCPG_DEBUG=1 and report what it prints",
        )
    if how.as_logs:
        from mcpg.cli.talk import logged

        more = {"traceback": trace} if trace else {}
        said = logged(exc.what, event=exc.code, level="error", error=as_data(exc), **more)
    elif how.as_json:
        import json

        said = trace + json.dumps({"error": as_data(exc)})
    else:
        said = trace + "\n".join(as_lines(exc))
    sys.stderr.write(f"{said}\n")
    return exit_code(exc.code)


def _misfit(exc: Exception) -> McpgError:
    """A server's data could not be shown. Whose mistake it is nobody can tell from here, but it is not the caller's."""
    return Unreachable(
        f"what answers at {Heard.url} does not speak this version's language",
        cause=f"mcpg-ctl {__version__} cannot read its answer: {type(exc).__name__}: {str(exc)[:_CAUSE_MAX]}",
        hint="-o json prints the answer as it is; MCPG_DEBUG=1 shows where it was not understood",
    )


def _trace(exc: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(exc))


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
