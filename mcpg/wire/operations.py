"""Operations and their histories, as the wire has them."""

from typing import Any

from mcpg.wire.base import Body, Time


class Transition(Body):
    """
    One journal line. `offset_ms` counts from the operation's first line; `in_state_ms` is how long the operation then
    stayed in `dest`, null while it is still there. `source` is "" in the first line.
    """

    seq: int
    at: Time
    offset_ms: float
    source: str
    dest: str
    phase: str
    event: str
    actor: str
    reason: str = ""
    message: str = ""
    attempt: int = 0
    facts: dict[str, Any] = {}
    data: dict[str, Any] = {}
    definition: str = ""
    prev_hash: str = ""
    hash: str = ""
    in_state_ms: float | None = None


class Operation(Body):
    """
    One operation. `final_phase` is the last phase reached, also while it runs; `error` is "" when there is none (the
    tenant CLI refuses null). `definition` names the machine that runs it: `provision@<first 12 of its hash>`.
    """

    id: str
    kind: str
    machine: str
    org: str
    workspace: str
    environment: str
    name: str
    instance_uid: str
    state: str
    final_phase: str
    error: str = ""
    code: str = ""
    running: bool
    cluster: str = ""
    region: str = ""
    replicas: int = 0
    actor: str
    started_at: Time | None = None
    finished_at: Time | None = None
    deadline_at: Time | None = None
    duration_ms: float
    transitions: int
    definition: str = ""
    history: list[Transition] | None = None


class Export(Body):
    """
    GET /v1/operations/:id/export: the operation with its history, and the definition that its last line was made by.

    Sent as canonical JSON (sorted keys, no spaces): of a finished operation always the same bytes.
    """

    format: str = "mcpg-operation/1"
    operation: Operation
    definition: dict[str, Any]
