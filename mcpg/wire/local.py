"""
What `-o json` prints of the command line's own: data that no server sent. Server data is printed as it came.

These types are the promise, held by docs/cli-schema.json and its tests; the commands build plain dicts, since loading
pydantic would take longer than they do. Nothing beyond these keys is printed.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcpg.wire.base import Time
from mcpg.wire.fleet import Replica, Stranded


class Local(BaseModel):
    """Data of the command line itself: a key that is not promised is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionInfo(Local):
    name: str
    version: str
    python: str


class Context(Local):
    """A stored context; "" where it sets nothing. `in_use` counts MCPG_CONTEXT, `current` what `context use` said."""

    name: str
    in_use: bool
    current: bool
    cp_url: str
    org: str
    workspace: str
    env: str
    output: str
    session_cookie_file: str
    protected: bool


class Removed(Local):
    """The name that was forgotten, or `all`."""

    removed: str


class Setting(Local):
    """
    One setting. `source` is a flag, an environment name, `context NAME` or `default`. The value of a `secret` is always
    null; `problem` says why a value cannot be used.
    """

    name: str
    of: list[str]
    value: str | int | float | bool | None
    source: str
    secret: bool
    flag: str
    env: list[str]
    default: str | int | float | bool | None
    problem: str


class Started(Local):
    """A control plane that quickstart runs or found; `context` names the stored one that leads here, "" for none."""

    state: Literal["started", "already running"]
    pid: int | None
    version: str | None
    http_url: str
    grpc_url: str | None
    external_url: str | None
    state_dir: str
    db_path: str | None
    auth_mode: str | None
    context: str


class ControlPlane(Local):
    """
    The control plane of one state directory: `state` is running (it answers), silent, stale (it did not stop cleanly) or
    stopped. `evidence` says how that is known; everything else is null where nothing runs. `ready` is what its /readyz says,
    null where that is not known, and `not_ready` why it says no, else null.
    """

    state: Literal["running", "silent", "stale", "stopped"]
    pid: int | None
    http_url: str | None
    grpc_url: str | None
    external_url: str | None
    version: str | None
    replica: str | None
    started_at: Time | None
    auth_mode: str | None
    provisioner: str | None
    gateway: str | None
    uptime_ms: int | None
    agents_connected: int | None
    answered_at: Time | None
    answered_in_ms: float | None
    ready: bool | None
    not_ready: str | None
    evidence: str


class Database(Local):
    """`newer_schema` names migrations that this version does not know; `error` is "" when it could be read."""

    path: str
    exists: bool
    size_bytes: int | None
    wal_bytes: int | None
    schema_version: int | None
    newer_schema: list[str]
    error: str


class OtherProgram(Local):
    """A managed gateway that runs another program than the control plane here chose, by the version that it says."""

    instance_uid: str
    name: str
    version: str


class Status(Local):
    """
    What runs on this machine and what its database holds: rows by table, the others by state. `replicas` are the control
    planes on that database, by what the one here says, else as last written; `stranded` is null where none answers,
    `other_programs` also where it is not known what was chosen.
    """

    state_dir: str
    control_plane: ControlPlane
    replicas: list[Replica]
    stranded: list[Stranded] | None
    other_programs: list[OtherProgram] | None
    database: Database
    rows: dict[str, int]
    operations: dict[str, int]
    operations_by_kind: dict[str, dict[str, int]]
    instances: dict[str, int]
    orphans: int | None
    clusters: dict[str, int]
    agents: dict[str, int]
    journal_length: int | None
    journal_newest_at: Time | None


class Check(Local):
    """One check of doctor. `id` is stable; `fix` is a command, "" when there is nothing to do."""

    id: str
    title: str
    status: Literal["pass", "warn", "fail", "skip"]
    detail: str
    fix: str
    duration_ms: float


