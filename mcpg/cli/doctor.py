"""
`mcpg-ctl doctor`: what is wrong here, and the command that mends it.

`CHECKS` is the whole list. All run side by side, each in a thread of its own with two seconds, so that whatever hangs
hangs alone. Nothing is written and nothing is sent but GET requests; the checks themselves are in mcpg/cli/checks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mcpg.cli import render, resolve
from mcpg.cli.checks import client, fleet, machine, server, state
from mcpg.cli.checks.facts import Facts, Skip, Verdict
from mcpg.cli.parse import Line
from mcpg.errors import McpgError

SCHEMA_VERSION = 1
PATIENCE_S = 2.0
_SLOW_S = 22.0
_WITH_TRACEBACK = "MCPG_DEBUG=1 mcpg-ctl doctor"


class Check(NamedTuple):
    """`id` is stable: scripts know it. `title` says what is asked; `slow` ones may take longer under --slow."""

    id: str
    title: str
    run: Callable[[Facts], Verdict]
    slow: bool = False


CHECKS = (
    # this installation and this machine
    Check("python", "Python is a version this program takes", machine.python),
    Check("packages", "required packages are there", machine.packages),
    Check("file-limit", "enough files may be open", machine.files),
    Check("browser", "a browser can be opened", machine.browser),
    Check("proxy", "no proxy stands before this machine's loopback", machine.proxy),
    Check("gateway-binary", "a gateway program is there and answers", machine.gateway),
    # the state directory and its database
    Check("state", "the state directory is ours alone", state.directory),
    Check("disk", "there is room to write", state.space),
    Check("filesystem", "the database is on a local file system", state.filesystem),
    Check("database", "the database opens and is whole", state.content),
    Check("schema", "this version can work on the database", state.schema),
    Check("journal-mode", "the database is in WAL mode", state.journal_mode),
    Check("journal-time", "the journal's newest line is not in the future", state.journal_time),
    Check("server-record", "server.json tells the truth", state.record),
    Check("gateway-agent", "the gateway agent of the state directory is well", state.gateway_agent),
    # what listens here, and what answers at the URL
    Check("port-http", "the API's port is free or ours", server.port_http),
    Check("port-grpc", "the gateways' port is free or ours", server.port_grpc),
    Check("control-plane", "a control plane answers at the URL", server.reachable),
    Check("ready", "the control plane can do its work", server.ready),
    Check("version", "client and control plane are of one release", server.version),
    Check("auth", "nobody gets in without credentials", server.auth),
    Check("clock", "both clocks agree", server.clock),
    Check("sse", "events come as they happen", server.events, slow=True),
    # what this user has stored
    Check("context", "stored contexts can be used", client.context),
    Check("credentials", "the stored login can be used", client.login),
    Check("session", "the given session can be used", client.session),
    # what the control plane looks after
    Check("operations", "no operation is stuck", fleet.operations),
    Check("stranded", "somebody looks after everything", fleet.stranded),
    Check("agents", "all agents are heard", fleet.agents),
    Check("clusters", "all clusters are reachable", fleet.clusters),
    Check("orphans", "no gateway has lost its cluster", fleet.orphans),
    Check("states", "all rows are in known states", fleet.states),
)


def doctor(line: Line) -> int:
    """Prints every check's verdict. Exit 1 when one failed, with --strict also when one warned."""
    with contextlib.closing(_facts(line)) as facts:
        values = facts.values
        found = examine(CHECKS, facts, patience_s=PATIENCE_S)
    summary: dict[str, Any] = {status: sum(each["status"] == status for each in found) for status in _MARKS}
    summary["ok"] = not (summary["fail"] or (values.strict and summary["warn"]))
    render.emit(
        values.output,
        {"schema_version": SCHEMA_VERSION, "checks": found, "summary": summary},
        table=lambda: _table(found, summary),
        wide=lambda: _table(found, summary, wide=True),
        names=[each["id"] for each in found],
    )
    return 0 if summary["ok"] else 1


