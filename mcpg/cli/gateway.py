"""`mcpg-ctl gateway` runs the agent of mcpg/agent in this process; `gateway-status` shows what it has stored and does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.parse import Line
from mcpg.errors import Usage

_URL_MAX = 64 * 1024


def gateway(line: Line) -> int:
    """Enrols, or comes back with its credentials, and heartbeats until it is told to stop."""
    from mcpg.settings import Agent

    where = line.flags.get("enrollment_url_file")
    if isinstance(where, str):
        if "enrollment_url" in line.flags:
            raise Usage("--enrollment-url and --enrollment-url-file are both given", hint="give the file alone")
        line.flags["enrollment_url"] = _enrolment_url(where)
    settings = resolve.tree(Agent, line)
    from mcpg.agent.process import run_gateway

    return run_gateway(settings)


def _enrolment_url(where: str) -> str:
    """The first line of the file, `-` is stdin. It is a secret: a file that others may read is refused."""
    again = "mcpg-ctl token create -o name | mcpg-ctl gateway --enrollment-url-file -"
    try:
        text = sys.stdin.readline(_URL_MAX) if where == "-" else _private_line(Path(where))
    except (OSError, UnicodeDecodeError) as exc:
        cause = getattr(exc, "strerror", None) or "not UTF-8"
        raise Usage(f"--enrollment-url-file {where} cannot be read", cause=cause, hint=again) from None
    if not text.strip():
        shown = "stdin" if where == "-" else where
        raise Usage("--enrollment-url-file holds no URL", cause=f"the first line of {shown} is empty", hint=again)
    return text.strip()


def _private_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        import os
        import stat

        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            cause = f"its mode is {stat.S_IMODE(mode):04o} and it holds a secret"
            raise Usage(f"{path} can be read by other users", cause=cause, hint=f"chmod 600 {path}")
        return file.readline(_URL_MAX)


def status(line: Line) -> int:
    """Prints the stored state of this machine's agent, and what it does if it runs. Exit 0 when there is none."""
    values = resolve.values(line)
    from mcpg.agent.status import status

    data = status(values.state_dir)
    render.emit(
        values.output,
        data,
        table=lambda: _table(data, time.time()),
        names=[str(data["instance_uid"])] if data.get("instance_uid") else [],
    )
    return 0


def _table(data: dict[str, Any], now: float) -> Iterator[str]:
    agent = data["agent"]
    yield f"agent          {render.clean(_says(data, now))}"  # in line with the rows below
    rows = [("state dir", data["state_dir"])]
    if agent["running"] or agent["stale"]:
        rows += _running(agent, now)
    if data["enrolled"] or data["instance_uid"]:
        rows += _stored(data, now)
    else:
        rows.append(("credentials", "none: no gateway has enrolled here"))
    yield from render.columns(rows, indent=2)
    for each in data["problems"]:
        yield f"problem: {render.clean(each['problem'])}"
        if each["fix"]:
            yield f"    fix: {render.clean(each['fix'])}"


def _says(data: dict[str, Any], now: float) -> str:
    from mcpg.agent.credentials import is_foreign

    agent = data["agent"]
    if not agent["running"] and not agent["stale"] and is_foreign(data["issued_at"]):
        return f"not run by mcpg-ctl; another program wrote the credentials {render.ago(data['issued_at'], now)}"
    if not agent["running"]:
        return "not running (it did not stop cleanly)" if agent["stale"] else "not running"
    if not agent["state"]:
        return f"running, pid {agent['pid']}; it has not said how it is"
    since = f"up {render.age(agent['up_since'], now)}, {agent['version']}"
    return f"{agent['state']}, pid {agent['pid']}, {since}, heard {render.ago(agent['written_at'], now)}"


def _running(agent: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    """What the agent said last, or had said when it was killed."""
    if agent["running"]:
        yield "session", _session(agent, now)
    if error := agent["last_error"]:
        yield "last error", f"{error['code']} {render.ago(error['at'], now)}: {error['reason'] or error['event']}"
    at, plane = agent["listener"] or {}, agent["dataplane"] or {}
    if at:
        host = f"[{at['host']}]" if ":" in at["host"] else at["host"]
        yield "MCP", f"http://{host}:{at['port']}{at['mcp_path']}"
    if plane.get("kind") == "exec":
        process = f"pid {plane['pid']}" if plane["pid"] else "not running"
        again = f", started again {plane['restarts']}×" if plane["restarts"] else ""
        yield "data plane", f"{process}{again}, {plane['version'] or plane['program']}"
    if config := agent["config"]:
        which = f" {config['config_hash'][:12]}" if config["config_hash"] else ""
        yield "config", f"{config['source']}{which}, {config['tools']} tools, {render.ago(config['at'], now)}"


def _session(agent: dict[str, Any], now: float) -> str:
    if agent["session_open_since"]:
        return f"open since {render.age(agent['session_open_since'], now)}, {agent['endpoint']}"
    retry = render.epoch(agent["next_retry_at"])
    when = f"; next try in {max(0, round(retry - now))} s" if retry is not None else ""
    return f"none with {agent['endpoint']}{when}"


def _stored(data: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    yield "instance", f"{data['instance_uid'] or '–'}  {data['instance_id'] or ''}".strip()
    yield "registered", render.ago(data["registered_at"], now) if data["registered_at"] else "–"
    yield "credentials", _credentials(data, now)
    yield "endpoint", data["endpoint"] or "–"
    yield "last good", _last_good(data["lkg"], now)


def _last_good(lkg: dict[str, Any] | None, now: float) -> str:
    """What it would run if the control plane were gone."""
    if lkg is None:
        return "none: without a control plane it would serve its local config only"
    kinds = [(kind.replace("_", " "), names) for kind, names in lkg.items() if isinstance(names, list)]
    names = "; ".join(f"{kind} {', '.join(found) or 'none'}" for kind, found in kinds)
    return f"config {lkg['config_hash'][:12]}, written {render.ago(lkg['written_at'], now)}: {names}"


def _credentials(data: dict[str, Any], now: float) -> str:
    if not data["enrolled"]:
        return "none"
    issued = f"issued {render.ago(data['issued_at'], now)}"
    if data["expired"]:
        return f"{issued}, expired {render.ago(data['expires_at'], now)}"
    if data["expires_in_s"] is None:
        return f"{issued}, without an end"
    left = data["expires_in_s"]
    return f"{issued}, expire in {f'{left // 86400}d' if left >= 86400 else render.took(left * 1000)}"
