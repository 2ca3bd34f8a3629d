"""What a control plane would say of its fleet: bodies made by mcpg/wire, with ages that stay the same while a test runs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from mcpg.wire.clusters import Amount, Attention, Capacity, Cluster, ClusterHealth, Evidence, GatewayRef
from mcpg.wire.fleet import Agent, Instance, Token, TokenStatus
from mcpg.wire.gateways import DryRun
from mcpg.wire.machines import Machine, MachineMove, MachineState, MachineSummary
from mcpg.wire.operations import Transition

from .fake import UID

GIB = 1024**3
OTHER_UID = "019a3c1e-1111-7000-8000-0000009f3c2b"
_IDS = {"local": "7f2e1a90-0000-7000-8000-000000000001", "us-1": "019a3c1f-0000-7000-8000-000000000002"}


def before(**ago: float) -> datetime:
    """A time that long ago, half a unit from the next rounding."""
    return datetime.now(UTC) - timedelta(**ago)


def masked(text: str) -> str:
    """*text* with every absolute time as AT, in as many columns."""
    return "\n".join(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", f"{'AT':<24}", line).rstrip() for line in text.split("\n"))


def capacity(gateways: Amount, cpu: Amount | None = None, memory: Amount | None = None) -> Capacity:
    return Capacity(gateways=gateways, cpu_millicores=cpu or Amount(), memory_bytes=memory or Amount())


FULL = capacity(
    Amount(total=50, used=17, reserved=2, free=31),
    Amount(total=16_000, used=8_500, reserved=1_000, free=6_500),
    Amount(total=64 * GIB, used=30 * GIB, reserved=GIB, free=33 * GIB),
)
EDGE = GatewayRef(name="edge-3", instance_uid=UID, org="acme", workspace="prod", environment="us", replicas=2)
SELF = GatewayRef(name="", instance_uid="host-ab12cd", org="acme", workspace="dev", environment="us", replicas=1)


def cluster(name: str = "local", **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": _IDS.get(name, "019a3c1f-0000-7000-8000-00000000000f"),
        "name": name,
        "region": name,
        "isolation_tier": "shared",
        "state": "registered",
        "status": "active",
        "provisioner": "local",
        "last_seen_at": before(minutes=12.5),
        "gateways_max": 20,
        "gateways_running": 3,
        "capacity": capacity(Amount(total=20, used=3, free=17)),
        "gateways": 3,
        "created_at": before(days=3.5),
        "updated_at": before(days=3.5),
    }
    return Cluster(**fields | more).model_dump(mode="json")


def clusters() -> list[dict[str, Any]]:
    return [
        cluster("local"),
        cluster("us-1", state="draining", status="draining", capacity=FULL, reachable=False, reason="refused"),
        cluster("us-2", state="decommissioned", status="decommissioned", last_seen_at=None, gateways=2),
    ]


def health(*attention: Attention) -> dict[str, Any]:
    return ClusterHealth(
        clusters=3,
        healthy=1,
        degraded=1,
        unreachable=1,
        gateways_running=19,
        gateways_max=50,
        utilisation=0.38,
        by_state={"registered": 1, "draining": 1, "decommissioned": 1},
        by_reachability={"reachable": 1, "unreachable": 1},
        capacity=FULL,
        orphans=2,
        evidence=Evidence(oldest_at=before(minutes=12.5), newest_at=before(minutes=1.5)),
        attention=list(attention),
    ).model_dump(mode="json")


def critical() -> Attention:
    return Attention(
        severity="critical",
        kind="cluster_unreachable",
        subject="us-1",
        message="us-1 is unreachable: connection refused",
        since=before(minutes=12.5),
        hint="mcpg-ctl cluster show us-1",
    )


def warning() -> Attention:
    return Attention(severity="warning", kind="orphan", subject="edge-3", message="edge-3 runs on and holds no room")


def instance(**more: Any) -> dict[str, Any]:
    agent = Agent(
        id="agent-1",
        replica=1,
        state="online",
        version="0.1.0-beta.48",
        connected=True,
        last_seen_at=before(minutes=1.5),
        assigned_hash="9c41d2" * 10,
        active_hash="9c41d2" * 10,
        rejected_hash="51be07" * 10,
        config_error="unknown field `x`",
    )
    fields: dict[str, Any] = {
        "id": UID,
        "instance_uid": UID,
        "name": "edge-1",
        "org": "acme",
        "workspace": "prod",
        "environment": "us",
        "state": "online",
        "managed": True,
        "version": "0.1.0-beta.48",
        "addressable": ["http://127.0.0.1:41873/mcp"],
        "replicas": 1,
        "size": "s",
        "region": "us-1",
        "cluster": "us-1",
        "config_version": 3,
        "assigned_hash": "9c41d2" * 10,
        "last_seen_at": before(minutes=1.5),
        "created_at": before(hours=2.5),
        "agents": [agent],
    }
    return Instance(**fields | more).model_dump(mode="json")


def orphan() -> dict[str, Any]:
    return instance(
        instance_uid=OTHER_UID, name="edge-3", orphaned_at=before(hours=1.5), reason="no channel is open", agents=[]
    )


def token(**more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": "tok-7f2e",
        "state": "minted",
        "use_count": 0,
        "max_uses": 1,
        "expires_at": before(minutes=-150.5),
        "created_at": before(minutes=30.5),
        "issuer": "ada@acme.test",
    }
    return TokenStatus(**fields | more).model_dump(mode="json")


SECRET = "http://127.0.0.1:7843/enroll/v1#token=ENROL-c4n4ry"


def minted() -> dict[str, Any]:
    at = datetime(2026, 11, 22, 10, 21, 7, tzinfo=UTC)
    return Token(
        id="tok-7f2e", enrollment_url=SECRET, token="ENROL-c4n4ry", expires_at=at, one_shot=True, max_uses=1
    ).model_dump(mode="json")


def plan(**more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": "edge-1",
        "action": "create",
        "gateway_version": "0.1.0-beta.48",
        "size": "m",
        "replicas": 2,
        "config_sha256": "9c41d2" * 10,
        "cluster": "us-1",
        "after": FULL,
    }
    return DryRun(**fields | more).model_dump(mode="json")


def machines() -> list[dict[str, Any]]:
    found = MachineSummary(
        name="cluster",
        definition="cluster@54a01b1fa3d8",
        title="The life of one cluster",
        states=3,
        moves=5,
        rows={"registered": 2, "draining": 0, "decommissioned": 1},
    )
    return [found.model_dump(mode="json")]


def machine() -> dict[str, Any]:
    about = "the allocator places gateways here while there is room; it draws on what was seen of it"
    return Machine(
        name="cluster",
        definition="cluster@54a01b1fa3d8",
        hash="54a01b1fa3d8" * 5,
        title="The life of one cluster: a place where gateways may run. Reachability is another axis and not a state here.",
        initial="registered",
        final=["decommissioned"],
        failures=[],
        states=[
            MachineState(name="registered", about=about, phase="registered", rest={"kind": "owner"}, rows=2),
            MachineState(name="applying", about="at work", phase="applying", rest={"kind": "work", "timeout_s": 120}),
            MachineState(name="decommissioned", about="gone; kept for its history", phase="gone", rest={"kind": ""}),
        ],
        moves=[
            MachineMove(source="registered", event="drain", dest="applying"),
            MachineMove(source="applying", event="decommission", dest="decommissioned", guard="no_gateways"),
        ],
        mermaid="stateDiagram-v2\n    [*] --> registered: register\n    decommissioned --> [*]\n",
        body="{}",
    ).model_dump(mode="json")


def moves() -> list[dict[str, Any]]:
    """A cluster's history."""
    at = datetime(2026, 11, 22, 10, 21, 7, tzinfo=UTC)
    first = Transition(
        seq=1, at=at, offset_ms=0, source="", dest="registered", phase="registered", event="register", actor="ada",
        in_state_ms=4000,
    )  # fmt: skip
    second = Transition(
        seq=2, at=at, offset_ms=4000, source="registered", dest="draining", phase="draining", event="drain", actor="bob",
        reason="hardware", message="hardware",
    )  # fmt: skip
    return [first.model_dump(mode="json"), second.model_dump(mode="json")]
