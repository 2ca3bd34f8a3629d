"""
One operation, viewed: send its request or attach to it, follow its ladder, print how it ended. Used by every command that
has a ladder: provision create and delete, instance adopt and reap, operation attach, resume, retry and cancel.

The operation lives on the server; this is a viewer. Ctrl-C and --timeout end the viewer only.
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from mcpg.cli import render
from mcpg.cli.alarm import Alarm, alarm
from mcpg.cli.client import Api, Stream, idempotency_key
from mcpg.cli.follow import PATIENCE_S, Following
from mcpg.cli.ladder import PAUSED, Event, Ladder, ladder
from mcpg.cli.resolve import Values
from mcpg.errors import Detached, McpgError, Pending, TimedOut

FLEET = ("v1", "operations")
_DONE = {"create": "created", "update": "updated", "delete": "deleted", "adopt": "adopted"}


class Request(NamedTuple):
    """What is asked of the server, and in words `kind name` of the place `org/workspace/environment`."""

    method: str
    path: tuple[str, ...]
    body: dict[str, Any] | None
    kind: str
    name: str
    place: str
    uid: str = ""


def operate(api: Api, values: Values, request: Request) -> int:
    """Sends *request* and follows it. Exit 0 only when it ended well (or was accepted, with --no-wait)."""
    key = idempotency_key(values.idempotency_key or uuid.uuid4().hex)

    def first() -> AbstractContextManager[Stream]:
        return api.stream(request.method, *request.path, body=request.body, headers={"idempotency-key": key})

    steps = _ladder(values, request)
    org = request.place.partition("/")[0]
    following = _following(api, ("v1", "orgs", org, "operations"), steps, values)
    with _viewer(values, following, request, f"the same request again: --idempotency-key {key}"):
        with contextlib.closing(steps):
            if not values.wait:
                return _print_accepted(values, request, following.accepted(first))
            final = following.to_the_end(first) | {"operation_id": following.operation_id}
        return _ended(api, values, request, final, _operation(api, ("v1", "orgs", org, "operations"), following))


def attach(api: Api, values: Values, operation: dict[str, Any], *, wanted: str = "", after: int = 0) -> int:
    """
    Follows *operation*, as the server has it, from its first event: what its first viewer saw, and how it ends; with *after*,
    a seq, only what comes after it. *wanted* is a phase that is a good end this time: a cancel wants it cancelled.
    """
    place = "/".join(str(operation.get(field, "")) for field in ("org", "workspace", "environment"))
    name, kind = str(operation.get("name", "")), str(operation.get("kind", ""))
    request = Request("GET", (), None, kind, name, place, str(operation.get("instance_uid") or ""))
    steps = _ladder(values, request)
    following = _following(api, FLEET, steps, values)
    with _viewer(values, following, request, ""):
        with contextlib.closing(steps):
            final = following.attached(str(operation.get("id", "")), after) | {"operation_id": following.operation_id}
        return _ended(api, values, request, final, _operation(api, FLEET, following), wanted)


def accepted(values: Values, operation: dict[str, Any]) -> int:
    """Of an operation that nobody follows: its id, and that the server took what was asked."""
    request = Request("GET", (), None, str(operation.get("kind", "")), str(operation.get("name", "")), "")
    return _print_accepted(values, request, str(operation.get("id", "")))


def _ladder(values: Values, request: Request) -> Ladder:
    return ladder(f"{request.kind} {request.name}  {request.place}", as_logs=values.json_logs)


def _following(api: Api, where: tuple[str, ...], steps: Ladder, values: Values) -> Following:
    """With a --timeout, that is how long a silent control plane is waited for."""
    return Following(api, where, steps, patience_s=PATIENCE_S if values.timeout is None else math.inf)


@contextlib.contextmanager
def _viewer(values: Values, following: Following, request: Request, again: str) -> Iterator[None]:
    """Ends the viewing at Ctrl-C or --timeout: says so, says where to look, and that the operation goes on."""
    try:
        with alarm(values.timeout):
            yield
    except KeyboardInterrupt:
        raise _left(Detached, following, "Ctrl-C", again) from None
    except Alarm:
        why = f"{request.kind} {request.name} took longer than {values.timeout:g}s"
        raise _left(TimedOut, following, why, again) from None


def _left(kind: Callable[..., McpgError], following: Following, why: str, again: str) -> McpgError:
    if not following.operation_id:
        what = "stopped before the control plane answered; whether it took the request is not known"
        return kind(what, cause=why, hint=f"mcpg-ctl operation list      {again}")
    what = f"operation {following.operation_id} goes on without this terminal"
    phase = str(following.last.get("phase", ""))
    look = f"mcpg-ctl operation attach {following.operation_id}"
    return kind(what, cause=why, hint=look, operation_id=following.operation_id, phase=phase)


def _operation(api: Api, where: tuple[str, ...], following: Following) -> dict[str, Any]:
    """The operation as the server has it, {} when it cannot be had any more: the ladder already said how it ended."""
    with contextlib.suppress(McpgError):
        return api.item(*where, following.operation_id)
    return {}


def _ended(
    api: Api, values: Values, request: Request, final: Event, operation: dict[str, Any], wanted: str = ""
) -> int:
    if final["phase"] not in ("ready", "deleted", wanted):
        raise failed(final, operation, request)
    if final["phase"] == "ready" and not (final.get("coords") or {}).get("endpoints"):
        final["coords"] = _coords(api, request, operation)
    _print_result(values, request, final, operation)
    return 0


def _coords(api: Api, request: Request, operation: dict[str, Any]) -> dict[str, Any]:
    """Where the gateway is, when the event that says it was lost with the stream."""
    uid = operation.get("instance_uid")
    with contextlib.suppress(McpgError):
        for instance in api.items("v1", "orgs", request.place.partition("/")[0], "instances"):
            if uid and instance.get("instance_uid") == uid:
                return {"endpoints": instance.get("addressable")}
    return {}


def failed(final: Event, operation: dict[str, Any], request: Request) -> McpgError:
    """What the final event says, as an error with its own exit code."""
    kind = str(operation.get("kind") or request.kind)
    name = operation.get("name") or request.name
    why = final.get("message") or operation.get("error") or final["phase"]
    look = f"mcpg-ctl operation show {final['operation_id']}"
    details = {"operation_id": final["operation_id"], "phase": final["phase"]}
    if final["phase"] == PAUSED:
        what = f"{name} is not {_DONE.get(kind, kind)} yet: the operation waits for an operator"
        return Pending(what, cause=str(why), hint=decide(final["operation_id"], kind), **details)
    code = str(final.get("code") or operation.get("code") or "") or (
        "cancelled" if final["phase"] == "cancelled" else "failed"
    )
    reason = str(final.get("reason") or "")
    short = _IN_SHORT.get(code, str(why))
    cause = "" if reason == short else reason or str(why)
    data = final.get("data") or {}
    clusters = data.get("clusters")
    if code == "no_capacity" and clusters:
        cause = " · ".join(f"{each.get('name')}: {each.get('reason')}" for each in clusters)
    way_on = str(data.get("hint") or _NEXT.get(code, ""))
    hint = f"{way_on}      history: {look}" if way_on else look
    error = McpgError(f"{name} was not {_DONE.get(kind, kind)}: {short}", cause=cause, hint=hint, **details)
    error.code = code
    return error


def decide(operation_id: str, kind: str) -> str:
    """What an operator may type when this operation has paused."""
    resumed = f"mcpg-ctl operation resume {operation_id}"
    if kind == "delete":
        return resumed
    return f"{resumed}      or take it back: mcpg-ctl operation cancel {operation_id}"


_IN_SHORT = {
    "cancelled": "somebody cancelled it",
    "config_rejected": "the gateway refused its config",
    "deadline": "it was not ready in its time",
    "gateway_exited": "the gateway did not stay up",
    "no_capacity": "no cluster can take it",
}
_NEXT = {
    "no_capacity": "mcpg-ctl cluster list",
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
        "instance_uid": request.uid or found.get("instance_uid") or "",
        "endpoints": found.get("endpoints") or [],
        "duration_ms": found.get("duration_ms", final.get("offset_ms", 0.0)),
        "cluster": found.get("cluster") or "",
    }
    head = render.clean(f"{data['name']}  {data['phase']}  instance {data['instance_uid']}")
    more = f"operation {data['operation_id']}  cluster {data['cluster'] or '–'}  {render.took(data['duration_ms'])}"
    render.emit(
        values.output,
        data,
        table=lambda: [head, *render.columns([[url] for url in data["endpoints"]], indent=2)],
        wide=lambda: [head, *render.columns([[line] for line in (*data["endpoints"], more)], indent=2)],
        names=[data["instance_uid"] or data["name"]],
    )
