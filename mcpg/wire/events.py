"""The SSE events of an operation: one per journal line, then `end`."""

from typing import Any

from mcpg.wire.base import Body, Time


class LadderEvent(Body):
    """
    `event:` is the public phase, `id:` is `seq`. `message` is for people. `coords` is set once there is something to
    find: `instance_uid` and, when serving, `endpoints`. `code` is set on a failure and is one of mcpg/errors.py.
    """

    operation_id: str
    seq: int
    phase: str
    state: str
    event: str
    at: Time
    message: str = ""
    reason: str = ""
    code: str = ""
    actor: str = ""
    offset_ms: float = 0.0
    coords: dict[str, Any] | None = None
    data: dict[str, Any] = {}


class FleetEvent(LadderEvent):
    """GET /v1/events: a line of any operation, and whose it is. `id:` is the journal's own, rising over all of them."""

    org: str
    workspace: str
    environment: str
    name: str
    kind: str


class EndEvent(Body):
    """The last event of `…/operations/:id/events`: the operation rests in a final state; nothing more will come."""

    operation_id: str
    seq: int
    phase: str
    state: str
    ok: bool
    code: str = ""
    message: str = ""
