"""
`mcpg-ctl gateway` as a process: its signals, its log on stderr, its exit code. Called by mcpg/cli/gateway.py.

The first SIGTERM or SIGINT drains, the second ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

from mcpg import errors
from mcpg.agent.events import clean, log_line
from mcpg.agent.gateway import run
from mcpg.settings import Agent


def run_gateway(settings: Agent, *, json_logs: bool | None = None) -> int:
    """
    Runs until a signal and returns the exit code: 0 is a clean stop, 130 one that was cut short.

    Logs one line an event on stderr, as JSON where *json_logs* (None: as the settings say). Errors are printed there
    as well, in three lines (JSON: one), and become their exit code.
    """
    as_json = settings.json_logs if json_logs is None else json_logs
    try:
        asyncio.run(_until_signal(settings, as_json=as_json))
    except errors.McpgError as error:
        told = {"error": error.what, "cause": error.cause, "hint": error.hint}
        told = {name: clean(text) for name, text in told.items() if text}
        if as_json:
            print(json.dumps({"code": error.code, **told}), file=sys.stderr)  # noqa: T201 - stderr is the log
        else:
            print("\n".join(f"{name}: {text}" for name, text in told.items()), file=sys.stderr)  # noqa: T201 - as above
        return errors.exit_code(error.code)
    except asyncio.CancelledError:
        return errors.exit_code("detached")
    return 0


async def _until_signal(settings: Agent, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    whole = asyncio.current_task()

    def signalled() -> None:
        if stop.is_set() and whole is not None:
            whole.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)

    def log(name: str, fields: dict[str, Any]) -> None:
        # Whoever read our log may be gone; a gateway outlives that.
        with contextlib.suppress(OSError):
            print(log_line(name, fields, as_json=as_json), file=sys.stderr, flush=True)  # noqa: T201 - stderr is the log

    await run(settings, stop=stop, on_event=log)
