"""Operations, their ladders and their exports as bodies of the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mcpg.machines import TABLES
from mcpg.machines.table import Wait, Work
from mcpg.present.base import Row, message, transitions, when
from mcpg.store import fleet, reads
from mcpg.store.clock import now_us, to_datetime
from mcpg.store.database import Database
from mcpg.store.journal import Line, canonical
from mcpg.wire.events import EndEvent, FleetEvent, LadderEvent
from mcpg.wire.operations import Export, ExportConfig, ExportInputs, ExportRow, Operation


def operation(row: Row, names: dict[str, Row], lines: Sequence[Line] | None = None) -> Operation:
    """
    `final_phase` is the phase of the state it is in; `duration_ms` counts to the end, or to now. With its *lines* the
    definition named is the one that made the last of them, else this version's. *names* is `fleet.cluster_names`.
    """
    table = TABLES[row["machine"]]
    running = row["state"] not in table.final_values
    where = names.get(row["cluster_id"] or "", {})
    end = row["finished_at"] or now_us()
    return Operation(
        id=row["id"], kind=row["kind"], machine=row["machine"], org=row["org"], workspace=row["workspace"],
        environment=row["environment"], name=row["name"], instance_uid=row["instance_id"], state=row["state"],
        final_phase=table.phase(row["state"]), error=row["error"], code=row["code"], running=running,
        cluster=where.get("name", ""), region=where.get("region", ""), replicas=row["spec"].get("replicas", 0),
        actor=row["actor"], started_at=when(row["created_at"]), finished_at=when(row["finished_at"]),
        deadline_at=when(row["deadline_at"]) if _has_deadline(row) else None, attempt=row["attempt"],
        next_attempt_at=when(row["next_attempt_at"]) if running else None,
        paused_in=row["paused_in"] if row["state"] == "paused" else "", retry_of=row["retry_of"] or "",
        duration_ms=(end - row["created_at"]) / 1000, transitions=row["version"],
        definition=f"{row['machine']}@{lines[-1].definition[:12]}" if lines else table.label,
        damaged=row.get("damaged", []),
        history=None if lines is None else transitions(lines),
    )  # fmt: skip


def _has_deadline(row: Row) -> bool:
    """Whether the state it is in has one: what waits for an operator does so without, whatever the row says of before."""
    table = TABLES[row["machine"]]
    known = {state.value: rest for state, rest in table.rests.items()}
    return isinstance(known.get(row["state"]), Work | Wait)


def ladder_event(line: Line, first_at: int) -> LadderEvent:
    table = TABLES[line.machine]
    coords: dict[str, Any] | None = None
    if line.dest in table.final_values and line.dest not in table.failure_values:
        coords = {str(k): line.data[k] for k in ("instance_uid", "endpoints") if k in line.data} or None
    return LadderEvent(
        operation_id=line.subject, seq=line.seq, phase=table.phase(line.dest), state=line.dest, event=line.event,
        at=to_datetime(line.at), message=message(line), reason=line.reason, code=str(line.data.get("code", "")),
        actor=line.actor, offset_ms=(line.at - first_at) / 1000, coords=coords, data=line.data,
    )  # fmt: skip


def fleet_event(line: Line, row: Row) -> FleetEvent:
    """A line of one operation among all; *row* is the operation's."""
    whose = {k: row[k] for k in ("org", "workspace", "environment", "name", "kind")}
    return FleetEvent(**ladder_event(line, row["created_at"]).model_dump(), **whose)


def export(
    row: Row, names: dict[str, Row], lines: Sequence[Line], definitions: dict[str, str], configs: Sequence[Row]
) -> str:
    """
    The one document of an operation, as canonical JSON. *definitions* are the texts that its lines name, by hash; of
    *configs* only the hashes go out.
    """
    asked = {spec.get("config_version") for spec in (row["spec"], row["previous"]) if spec}
    body = Export(
        operation=operation(row, names, lines),
        row=ExportRow(state=row["state"], version=row["version"], head_hash=row["head_hash"]),
        inputs=ExportInputs(
            spec=row["spec"], previous=row["previous"],
            configs=[
                ExportConfig(version=c["version"], raw_sha256=c["raw_sha256"], rendered_sha256=c["rendered_sha256"])
                for c in sorted(configs, key=lambda c: int(c["version"])) if c["version"] in asked
            ],
        ),
        definitions={digest: json.loads(text) for digest, text in definitions.items()},
    )  # fmt: skip
    return canonical(body.model_dump(mode="json")) + "\n"


def end_event(line: Line) -> EndEvent:
    table = TABLES[line.machine]
    ok = line.dest in table.final_values and line.dest not in table.failure_values
    return EndEvent(
        operation_id=line.subject, seq=line.seq, phase=table.phase(line.dest), state=line.dest, ok=ok,
        code=str(line.data.get("code", "")), message=message(line),
    )  # fmt: skip


async def recent_operations(db: Database, limit: int) -> list[Operation]:
    """The newest of every org, without their histories."""
    names = await fleet.cluster_names(db)
    return [operation(r, names) for r in await reads.recent_operations(db, limit)]