def _facts(line: Line) -> Facts:
    """The options, without a context where the stored ones cannot be used: that is for a check to say."""
    try:
        return Facts(resolve.values(line))
    except McpgError:
        asked = line.flags.get("context") or os.environ.get("MCPG_CONTEXT")
        options = resolve.command_of(line).options
        said = {option.field: resolve.one(option, line, os.environ, None) for option in options}
        values = resolve.Values(
            {f: value for f, (value, _) in said.items()}, {f: source for f, (_, source) in said.items()}
        )
        return Facts(values, asked_context=str(asked) if asked else None)


def examine(checks: Sequence[Check], facts: Facts, *, patience_s: float) -> list[dict[str, Any]]:
    """Every check's result, in the order of *checks*, after *patience_s* at the latest: what has not answered then, warns."""
    results: dict[str, dict[str, Any]] = {}

    def work(check: Check) -> None:
        began = time.monotonic()
        verdict = _verdict(check, facts)
        results[check.id] = _result(check, verdict, time.monotonic() - began)

    threads = [threading.Thread(target=work, args=(each,), name=each.id, daemon=True) for each in checks]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    found = []
    for check, thread in zip(checks, threads, strict=True):
        patience = _SLOW_S if check.slow and facts.values.slow else patience_s
        thread.join(max(began + patience - time.monotonic(), 0.0))
        late = Verdict("warn", f"no answer in {patience:g} s", "mcpg-ctl doctor -o wide")
        found.append(results.get(check.id) or _result(check, late, patience))
    return found


def _verdict(check: Check, facts: Facts) -> Verdict:
    try:
        return check.run(facts)
    except Skip as why:
        return Verdict("skip", str(why))
    except McpgError as exc:
        return Verdict("fail", f"{exc.what}: {exc.cause}" if exc.cause else exc.what, exc.hint)
    except OSError as exc:
        where = str(exc.filename or "")
        fix = f"ls -ld {shlex.quote(where)}" if where else _WITH_TRACEBACK
        return Verdict("fail", f"{where or check.title}: {exc.strerror or exc}", fix)
    except Exception as exc:  # noqa: BLE001  one broken check must not hide what the others found
        return Verdict("fail", f"this check is broken: {type(exc).__name__}: {exc}", _WITH_TRACEBACK)


def _result(check: Check, verdict: Verdict, seconds: float) -> dict[str, Any]:
    return {
        "id": check.id,
        "title": check.title,
        "status": verdict.status,
        "detail": render.clean(verdict.detail),
        "fix": render.clean(verdict.fix),
        "duration_ms": round(seconds * 1000, 1),
    }


_MARKS = {  # status: glyph, word, colour
    "pass": ("✓", "ok", "green"),
    "warn": ("!", "warn", "yellow"),
    "fail": ("✗", "FAIL", "red"),
    "skip": ("–", "skip", "dim"),
}


def _table(found: list[dict[str, Any]], summary: dict[str, Any], *, wide: bool = False) -> Iterable[str]:
    glyphs = _shows_glyphs()
    size = max(len(each["id"]) for each in found)
    for each in found:
        glyph, word, colour = _MARKS[each["status"]]
        mark = glyph if glyphs else word.ljust(4)
        took = f"{render.took(each['duration_ms']):>6}  " if wide else ""
        yield f"  {render.painted(mark, colour, sys.stdout)} {each['id']:<{size}}  {took}{each['detail']}"
        if each["fix"]:
            yield f"{' ' * (len(mark) + size + 5 + len(took))}fix: {each['fix']}"
    yield _summed(summary)


def _shows_glyphs() -> bool:
    """Words stand where a dumb terminal, or an encoding that has no ✓, would show rubbish."""
    if (os.environ.get("TERM") or "dumb") == "dumb":
        return False
    try:
        "✓✗–".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _summed(summary: dict[str, Any]) -> str:
    """`1 problem, 2 notes`, `no problem`."""
    words = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in ((summary["fail"], "problem"), (summary["warn"], "note"))
        if count
    ]
    return ", ".join(words) or "no problem"
