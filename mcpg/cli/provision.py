"""
`mcpg-ctl provision create` and `provision delete`: send the request, follow its ladder, print the result.

The operation lives on the server; this is a viewer. Ctrl-C and --timeout end the viewer only.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, NamedTuple

from mcpg.cli import inputs, render, resolve
from mcpg.cli.client import Api, Stream, idempotency_key
from mcpg.cli.follow import Following
from mcpg.cli.ladder import PAUSED, Event, ladder
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.errors import Detached, McpgError, Pending, TimedOut, Usage


class Request(NamedTuple):
    """What is asked of the server: the last path segments and the body, and in words `kind name`."""

    method: str
    last: tuple[str, ...]
    body: dict[str, Any] | None
    kind: str
    name: str


def create(line: Line) -> int:
    """Creates or updates one gateway. Exit 0 only when it is ready (or accepted, with --no-wait)."""
    values = resolve.values(line)
    for field in ("org", "workspace", "name"):
        inputs.check_slug(f"--{field}", getattr(values, field))
    body: dict[str, Any] = {"name": values.name}
    optional = ("replicas", "size", "region", "isolation_tier", "custom_hostname", "image_tag")
    body |= {field: getattr(values, field) for field in optional if getattr(values, field)}
    if values.config:
        body["config_toml"] = inputs.config_text(values.config)
    with contextlib.closing(inputs.connect(values)) as api:
        return _operate(api, values, Request("POST", (), body, "create", values.name))


def delete(line: Line) -> int:
    """Deletes one gateway, after asking on a terminal."""
    values = resolve.values(line)
    for field in ("org", "workspace"):
        inputs.check_slug(f"--{field}", getattr(values, field))
    with contextlib.closing(inputs.connect(values)) as api:
        if not values.yes:
            _confirm(api, values, line)
        return _operate(api, values, Request("DELETE", (values.instance_uid,), None, "delete", values.instance_uid))


def _operate(api: Api, values: Values, request: Request) -> int:
    place = ("workspaces", values.workspace, "environments", values.env, "gateways", *request.last)
    key = idempotency_key(values.idempotency_key or uuid.uuid4().hex)

    def first() -> AbstractContextManager[Stream]:
        headers = {"idempotency-key": key}
        return api.stream(request.method, "v1", "orgs", values.org, *place, body=request.body, headers=headers)

    where = f"{values.org}/{values.workspace}/{values.env}"
    steps = ladder(f"{request.kind} {request.name}  {where}")
    following = Following(api, values.org, steps)
    with _viewer(values, following, request, key), contextlib.closing(steps):
        if not values.wait:
            return _print_accepted(values, request, following.accepted(first))
        final = following.to_the_end(first) | {"operation_id": following.operation_id}
        operation = _operation(api, values.org, following.operation_id)
    if final["phase"] not in ("ready", "deleted"):
        raise _failed(final, operation, values, request)
    if final["phase"] == "ready" and not (final.get("coords") or {}).get("endpoints"):
        final["coords"] = _coords(api, values.org, operation)
    _print_result(values, request, final, operation)
    return 0


class _Alarm(BaseException):
    """--timeout has passed. Not an Exception, so that nothing on the way takes it for a failure of its own."""


@contextlib.contextmanager
def _viewer(values: Values, following: Following, request: Request, key: str) -> Iterator[None]:
    """Ends the viewing at Ctrl-C or --timeout: says so, says where to look, and that the operation goes on."""

    def alarm(_signal: int, _frame: FrameType | None) -> None:
        raise _Alarm

    if values.timeout is not None:
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, values.timeout)
    try:
        yield
    except KeyboardInterrupt:
        raise _left(Detached, following, values, "Ctrl-C", key) from None
    except _Alarm:
        why = f"{request.kind} {request.name} took longer than {values.timeout:g}s"
        raise _left(TimedOut, following, values, why, key) from None
    finally:
        if values.timeout is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _left(kind: Callable[..., McpgError], following: Following, values: Values, why: str, key: str) -> McpgError:
    look = f"mcpg-ctl provision history --org {values.org} --verbose"
    if not following.operation_id:
        what = "stopped before the control plane answered; whether it took the request is not known"
        return kind(what, cause=why, hint=f"{look}      the same request again: --idempotency-key {key}")
    what = f"operation {following.operation_id} goes on without this terminal"
    phase = str(following.last.get("phase", ""))
    return kind(what, cause=why, hint=look, operation_id=following.operation_id, phase=phase)


def _operation(api: Api, org: str, operation_id: str) -> dict[str, Any]:
    """The operation as the server has it, {} when it cannot be had any more: the ladder already said how it ended."""
    with contextlib.suppress(McpgError):
        return api.item("v1", "orgs", org, "operations", operation_id)
    return {}


def _coords(api: Api, org: str, operation: dict[str, Any]) -> dict[str, Any]:
    """Where the gateway is, when the event that says it was lost with the stream."""
    uid = operation.get("instance_uid")
    with contextlib.suppress(McpgError):
        for instance in api.items("v1", "orgs", org, "instances"):
            if uid and instance.get("instance_uid") == uid:
                return {"endpoints": instance.get("addressable")}
    return {}


def _failed(final: Event, operation: dict[str, Any], values: Values, request: Request) -> McpgError:
    """What the final event says, as an error with its own exit code."""
    verb = {"create": "created", "update": "updated", "delete": "deleted"}
    kind = str(operation.get("kind") or request.kind)
    name = operation.get("name") or request.name
    why = final.get("message") or operation.get("error") or final["phase"]
    look = f"mcpg-ctl provision history --org {values.org} --verbose"
    details = {"operation_id": final["operation_id"], "phase": final["phase"]}
    if final["phase"] == PAUSED:
        what = f"{name} is not {verb.get(kind, kind)} yet: the operation waits for an operator"
        return Pending(what, cause=str(why), hint=look, **details)
    code = str(final.get("code") or operation.get("code") or "failed")
    reason = str(final.get("reason") or "")
    short = _IN_SHORT.get(code, str(why))
    cause = "" if reason == short else reason or str(why)
    clusters = (final.get("data") or {}).get("clusters")
    if code == "no_capacity" and clusters:
        cause = " · ".join(f"{each.get('name')}: {each.get('reason')}" for each in clusters)
    error = McpgError(
        f"{name} was not {verb.get(kind, kind)}: {short}", cause=cause, hint=_NEXT.get(code, look), **details
    )
    error.code = code
    return error


_IN_SHORT = {
    "cancelled": "somebody cancelled it",
    "config_rejected": "the gateway refused its config",
    "deadline": "it was not ready in its time",
    "gateway_exited": "the gateway did not stay up",
    "no_capacity": "no cluster can take it",
}
_NEXT = {
    "no_capacity": "ask for what a cluster has, or free places: mcpg-ctl provision delete",
}


def _print_accepted(values: Values, request: Request, operation_id: str) -> int:
    data = {"operation_id": operation_id, "name": request.name, "phase": "accepted"}
    render.emit(
        values.output,
        data,
        table=lambda: [f"{request.name}  accepted  operation {render.clean(operation_id)}"],
        names=[operation_id],
    )
    return 0


def _print_result(values: Values, request: Request, final: Event, operation: dict[str, Any]) -> None:
    coords = final.get("coords")
    found = {
        **operation,
        **{key: value for key, value in (coords if isinstance(coords, dict) else {}).items() if value},
    }
    data = {
        "operation_id": final["operation_id"],
        "name": found.get("name") or request.name,
        "phase": final["phase"],
        "state": final.get("state") or found.get("state", ""),
        "instance_uid": found.get("instance_uid") or getattr(values, "instance_uid", ""),
        "endpoints": found.get("endpoints") or [],
        "duration_ms": found.get("duration_ms", final.get("offset_ms", 0.0)),
        "cluster": found.get("cluster") or "",
    }
    head = [f"{data['name']}  {data['phase']}  instance {data['instance_uid']}"]
    rows = [*head, *(f"  {url}" for url in data["endpoints"])]
    more = f"  operation {data['operation_id']}  cluster {data['cluster'] or '–'}  {render.took(data['duration_ms'])}"
    render.emit(
        values.output,
        data,
        table=lambda: map(_safe, rows),
        wide=lambda: map(_safe, [*rows, more]),
        names=[data["instance_uid"] or data["name"]],
    )


def _safe(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))] + render.clean(line)


def _confirm(api: Api, values: Values, line: Line) -> None:
    """Asks y/N. Raises Usage without a terminal, McpgError for any answer but yes."""
    uid = values.instance_uid
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Usage(
            "provision delete asks before it deletes, and there is no terminal to ask on",
            cause="stdin and stderr are not both a terminal",
            hint=f"{line.prog} provision delete --org {values.org} --workspace {values.workspace} --env {values.env}"
            f" --instance-uid {uid} --yes",
        )
    instances = api.items("v1", "orgs", values.org, "instances")
    named: dict[str, Any] = next((each for each in instances if each.get("instance_uid") == uid), {})
    what = f"{named['name']} ({uid}, {named.get('state', '')})" if named.get("name") else uid
    where = f"{values.org}/{values.workspace}/{values.env} at {api.url}"
    sys.stderr.write(f"delete {render.clean(what)} in {render.clean(where)}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise McpgError("nothing was deleted", cause="the answer was not y", hint="--yes answers it")
