"""`mcpg-ctl provision create` and `provision delete`: what is asked for. How it is followed: mcpg/cli/operate.py."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any

from mcpg.cli import inputs, render, resolve
from mcpg.cli.client import Api
from mcpg.cli.history import of, where
from mcpg.cli.operate import Request, operate
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.cli.room import room
from mcpg.errors import McpgError, NotFound, Usage, exit_code

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
    ref = _which(line, values)
    with contextlib.closing(inputs.connect(values)) as api:
        try:
            found = _found(api, values, ref)
            uid = str(found.get("instance_uid", ""))
            name = str(found.get("name") or uid)
            more = ", ".join(filter(None, (uid if name != uid else "", *of(found, "state"))))
            what = f"delete {name} ({more}) in {place(values)}" if more else f"delete {name} in {place(values)}"
            inputs.confirm(line, values, what, name=name, also=uid, where=api.url)
            path = (*gateways(values), uid)
            return operate(api, values, Request("DELETE", path, None, "delete", name, place(values), uid))
        except McpgError as exc:
            if not values.ignore_not_found or exit_code(exc.code) != exit_code(NotFound.code):
                raise
    data = {"name": values.name, "instance_uid": values.instance_uid, "phase": "deleted", "found": False}
    render.emit(values.output, data, table=lambda: [f"{render.clean(ref)}  is not there"], names=[ref])
    return 0


def _which(line: Line, values: Values) -> str:
    """What the gateway is called: by --name or by --instance-uid. Raises Usage for none and for both."""
    if bool(values.name) == bool(values.instance_uid):
        command = " ".join((line.prog, *line.words))
        raise Usage(
            f"{' '.join(line.words)} needs --name or --instance-uid, one of the two",
            cause="both were given" if values.name else "neither was given",
            hint=f"{command} --name NAME      or: {command} --instance-uid UID",
        )
    if values.name:
        inputs.check_slug("--name", values.name)
    return str(values.name or values.instance_uid)


def _found(api: Api, values: Values, ref: str) -> dict[str, Any]:
    """The gateway that is meant, as it is. Raises NotFound also for one of another place, and for a uid that is no name."""
    try:
        found = api.item("v1", "instances", ref)
    except McpgError as exc:
        if not (values.idempotency_key and values.instance_uid) or exit_code(exc.code) != exit_code(NotFound.code):
            raise
        return {"instance_uid": ref}  # the same request again, maybe of what it deleted: the server knows its key
    if values.name and found.get("name") != values.name:
        raise NotFound(f"no gateway is named {ref}", hint="mcpg-ctl instance list      a uid: --instance-uid UID")
    there = where(found, fleet=True)
    if there != place(values):
        flags = zip(("--org", "--workspace", "--env"), there.split("/"), strict=False)
        hint = " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags)
        raise NotFound(f"no gateway {ref} in {place(values)}", cause=f"it is in {there}", hint=hint)
    return found


def place(values: Values) -> str:
    return f"{values.org}/{values.workspace}/{values.env}"


def gateways(values: Values) -> tuple[str, ...]:
    return "v1", "orgs", values.org, "workspaces", values.workspace, "environments", values.env, "gateways"


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
            *_after(plan),
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
    yield "cluster", _moved(before.get("cluster"), plan.get("cluster"))
    for field in ("replicas", "size"):
        yield field, _moved(before.get(field), plan.get(field))
    if before and not has_config:
        yield "config", "as it is"
    else:
        said = "parsed, but the gateway itself has not looked at it" if has_config else "the default"
        yield "config", f"sha256 {str(plan.get('config_sha256', ''))[:12]}, {said}"
    if plan.get("gateway_version"):
        yield "gateway", str(plan["gateway_version"])


def _after(plan: dict[str, Any]) -> Iterator[str]:
    """`us-east-1a would then have 2 of 20 gateways, 1.5 of 16 cores`."""
    if isinstance(plan.get("after"), dict) and (taken := room(plan["after"])):
        yield render.clean(f"{plan.get('cluster')} would then have {', '.join(taken)}")


def _moved(before: object, after: object) -> str:
    return str(after) if before in (None, "", after) else f"{before} → {after}"
