"""`mcpg-ctl gateway` runs the agent of mcpg/agent in this process; `gateway-status` shows what it has stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.parse import Line


def gateway(line: Line) -> int:
    """Enrols, or comes back with its credentials, and heartbeats until it is told to stop."""
    from mcpg.settings import Agent

    settings = resolve.tree(Agent, line)
    from mcpg.agent.gateway import run_gateway

    return run_gateway(settings)


def _table(data: dict[str, Any], state_dir: Path) -> list[str]:
    if not data.get("enrolled"):
        problems = [f"problem: {render.clean(problem)}" for problem in data.get("problems") or []]
        return [f"no gateway has enrolled with {render.clean(state_dir)}", *problems]
    return render.pairs(data)


def status(line: Line) -> int:
    """Prints the stored state of this machine's agent. Exit 0 when there is none."""
    values = resolve.values(line)
    from mcpg.agent.status import status

    data = status(values.state_dir)
    render.emit(
        values.output,
        data,
        table=lambda: _table(data, values.state_dir),
        names=[str(data["instance_uid"])] if data.get("instance_uid") else [],
    )
    return 0
