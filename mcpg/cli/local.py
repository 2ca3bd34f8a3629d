"""
`mcpg-ctl quickstart` and `serve`: run the control plane in this process.

Both resolve settings.Server with pydantic-settings, refuse what would be unsafe, look whether the ports are free, and
hand over to mcpg/server.py, which returns when it has stopped. quickstart adds a banner and a browser.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpg.cli import contexts, ports, render, resolve
from mcpg.cli.browser import can_open, open_page
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.cli.running import look
from mcpg.errors import McpgError, Usage
from mcpg.settings import Server

if TYPE_CHECKING:
    from mcpg.server import Started

_PLACE = {"org": "default", "workspace": "default", "env": "default"}


def serve(line: Line) -> int:
    """Runs the control plane until it is told to stop. Prints nothing on stdout."""
    settings = resolve.tree(Server, line)
    refuse_open_binds(settings)
    _check_ports("serve" if line.prog == "mcpg-ctl" else "", line, settings)
    from mcpg.server import run

    return run(settings, on_ready=lambda _started: None)


def quickstart(line: Line) -> int:
    """Runs the control plane on the defaults, or finds the one that runs, and shows where everything is."""
    values = resolve.values(line)
    settings = resolve.tree(Server, line)
    refuse_open_binds(settings)
    local = look(settings.state_dir)
    if local.state == "running":
        facts = {**local.record, **local.meta, "state": "already running", "state_dir": str(settings.state_dir)}
        _show(facts, values)
        return 0
    _check_ports("quickstart", line, settings)
    from mcpg.server import run

    def ready(started: Started) -> None:
        names = (
            "http_url",
            "grpc_url",
            "external_url",
            "state_dir",
            "db_path",
            "version",
            "auth_mode",
            "pid",
            "replica",
        )
        facts = {name: getattr(started, name) for name in names}
        facts |= {
            "state": "started",
            "provisioner": started.provisioner,
            "gateway": started.gateway,
            "bind": settings.bind_http,
        }
        _show(facts, values)

    return run(settings, on_ready=ready)


def refuse_open_binds(settings: Server) -> None:
    """Raises Usage when auth mode none would be reachable from other machines, unless that was asked for by name."""
    for flag, text in (("--bind-http", settings.bind_http), ("--bind-grpc", settings.bind_grpc)):
        bind = ports.bind_of(flag, text)
        if settings.auth_mode == "none" and not bind.is_loopback and not settings.insecure_no_auth:
            raise Usage(
                f"{flag} {text} is open to other machines, and auth mode none lets everybody in",
                cause="with auth mode none whoever can connect is an admin, so it listens on loopback only",
                hint=f"{flag} 127.0.0.1:{bind.port}      if the network itself is the guard: --insecure-no-auth",
            )


def _check_ports(verb: str, line: Line, settings: Server) -> None:
    command = f"{line.prog} {verb}".strip()
    ports.check_free(command, "--bind-http", ports.bind_of("--bind-http", settings.bind_http))
    ports.check_free(command, "--bind-grpc", ports.bind_of("--bind-grpc", settings.bind_grpc))


def _show(facts: dict[str, Any], values: Values) -> None:
    """The banner on stdout (the logs are on stderr), and the browser."""
    facts = facts | _remembered(values.state_dir, str(facts["http_url"]).rstrip("/"))
    url = f"{str(facts.get('external_url') or facts['http_url']).rstrip('/')}/"
    opened = not values.no_browser and can_open()
    fields = (
        *("state", "pid", "version", "http_url", "grpc_url", "external_url", "state_dir", "db_path", "auth_mode"),
        "context",
    )
    data = {field: _plain(facts.get(field)) for field in fields}
    here = f" --state-dir {shlex.quote(str(values.state_dir))}" if values.source("state_dir") == "--state-dir" else ""
    render.emit(values.output, data, table=lambda: banner(facts, url, opened=opened, here=here), names=[url])
    sys.stdout.flush()
    if opened:
        open_page(url)


def _remembered(state_dir: Path, url: str) -> dict[str, Any]:
    """
    The context for *url*: `context` its name, "" for none, `target` what a command needs to reach this server, and
    `trouble` why nothing could be stored, which is no reason not to run.
    """
    try:
        contexts.remember_local(state_dir, url)
        found = contexts.read(state_dir)
        for name in sorted(found.stored, key=lambda name: name != found.current):
            values = found.named(name).values
            if values.get("cp_url") == url and _PLACE.items() <= values.items():
                return {"context": name, "target": "" if name == found.current else f" --context {shlex.quote(name)}"}
        trouble = ""
    except McpgError as exc:
        trouble = f"{exc.what}: {exc.cause}"
    place = "".join(f" --{field} {slug}" for field, slug in _PLACE.items())
    return {"context": "", "target": f" --cp-url {shlex.quote(url)}{place}", "trouble": trouble}


def banner(facts: dict[str, Any], url: str, *, opened: bool, here: str) -> list[str]:
    """Where everything is, what is kept, who may connect, and what to do next; *here* says which state directory."""
    home = str(Path.home()) if os.environ.get("HOME") else ""
    database = str(facts.get("db_path") or facts["state_dir"])
    if home and database.startswith(f"{home}/"):
        database = f"~{database.removeprefix(home)}"
    already = facts["state"] == "already running"
    rows = [
        ("UI", url, "opened in the browser" if opened else "open it in a browser"),
        ("REST API", f"{url}v1"),
        ("gRPC", str(facts.get("grpc_url", "")).rpartition("://")[2]),
        ("State", database, "kept between runs"),
        ("Auth", _auth(str(facts.get("auth_mode", "")), str(facts.get("bind", "")))),
    ]
    rows += [("Gateways", f"{facts['provisioner']}: {facts['gateway']}")] if facts.get("gateway") else []
    if facts["context"]:
        rows.append(
            ("Context", facts["context"], "commands come here" if not facts["target"] else "not the current one")
        )
    title = f"mcpg control plane {facts.get('version', '')}"
    return [
        f"{title}, already running, pid {facts.get('pid')}" if already else title,
        *render.columns(rows, indent=2),
        *([f"  Context   none: {render.clean(facts['trouble'])}"] if facts.get("trouble") else []),
        "Next:" if already else "Next, in another terminal:",
        f"  mcpg-ctl provision create{facts['target']} --name edge-1{here}",
        f"  mcpg-ctl status{here}",
        f"Stop it: kill {facts.get('pid')}" if already else "Ctrl-C stops it; its gateways run on.",
    ]


def _auth(mode: str, bind: str) -> str:
    """Who may connect; *bind* is "" for a server of a version that did not write it down."""
    if mode != "none":
        return f"{mode}: whoever signs in"
    if not bind:
        return "none: no credentials"
    is_local = ports.bind_of("--bind-http", bind).is_loopback
    return "none: this machine only" if is_local else "none: everybody who can connect is an admin"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
