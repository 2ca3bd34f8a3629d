"""Operations and their histories, as the wire has them, and what may be done to one."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mcpg.wire.base import Body, Time


class Transition(Body):
    """
    One journal line. `offset_ms` counts from the operation's first line; `in_state_ms` is how long the operation then
    stayed in `dest`, null while it is still there. `source` is "" in the first line. `attempt` is set in a `retry` line: which
    attempt it was that failed, 1 for the first. `at_us` is `at` in microseconds since the epoch, as the line's hash has it.
    """

    seq: int
    at: Time
    at_us: int = 0
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

    `attempt` counts the attempts that failed in the state it is in, or since somebody tried by hand, and `next_attempt_at` is
    when the next is made.
    `paused_in` is where it was when it paused, "" when it is not paused. `retry_of` is the operation it is a retry of.
    `damaged` names what of its row cannot be read (`spec`), since somebody wrote into the database what is no JSON.
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
    attempt: int = 0
    next_attempt_at: Time | None = None
    paused_in: str = ""
    retry_of: str = ""
    duration_ms: float
    transitions: int
    definition: str = ""
    damaged: list[str] = []
    history: list[Transition] | None = None


class Undo(Body):
    """One step back: `undo` takes back `effect`, which began with line `from_seq`; `words` say what it will do."""

    undo: str
    effect: str
    from_seq: int
    words: str


class CancelPlan(Body):
    """
    GET /v1/operations/:id/cancel-plan: what a cancel would do now. Then the operation is in `state`, `steps` are run in
    this order, and it ends cancelled.
    """

    operation_id: str
    kind: str
    name: str
    now: str
    state: str
    words: str
    steps: list[Undo] = []


class SteerRequest(BaseModel):
    """The body of resume, retry and cancel; none is as good as an empty one. `reason` goes into the journal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class ExportRow(Body):
    """The present of an operation: what its lines must add up to."""

    state: str
    version: int
    head_hash: str


class ExportConfig(Body):
    """A published config by its hashes. Its text may hold secrets and stays in the control plane."""

    version: int
    raw_sha256: str
    rendered_sha256: str


class ExportInputs(Body):
    """What was asked: the spec, what an update goes back to, and the configs that either names."""

    spec: dict[str, Any]
    previous: dict[str, Any] | None = None
    configs: list[ExportConfig] = []


class Export(Body):
    """
    GET /v1/operations/:id/export: the operation with every line, each definition that made one of them, by hash, the row
    they lead to, and what was asked. Enough to replay it anywhere, without a server.

    Sent as canonical JSON (sorted keys, no spaces): of a finished operation always the same bytes.
    """

    format: str = "mcpg-operation/2"
    operation: Operation
    row: ExportRow
    inputs: ExportInputs
    definitions: dict[str, dict[str, Any]]
