"""Orgs, instances, enrolment tokens and the server itself."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcpg.wire.base import Body, Time


class Org(Body):
    """A tenant. `status` is active, suspended or decommissioning."""

    id: str = ""
    slug: str
    name: str
    plan_tier: str = ""
    status: str = ""
    created_at: Time | None = None


class Workspace(Body):
    id: str = ""
    org_id: str = ""
    slug: str
    name: str
    created_at: Time | None = None


class Environment(Body):
    id: str = ""
    workspace_id: str = ""
    slug: str
    name: str
    created_at: Time | None = None


class Agent(Body):
    """
    One enrolled process of an instance. Three hashes, never mixed: `assigned_hash` is what it should run,
    `active_hash` what it last acknowledged as active, `received_hash` what it says it was sent. `pid` and `log`, a path, are
    of a replica that runs on the machine of the control plane that answers, and only where one gateway is asked for.
    """

    id: str
    replica: int
    state: str
    reason: str = ""
    version: str = ""
    pid: int | None = None
    log: str = ""
    connected: bool = False
    last_seen_at: Time | None = None
    assigned_hash: str = ""
    active_hash: str = ""
    received_hash: str = ""
    rejected_hash: str = ""
    config_error: str = ""


class Stranded(Body):
    """
    Something that nobody looks after: an `operation` that no control plane drives, or a `gateway` that dials one that is
    gone, or is not brought back because its recovery was cancelled; since when, and the next command. `brief` is which, in
    two or three words.
    """

    kind: Literal["operation", "gateway"]
    subject: str
    brief: str = ""
    message: str
    since: Time | None = None
    hint: str = ""


class Instance(Body):
    """
    One gateway, managed or self-enrolled. `state` is derived from its agents: enrolling, online, stale, departed or
    quarantined. `addressable` is empty until it is ready; the first URL is the one to use. `orphaned_at` is set when its
    cluster (still named here) was taken out of the pool under it: it runs on, and holds no room anywhere. `operation_id`,
    of `operation_kind`, runs on it now and is in `operation_phase`: of a recovery that is recovering, watching or paused.
    `down_since`: when the first of its replicas that should run and do not was seen to be gone. `stranded`: that nobody
    looks after it, as GET /v1/stranded has it; null where somebody does.
    """

    id: str
    instance_uid: str
    name: str = ""
    org: str = ""
    workspace: str = ""
    environment: str = ""
    state: str
    reason: str = ""
    managed: bool = False
    discovered_via: str = ""
    version: str = ""
    addressable: list[str] = []
    replicas: int = 1
    size: str = ""
    region: str = ""
    cluster: str = ""
    config_version: int | None = None
    assigned_hash: str = ""
    operation_id: str = ""
    operation_kind: str = ""
    operation_phase: str = ""
    down_since: Time | None = None
    last_seen_at: Time | None = None
    created_at: Time | None = None
    orphaned_at: Time | None = None
    stranded: Stranded | None = None
    agents: list[Agent] = []


class TokenRequest(BaseModel):
    """`ttl_ms` is in **seconds**, whatever its name says: that is what real gateways send."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    one_shot: bool = True
    ttl_ms: Annotated[int, Field(strict=True, ge=1, le=30 * 86400)] = 3600
    max_uses: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    expected_instance_uid: Annotated[str, Field(max_length=200)] | None = None


class Token(Body):
    """`enrollment_url` and `token` hold the secret and are shown once, when minted."""

    id: str
    enrollment_url: str = ""
    token: str = ""
    expires_at: Time
    one_shot: bool
    max_uses: int


class TokenStatus(Body):
    """
    A minted token without its secret. `state`: minted (still good), used (one use, and it was), exhausted (several uses,
    and all were), expired or revoked. `instance_uid` is whose it is, or whom it enrolled last.
    """

    id: str
    state: str
    use_count: int
    max_uses: int
    expires_at: Time
    created_at: Time
    issuer: str
    expected_instance_uid: str = ""
    instance_uid: str = ""


class Meta(Body):
    """
    Who answers. `replica` is the server process's epoch: random at each start. `agents_connected` counts the channels that
    are open now; only the process that holds them can say.
    """

    product: str = "mcpg-control-plane"
    version: str
    replica: str
    auth_mode: str
    external_url: str
    grpc_endpoint: str
    grpc_tls: bool = False
    cloud_enabled: bool = False
    provisioner: str
    state_dir: str = ""
    pid: int = 0
    started_at: Time | None = None
    schema_version: int = 0
    agents_connected: int = 0


class Replica(Body):
    """
    One control plane on this database. `id` belongs to its state directory, `epoch` to this start. `state`: living (heard
    within the time of a lease, or it answers), late (it was not), left (it stopped as planned: `seen_at` is null). `here` is
    who answers. `operations` are the open ones that are leased to it. `seen_at` is by the clock of who answers, and null where
    `status` reads a file itself: no heartbeat is written to it;
    `clock_ahead_s` says how far that is ahead of the database's; null for all others, and on SQLite.
    """

    id: str
    epoch: str
    here: bool
    state: Literal["living", "late", "left"]
    host: str
    pid: int
    version: str
    http_url: str
    grpc_url: str
    provisioner: str
    operations: int = 0
    started_at: Time | None = None
    seen_at: Time | None = None
    clock_ahead_s: float | None = None


class Ready(Body):
    """GET /readyz: every check with its verdict; 503 when one says no."""

    ready: bool
    checks: dict[str, Any] = {}
