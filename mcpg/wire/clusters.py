"""Clusters: what they hold and have left, how the fleet is, and the bodies of the admin routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcpg.wire.base import Body, Time
from mcpg.wire.operations import Transition


class Amount(Body):
    """
    Room of one kind. `used` is held by gateways that have been ready, `reserved` by those that have not yet, `free` is
    the rest of `total`, never below 0. `total` and `free` are null where no limit is set.
    """

    total: int | None = None
    used: int = 0
    reserved: int = 0
    free: int | None = None


class Capacity(Body):
    """The three kinds of room. A gateway takes one place a replica, and CPU and memory by its size class."""

    gateways: Amount
    cpu_millicores: Amount
    memory_bytes: Amount


class GatewayRef(Body):
    """A gateway, as short as it can be named."""

    name: str
    instance_uid: str
    org: str
    workspace: str
    environment: str
    replicas: int


class Cluster(Body):
    """
    One cluster. `state` is its machine's, `status` the same in the words of the public API; `reachable` and `reason` are
    evidence, as of `last_seen_at`: when gateways could last be started there. `gateways_running`, `cpu_millicores_used` and
    `memory_bytes_used` count everything that is taken, `gateways` the instances that hold it.
    """

    id: str
    name: str
    region: str
    isolation_tier: str
    state: str
    status: str
    provisioner: str = ""
    reachable: bool = True
    reason: str = ""
    last_seen_at: Time | None = None
    gateways_max: int
    gateways_running: int
    cpu_millicores_total: int | None = None
    cpu_millicores_used: int = 0
    memory_bytes_total: int | None = None
    memory_bytes_used: int = 0
    capacity: Capacity
    gateways: int = 0
    kubeconfig: str = ""
    kube_context: str = ""
    kube_server: str = ""
    created_at: Time | None = None
    updated_at: Time | None = None
    transitions: int = 0
    history: list[Transition] | None = None
    orphaned: list[GatewayRef] | None = None


class Attention(Body):
    """Something that somebody should look at: what, since when, and the next command."""

    severity: Literal["critical", "warning"]
    kind: str
    subject: str
    message: str
    since: Time | None = None
    hint: str = ""


class Evidence(Body):
    """How old what is known of the clusters is: the oldest and the newest `last_seen_at`."""

    oldest_at: Time | None = None
    newest_at: Time | None = None


class ClusterHealth(Body):
    """
    The fleet at one look. `clusters` counts those that live: healthy ones, degraded ones (draining, or without room for
    one more gateway) and unreachable ones. `utilisation` is the share of all places that is taken: above 1 where
    there are fewer places now than were given away. `capacity` sums the clusters that have a limit, kind by kind.
    `attention`: the most urgent first.
    """

    clusters: int
    healthy: int
    degraded: int
    unreachable: int
    gateways_running: int
    gateways_max: int
    utilisation: float
    by_state: dict[str, int]
    by_reachability: dict[str, int]
    capacity: Capacity
    orphans: int
    evidence: Evidence
    attention: list[Attention]


Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?$")]
MOST = 2**53 - 1  # whole numbers that every JSON reader keeps


class ClusterRequest(BaseModel):
    """
    POST /v1/admin/clusters. Totals left out are no limit. Of a kubernetes cluster only metadata is kept: the path of its
    kubeconfig, the context, the API server's URL; never a credential.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=1000)]
    region: Label
    gateways_max: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    isolation_tier: Label = "shared"
    cpu_millicores_total: Annotated[int, Field(strict=True, ge=1, le=MOST)] | None = None
    memory_bytes_total: Annotated[int, Field(strict=True, ge=1, le=MOST)] | None = None
    provisioner: Literal["local", "kubernetes"] = "local"
    kubeconfig: Text = ""
    kube_context: Text = ""
    kube_server: Text = ""


class MoveRequest(BaseModel):
    """POST …/drain and …/undrain: why, for the journal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class AdoptRequest(BaseModel):
    """POST …/instances/:uid/adopt: into which cluster, by name; empty: the allocator chooses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Annotated[str, Field(max_length=60)] = ""
