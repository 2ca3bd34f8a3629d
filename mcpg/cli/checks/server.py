"""Checks of the ports here and of the control plane at the URL: who listens, who answers, in which version, how fast."""

from __future__ import annotations

import shlex
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from mcpg import __version__
from mcpg.cli import ports, render, running
from mcpg.cli.checks.facts import ANSWER_S, Facts, Skip, Verdict, bad, good, note
from mcpg.cli.client import RemoteError
from mcpg.errors import McpgError, Unavailable, Unreachable

_FIRST_BYTE_S = 1.0
_HEARTBEAT_S = 20.0  # the server's keep-alive comes every 15 s
_SKEW_NOTED_S = 30.0
_SKEW_BAD_S = 300.0  # tokens are refused


def port_http(facts: Facts) -> Verdict:
    """Whether the API's port is ours or free."""
    return _port(facts, "--bind-http", facts.values.bind_http, "http_url")


def port_grpc(facts: Facts) -> Verdict:
    """Whether the gateways' port is ours or free."""
    return _port(facts, "--bind-grpc", facts.values.bind_grpc, "grpc_url")


def _port(facts: Facts, flag: str, wanted: str, field: str) -> Verdict:
    local = facts.local
    if local.state in ("running", "silent"):
        port = urlsplit(str(local.record.get(field))).port or 0
        return _ours(port, ports.held(port), int(local.record["pid"]))
    bind = ports.bind_of(flag, wanted)
    holder = ports.held(bind.port) if bind.port else None
    if holder is not None and facts.answers and holder.pid == facts.server.meta.get("pid"):
        theirs = shlex.quote(str(facts.server.meta.get("state_dir")))
        words = f"{bind.port} is held by the control plane of another state directory, pid {holder.pid}"
        return note(words, f"mcpg-ctl status --state-dir {theirs}")
    try:
        ports.check_free("mcpg-ctl serve", flag, bind)
    except McpgError as exc:
        if facts.answers:
            raise Skip(f"{exc.what}, and the control plane in use is at {facts.api.url}") from None
        return bad(f"{exc.what}: {exc.cause}", exc.hint or f"mcpg-ctl serve {flag} 127.0.0.1:0")
    return good(f"{wanted} is free" if bind.port else f"{wanted}: each start takes a free one")


def _ours(port: int, holder: ports.Holder | None, pid: int) -> Verdict:
    if holder is None:
        raise Skip(f"{port}: the kernel does not say who listens there")
    if holder.pid != pid:
        words = f"{port} is held by pid {holder.pid} ({holder.program}), not by the control plane, pid {pid}"
        return bad(words, f"kill {pid} && mcpg-ctl serve")
    return good(f"{port} is held by the control plane here, pid {pid} ({holder.program})")


def reachable(facts: Facts) -> Verdict:
    """Whether a control plane, and not something else, answers at the URL that commands use."""
    source, server = facts.values.source("cp_url"), facts.server
    local_url = facts.local.record.get("http_url") if facts.local.state == "running" else None
    if facts.answers:
        return good(
            f"{facts.api.url} ({source}) answers in {render.took(server.took_ms)}, version {server.meta['version']}"
        )
    if server.problem is None:
        words = f"what answers at {facts.api.url} ({source}) is not a control plane: its /v1/meta has no version"
    else:
        words = f"{server.problem.what}: {server.problem.cause}"
    if local_url:
        return note(f"{words}; the one here is at {local_url}", f"export MCPG_CP_URL={local_url}")
    is_unset = source == "default" and isinstance(server.problem, Unreachable) and server.problem.what.startswith("no ")
    if is_unset:
        raise Skip(f"none runs at {facts.values.cp_url} (the default): mcpg-ctl quickstart starts one")
    return bad(words, _way_on(facts, source))


def ready(facts: Facts) -> Verdict:
    """Whether the control plane can do its work, as /readyz has it: its database answers and can be written to."""
    problem: Unavailable | None = None
    found: running.Ready | None = None
    try:  # before anything else is asked: a database that is away takes its time
        found = running.readiness(facts.values.cp_url, answer_s=ANSWER_S)
    except ValueError:
        pass  # of a URL that cannot be read, as the check before says
    except Unavailable as exc:
        problem = exc
    facts.need_server()
    if problem is not None:
        words = f"{facts.api.url}/readyz does not answer ({problem.cause}): its database may hang"
        return bad(words, _of_the_database(facts))
    if found is None:
        raise Skip("the control plane does not say whether it is ready")
    if not found.ready:
        return bad(f"the control plane at {facts.api.url} cannot do its work: {found.why}", _of_the_database(facts))
    return good("it is ready: its database answers and can be written to")


