"""`mcpg-ctl token create|list|revoke`: enrolment tokens of an environment. The secret is printed once, on stdout."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from mcpg.cli import inputs, render, resolve
from mcpg.cli.history import of
from mcpg.cli.parse import Line
from mcpg.cli.render import Row
from mcpg.cli.resolve import Values
from mcpg.cli.talk import tell
from mcpg.errors import Usage

_HEAD = ("ID", "STATE", "USES", "EXPIRES", "CREATED", "BY", "FOR")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_S = 30 * 86_400


def create(line: Line) -> int:
    """Mints a token. stdout holds the enrolment URL, which is the secret; nothing else ever shows it again."""
    values = resolve.values(line)
    seconds = _seconds(values.ttl)
    body: dict[str, Any] = {"ttl_ms": seconds, "max_uses": values.max_uses, "one_shot": values.max_uses == 1}
    if values.instance_uid:
        body["expected_instance_uid"] = values.instance_uid
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.send("POST", *_tokens(values), body=body)
    url = render.clean(found.get("enrollment_url", ""))
    render.emit(values.output, found, table=lambda: [url], names=[url])
    uses = "once" if values.max_uses == 1 else f"{values.max_uses} times"
    words = f"note: the URL is a secret and is shown this once; it enrols {uses} until {found.get('expires_at', '?')}"
    tell(render.clean(words), as_logs=values.json_logs, event="secret_shown")
    return 0


def index(line: Line) -> int:
    """Prints the tokens of an environment without their secrets."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.items(*_tokens(values))
    now = time.time()
    rows = [_HEAD, *(_row(each, now) for each in found)]
    none = [f"no enrolment tokens in {values.org}/{values.workspace}/{values.env}"]
    render.emit(
        values.output,
        found,
        table=lambda: render.columns(rows, width=render.terminal_width()) if found else none,
        names=[str(each.get("id", "")) for each in found],
    )
    return 0


def revoke(line: Line) -> int:
    """Makes a token useless; gateways that enrolled with it stay."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.send("DELETE", *_tokens(values), values.id)
    render.emit(
        values.output,
        found,
        table=lambda: ["  ".join(map(render.clean, of(found, "id", "state")))],
        names=[str(found.get("id", ""))],
    )
    return 0


def _tokens(values: Values) -> tuple[str, ...]:
    place = ("v1", "orgs", values.org, "workspaces", values.workspace, "environments", values.env)
    return *place, "enrollment-tokens"


def _seconds(text: str) -> int:
    """`15m`, `1h`, `90` (seconds), which is what the API's `ttl_ms` wants, whatever its name. Raises Usage."""
    digits, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_MAX_S))
    seconds = int(digits) * _UNITS[unit] if is_number else 0
    if not 1 <= seconds <= _MAX_S:
        raise Usage(f"--ttl {text[:40]} cannot be used", cause="a time from 1s to 30d", hint="--ttl 15m, 1h or 7d")
    return seconds


def _row(found: dict[str, Any], now: float) -> Row:
    expires = render.epoch(found.get("expires_at"))
    left = "" if expires is None else "past" if expires <= now else f"in {render.took((expires - now) * 1000)}"
    meant = found.get("instance_uid") or found.get("expected_instance_uid") or ""
    uses = f"{found.get('use_count', '?')}/{found.get('max_uses', '?')}"
    return (
        *of(found, "id", "state"),
        uses,
        left,
        render.ago(found.get("created_at"), now),
        *of(found, "issuer"),
        str(meant),
    )
