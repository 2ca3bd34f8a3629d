"""`mcpg-ctl provision create` and `provision delete`: what is asked for. How it is followed: mcpg/cli/operate.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from mcpg.cli import inputs, render, resolve
from mcpg.cli.client import Api
from mcpg.cli.operate import Request, operate
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.cli.room import room
from mcpg.errors import McpgError, NotFound, exit_code

_OPTIONAL = ("replicas", "size", "region", "isolation_tier", "custom_hostname", "image_tag")


def create(line: Line) -> int:
    """Creates or updates one gateway. Exit 0 only when it is ready (or accepted, with --no-wait)."""
    values = resolve.values(line)
    for field in ("org", "workspace", "name"):
        inputs.check_slug(f"--{field}", getattr(values, field))
    body: dict[str, Any] = {"name": values.name}
    body |= {field: getattr(values, field) for field in _OPTIONAL if getattr(values, field)}
    if values.config:
        body["config_toml"] = inputs.config_text(values.config)
    with contextlib.closing(inputs.connect(values)) as api:
        if values.dry_run:
            return _would(api, values, body)
        return operate(api, values, Request("POST", gateways(values), body, "create", values.name, place(values)))


def delete(line: Line) -> int:
    """Deletes one gateway, after asking on a terminal."""
    values = resolve.values(line)
    for field in ("org", "workspace"):
        inputs.check_slug(f"--{field}", getattr(values, field))
    uid = values.instance_uid
    with contextlib.closing(inputs.connect(values)) as api:
        try:
            _confirm(api, values, line)
            path = (*gateways(values), uid)
            return operate(api, values, Request("DELETE", path, None, "delete", uid, place(values), uid))
        except McpgError as exc:
            if not values.ignore_not_found or exit_code(exc.code) != exit_code(NotFound.code):
                raise
    data = {"instance_uid": uid, "phase": "deleted", "found": False}
    render.emit(values.output, data, table=lambda: [f"{render.clean(uid)}  is not there"], names=[uid])
    return 0


def place(values: Values) -> str:
    return f"{values.org}/{values.workspace}/{values.env}"


def gateways(values: Values) -> tuple[str, ...]:
    return "v1", "orgs", values.org, "workspaces", values.workspace, "environments", values.env, "gateways"


def _confirm(api: Api, values: Values, line: Line) -> None:
    """Asks, by the gateway's name where it has one. Where nobody can be asked, no request is sent either."""
    uid = values.instance_uid
    if values.yes and not (values.stored and values.stored.protected):
        return
    found: dict[str, Any] = {}
    if values.confirm or (sys.stdin.isatty() and sys.stderr.isatty()):
        instances = api.items("v1", "orgs", values.org, "instances")
        found = next((each for each in instances if each.get("instance_uid") == uid), {})
    name = str(found.get("name") or uid)
    what = name if name == uid else f"{name} ({uid}, {found.get('state', '')})"
    inputs.confirm(line, values, f"delete {what} in {place(values)}", name=name, also=uid, where=api.url)


def _would(api: Api, values: Values, body: dict[str, Any]) -> int:
    """What a create would do, or the refusal it would give. Writes nothing."""
    plan = api.send("POST", *gateways(values), "validate", body=body)
    before = _running(api, values) if plan.get("action") == "update" else {}
    render.emit(
        values.output,
        plan,
        table=lambda: [
            render.clean(f"would {plan.get('action')} {plan.get('name')}  {place(values)}"),
            *render.columns(list(_changes(plan, before, "config_toml" in body)), indent=2),
            "nothing was written",
        ],
        names=[str(plan.get("name", ""))],
    )
    return 0


def _running(api: Api, values: Values) -> dict[str, Any]:
    """The gateway that would be updated, as it is; {} when that cannot be had."""
    with contextlib.suppress(McpgError):
        for each in api.items("v1", "orgs", values.org, "instances"):
            if each.get("name") == values.name:
                return each
    return {}


def _changes(plan: dict[str, Any], before: dict[str, Any], has_config: bool) -> Iterator[tuple[str, str]]:
    after = plan.get("after")
    yield "cluster", _moved(before.get("cluster"), plan.get("cluster"))
    if isinstance(after, dict):
        yield "then", "  ".join(room(after))
    for field in ("replicas", "size"):
        yield field, _moved(before.get(field), plan.get(field))
    if before and not has_config:
        yield "config", "as it is"
    else:
        yield "config", f"sha256 {str(plan.get('config_sha256', ''))[:12]}" + ("" if has_config else ", the default")
    if plan.get("gateway_version"):
        yield "gateway", str(plan["gateway_version"])


def _moved(before: object, after: object) -> str:
    return str(after) if before in (None, "", after) else f"{before} → {after}"