def _of_the_database(facts: Facts) -> str:
    """What shows how the database is, where it is known which one it is."""
    local = facts.local
    if local.state != "running" or local.meta.get("replica") != facts.server.meta.get("replica"):
        return f"curl -sS {shlex.quote(f'{facts.api.url}/readyz')}"
    where = facts.place
    return (
        f"pg_isready -d {shlex.quote(where.shown)}" if where.path is None else f"df -h {shlex.quote(str(where.path))}"
    )


def _way_on(facts: Facts, source: str) -> str:
    if source == "MCPG_CP_URL":
        return "unset MCPG_CP_URL"
    problem = facts.server.problem
    could_start = problem is not None and problem.what.startswith("no ") and problem.hint.startswith("start one")
    return "mcpg-ctl quickstart" if could_start else "mcpg-ctl config explain"


def version(facts: Facts) -> Verdict:
    """Whether client and control plane are of one release: patches may differ."""
    theirs = str(facts.need_server().meta["version"])
    if theirs.split(".")[:2] != __version__.split(".")[:2]:
        words = f"the control plane is {theirs}, this program {__version__}"
        return note(words, f"pip install 'mcpg-control-plane=={theirs}'")
    return good(theirs if theirs == __version__ else f"{theirs}, this program {__version__}")


def auth(facts: Facts) -> Verdict:
    """Whether a control plane that asks for no credentials listens beyond this machine."""
    values, local = facts.values, facts.local
    if local.state not in ("running", "silent"):
        binds = [ports.bind_of("--bind-http", values.bind_http), ports.bind_of("--bind-grpc", values.bind_grpc)]
        is_open = values.auth_mode == "none" and not all(bind.is_loopback for bind in binds)
        if is_open and not values.insecure_no_auth:
            words = (
                f"{values.bind_http}, {values.bind_grpc} with auth mode none would let everybody in: serve refuses that"
            )
            return bad(words, "unset MCPG_CP_BIND_HTTP MCPG_CP_BIND_GRPC")
        return good(f"{values.auth_mode}" + (", this machine only" if not is_open else ", open on purpose"))
    mode = str(local.record.get("auth_mode"))
    listening = [ports.held(urlsplit(str(local.record.get(field))).port or 0) for field in ("http_url", "grpc_url")]
    exposed = [each for each in listening if each is not None and not each.is_loopback]
    if mode == "none" and exposed:
        where = ", ".join(sorted({address for each in exposed for address in each.addresses}))
        words = f"auth mode none, and it listens on {where}: whoever can connect is an admin"
        return note(words, "mcpg-ctl serve --bind-http 127.0.0.1:7843 --bind-grpc 127.0.0.1:7844")
    return good(f"{mode}, this machine only" if mode == "none" else mode)


def clock(facts: Facts) -> Verdict:
    """How far this machine's clock is from the control plane's, by the Date of its answer (whole seconds)."""
    facts.need_server()
    before = time.time()
    with facts.api.arriving("v1", "meta", silence_s=1.5) as (headers, _):
        after = time.time()
    try:
        theirs = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        raise Skip("the control plane does not say what time it has") from None
    ahead = (before + after) / 2 - (theirs + 0.5)
    words = (
        f"this machine is {render.took(abs(ahead) * 1000)} {'ahead of' if ahead > 0 else 'behind'} the control plane"
    )
    if abs(ahead) <= _SKEW_NOTED_S:
        return good(words if abs(ahead) > 2 else "as the control plane's")
    if abs(ahead) <= _SKEW_BAD_S:
        return note(words, "timedatectl set-ntp true")
    return bad(f"{words}: tokens are refused", "timedatectl set-ntp true")


def events(facts: Facts) -> Verdict:
    """Whether events come as they happen: a proxy that buffers keeps them until nobody waits any more."""
    facts.need_server()
    patience = _HEARTBEAT_S if facts.values.slow else _FIRST_BYTE_S
    url = shlex.quote(f"{facts.api.url}/v1/events")
    began = time.monotonic()
    first: float | None = None
    try:
        with facts.api.arriving("v1", "events", silence_s=patience) as (_, chunks):
            if next(chunks, b""):
                first = time.monotonic() - began
            beat = bool(first is not None and facts.values.slow and next(chunks, b""))
    except RemoteError as exc:
        raise Skip(f"the control plane does not give its events: {exc.what}") from None
    except Unreachable:
        beat = False
    if first is None or first > _FIRST_BYTE_S:
        words = f"no byte of {facts.api.url}/v1/events within {_FIRST_BYTE_S:g} s: something on the way buffers it"
        return bad(f"{words} (nginx: proxy_buffering off)", f"curl -N --max-time 5 {url}")
    if facts.values.slow and not beat:
        return bad(
            f"no heartbeat within {_HEARTBEAT_S:g} s: a cut stream would go unnoticed", f"curl -N --max-time 40 {url}"
        )
    beats = f", heartbeat seen in {render.took((time.monotonic() - began) * 1000)}" if facts.values.slow else ""
    return good(f"first byte in {render.took(first * 1000)}{beats}")