class CheckSummary(Local):
    """How many checks ended how; `ok` is whether the exit code is 0."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid", frozen=True)

    ok: bool
    passed: Annotated[int, Field(alias="pass")]
    warn: int
    fail: int
    skip: int


class DoctorReport(Local):
    schema_version: int
    checks: list[Check]
    summary: CheckSummary


class LastKnownGood(Local):
    """The config a gateway would run if the control plane were gone: its hash, and the names of what it offers."""

    model_config = ConfigDict(extra="allow", frozen=True)

    config_hash: str
    written_at: Time | None


class RunningAgent(Local):
    """The agent process of this machine, as it says itself."""

    model_config = ConfigDict(extra="allow", frozen=True)

    running: bool
    stale: bool
    pid: int | None
    written_at: Time | None
    age_s: int | None
    version: str | None
    up_since: Time | None
    state: str | None
    endpoint: str | None
    session_open_since: Time | None
    next_retry_at: Time | None
    last_error: Any
    dataplane: dict[str, Any] | None


class Trouble(Local):
    problem: str
    fix: str


class GatewayStatus(Local):
    """What the gateway agent of this machine has stored and does; null where nothing is known. Never a secret."""

    enrolled: bool
    state_dir: str
    instance_id: str | None
    instance_uid: str | None
    registered_at: Time | None
    issued_at: Time | None
    expires_at: Time | None
    expires_in_s: int | None
    expired: bool
    endpoint: str | None
    lkg: LastKnownGood | None
    agent: RunningAgent
    problems: list[Trouble]


class Result(Local):
    """How an operation that was followed to its end came out."""

    operation_id: str
    name: str
    phase: str
    state: str
    instance_uid: str
    endpoints: list[str]
    duration_ms: float
    cluster: str


class Accepted(Local):
    """`--no-wait`: the operation has begun; `phase` is always accepted."""

    operation_id: str
    name: str
    phase: Literal["accepted"]


class NotThere(Local):
    """`provision delete --ignore-not-found` of what is gone already; "" for what was not given."""

    name: str
    instance_uid: str
    phase: Literal["deleted"]
    found: Literal[False]


class License(Local):
    """What the stored licence says, unverified; "" for what it does not say."""

    plan: str
    tenant: str
    expires_at: Time | None


class Login(Local):
    """The stored login: who, where, for how long; null where there is none, or it does not say. Never a token."""

    signed_in: bool
    path: str
    identity: str | None
    issuer: str | None
    client_id: str | None
    stored_at: str | None
    expires_at: Time | None
    expired: bool
    renewable: bool
    license: License | None


class SignedOut(Local):
    """Whether there was a login to remove, and whether its issuer has revoked the refresh token."""

    path: str
    removed: bool
    revoked: bool


class ErrorDetail(Local):
    """
    `code` is a stable word that decides the exit code; `hint` is the next command. `details` holds what else there is, for
    a refused move the `allowed` ones.
    """

    code: str
    message: str
    cause: str
    hint: str
    request_id: str
    details: dict[str, Any]


class ErrorReport(Local):
    """The one object on stderr when a command with `-o json` fails."""

    error: ErrorDetail


class CheckedTable(Local):
    """One check of tables alone, of which `machines`, and what is `wrong` with them in words."""

    check: str
    holds: bool
    machines: list[str]
    wrong: list[str]


class CheckedWorld(Local):
    """One world that was explored: how many states it has, how many steps lead between them, and how long that took."""

    name: str
    about: str
    machines: list[str]
    states: int
    steps: int
    ms: float
    holds: bool


class CheckedInvariant(Local):
    """What was looked at in each state of `worlds` worlds."""

    invariant: str
    holds: bool
    worlds: int
    states: int


class CheckedMoment(Local):
    """One line of a timeline: who did what, and every part of the world after it."""

    who: str
    what: str
    parts: list[str]


class Counterexample(Local):
    """The shortest way to a state that breaks `invariant`. From line `again` on (from 0) it goes round; null when it does not."""

    world: str
    invariant: str
    words: str
    timeline: list[CheckedMoment]
    again: int | None


class MachineCheck(Local):
    """`moves` are the rows of the tables, `moves_taken` those that some world took; `never_taken` are the others."""

    ok: bool
    definitions: list[str]
    tables: list[CheckedTable]
    worlds: list[CheckedWorld]
    invariants: list[CheckedInvariant]
    moves: int
    moves_taken: int
    never_taken: list[str]
    counterexamples: list[Counterexample]
