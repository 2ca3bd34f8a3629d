"""What a control plane would say of its histories: an export whose chain holds, an explanation, pages of a check."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from mcpg.machines import provision
from mcpg.machines.chain import entry, entry_hash
from mcpg.wire.audit import AuditPage, Finding
from mcpg.wire.base import rfc3339
from mcpg.wire.explain import Explanation, PossibleMove, ReplicaEvidence
from mcpg.wire.machines import UpgradeFinding, UpgradePage
from mcpg.wire.operations import Export, Operation, Transition

from .fake import OPERATION, UID, operation

AT = datetime(2026, 11, 22, 10, 21, 7, tzinfo=UTC)
SERVES = provision.Seen(replicas=2, enrolled=2, active=2, answering=2).as_json()
STEPS: tuple[tuple[str, str, str, str, int, str, dict[str, Any]], ...] = (
    ("", "requested", "request", "ada@acme.test", 0, "", {}),
    ("requested", "allocating", "accept", "ada@acme.test", 4, "", {}),
    ("allocating", "allocating", "retry", "engine", 30, "us-east-shared-1 does not answer", {}),
    ("allocating", "applying", "reserved", "engine", 87, "us-east-shared-1, 2 places", {}),
    ("applying", "confirming", "applied", "engine", 981, "process 4711, 4712 started", {}),
    ("confirming", "ready", "confirmed", "engine", 2574, "config 9c41d2 active on 2", SERVES),
)


SPEC = {"replicas": 2, "config_version": 1, "config_hash": "9c41d2" * 10}
ASKED = {
    "kind": "create", "name": "edge-1", "instance_id": UID, "org": "acme", "workspace": "prod", "environment": "us",
    "spec": SPEC, "previous": None,
}  # fmt: skip


def steady(text: str) -> str:
    """*text* without hashes: they change with every definition."""
    return re.sub(r"\b[0-9a-f]{12}\b", "<the hash..>", text)


def lines(count: int = len(STEPS)) -> list[dict[str, Any]]:
    """Journal lines as `Transition` has them, each with the hash it must have."""
    out: list[dict[str, Any]] = []
    for seq, (source, dest, event, actor, offset, reason, facts) in enumerate(STEPS[:count], 1):
        after = STEPS[seq][4] if seq < count else None
        at = AT + timedelta(milliseconds=offset)
        data: dict[str, Any] = {1: ASKED, 3: {"attempt": 1}, 4: {"cluster": "us-east-shared-1"}}.get(seq, {"n": seq})
        line = Transition(
            seq=seq, at=at, at_us=int(at.timestamp() * 1e6), offset_ms=offset, source=source, dest=dest,
            phase=provision.MACHINE.phase(dest),
            event=event, actor=actor, reason=reason, message=reason if source else "create edge-1", facts=facts, data=data,
            attempt=1 if event == "retry" else 0, definition=provision.MACHINE.definition_hash,
            prev_hash=out[-1]["hash"] if out else "", in_state_ms=None if after is None else after - offset,
        ).model_dump(mode="json")  # fmt: skip
        out.append(line | {"hash": entry_hash(OPERATION, entry("provision", line))})
    return out


def export(**more: Any) -> dict[str, Any]:
    """A whole export; *more* replaces keys of the operation in it."""
    history = lines()
    made_by = provision.MACHINE.label
    whole = {
        "format": "mcpg-operation/2",
        "operation": operation(
            history=history, transitions=len(history), started_at=rfc3339(AT), definition=made_by, **more
        ),
        "row": {"state": "ready", "version": len(history), "head_hash": history[-1]["hash"]},
        "inputs": {
            "spec": SPEC,
            "configs": [{"version": 1, "raw_sha256": "7" * 64, "rendered_sha256": SPEC["config_hash"]}],
        },
        "definitions": {provision.MACHINE.definition_hash: provision.MACHINE.definition()},
    }
    return Export.model_validate(whole).model_dump(mode="json")


def changed(**line: Any) -> dict[str, Any]:
    """The same export with the fourth line changed."""
    found = copy.deepcopy(export())
    found["operation"]["history"][3] |= line
    return found


def definition(**more: Any) -> str:
    return json.dumps(provision.MACHINE.definition() | more)


def explanation(**more: Any) -> dict[str, Any]:
    """Of an operation that waits for its second replica, 41 s after it was begun."""
    now = AT + timedelta(seconds=44)
    last = Transition.model_validate(lines(5)[-1])
    running = operation(state="confirming", final_phase="applying", running=True, finished_at=None)
    running |= {"deadline_at": rfc3339(now + timedelta(seconds=79)), "instance_uid": UID}
    fields: dict[str, Any] = {
        "at": now,
        "operation": Operation.model_validate(running),
        "since": AT + timedelta(seconds=3),
        "rest": "wait",
        "waits_for": "every replica enrolled, config active, endpoint answering",
        "seen": "1 of 2 enrolled, config 9c41d2 active on 1 of 2",
        "replicas": [
            ReplicaEvidence(replica=1, is_there=True, words="acknowledged 9c41d2", since=now - timedelta(seconds=30)),
            ReplicaEvidence(
                replica=2, is_there=False, words="has not connected since enrolment", since=now - timedelta(seconds=39)
            ),
        ],
        "last": last,
        "moves": [
            PossibleMove(
                event="confirmed", dest="ready", by="the engine", guard="all_replicas_serve", holds=False,
                why='{"active": 1, "replicas": 2}',
            ),
            PossibleMove(event="deadline", dest="compensating", by="its deadline", holds=True),
            PossibleMove(event="cancel", dest="compensating", by="operation cancel", holds=True),
        ],
        "lease": "none needed in this state",
        "next": [f"mcpg-ctl instance show {UID}", f"mcpg-ctl operation cancel {OPERATION} --plan"],
    }  # fmt: skip
    return Explanation(**fields | more).model_dump(mode="json")


def audit_page(*findings: Finding, next: str = "", lines: int = 60, found: int | None = None) -> dict[str, Any]:  # noqa: A002
    return AuditPage(
        at=AT, lines=lines, subjects=12, found=len(findings) if found is None else found, findings=list(findings),
        journal=120, next=next,
    ).model_dump(mode="json")  # fmt: skip


TAMPERED = Finding(
    kind="chain", subject="op-81aa", what="something in the line was changed after it was written", check="hash", seq=3,
    expected="0a1b2c3d4e5f", found="9c41d2000000",
)  # fmt: skip
MISCOUNTED = Finding(
    kind="counters", subject="7f2e1a90", what="gateways_used of cluster local is not what is reserved there",
    check="gateways", expected="3", found="4",
)  # fmt: skip


def upgrade_page(*findings: UpgradeFinding, next: str = "", **more: Any) -> dict[str, Any]:  # noqa: A002
    fields: dict[str, Any] = {
        "machine": "provision",
        "before": "provision@2a096ae4170c",
        "after": "provision@e0ab97473645",
        "subjects": 10,
        "live": 2,
        "replayable": 10 - len(findings),
        "differs": sum(f.verdict == "differs" for f in findings),
        "stuck": sum(f.verdict == "stuck" for f in findings),
        "live_stuck": sum(f.verdict == "stuck" and f.live for f in findings),
        "findings": list(findings),
        "next": next,
    }
    return UpgradePage(**fields | more).model_dump(mode="json")


STUCK = UpgradeFinding(
    subject="op-93d0", name="edge-7", live=True, state="paused", verdict="stuck", seq=4,
    why="from paused nothing leads on in provision@e0ab97473645",
)  # fmt: skip
DIFFERS = UpgradeFinding(
    subject="op-7f2e", name="edge-1", live=False, state="ready", verdict="differs", seq=5, why="it has no such move"
)
