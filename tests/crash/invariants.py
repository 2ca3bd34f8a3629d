"""
What must be true of a control plane at rest, whatever killed it before: read from its real database, the real /proc and
the real disk, not through its API. `broken()` answers with a sentence for each thing that is wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mcpg.host import processes
from mcpg.machines import TABLES
from mcpg.store.clock import now_us
from mcpg.store.journal import ROWS, Line, line_hash
from tests.crash.world import Site, gateways

Row = dict[str, Any]
Tables = dict[str, list[Row]]
NAMES = (
    "operation", "instance", "agent", "cluster", "reservation", "bootstrap_token", "journal", "config_version", "joined_key",
)  # fmt: skip


async def read(site: Site) -> Tables:
    """Every row of every table, in one snapshot."""
    if site.db_url.startswith("postgres"):
        return await _read_postgres(site.inspected_url)
    return await asyncio.to_thread(_read_sqlite, site.state / "cp-state.db")


def _read_sqlite(path: Path) -> Tables:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN")
        return {name: [dict(row) for row in db.execute(f"SELECT * FROM {name}")] for name in NAMES}  # noqa: S608


async def _read_postgres(url: str) -> Tables:
    import asyncpg

    db = await asyncpg.connect(url)
    try:
        async with db.transaction(isolation="repeatable_read", readonly=True):
            return {name: [dict(row) for row in await db.fetch(f'SELECT * FROM "{name}"')] for name in NAMES}  # noqa: S608
    finally:
        await db.close()


async def broken(site: Site) -> list[str]:
    """What is wrong with *site*, whose operations are all at rest; nothing, it is to be hoped."""
    tables = await read(site)
    for rows in tables.values():
        for row in rows:
            for column in ("spec", "previous", "facts", "data", "endpoints"):
                if isinstance(row.get(column), str):
                    row[column] = json.loads(row[column])
    checks = [_journal(tables), _operations(tables), _keys(site, tables), _room(tables), _tokens(tables)]
    if site.settings["provisioner"] == "local":
        checks += [_processes(site, tables, site.down), _files(site, tables)]
    else:
        checks += [f"{mark} runs as {pid}" for pid, mark in gateways(site.gateways_dir)]
    return [words for check in checks for words in ([check] if isinstance(check, str) else check)]


def _journal(tables: Tables) -> Iterator[str]:
    """The journal folds to the rows: seq, source and dest, the moves of the table, the hash chain."""
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for line in sorted(tables["journal"], key=lambda line: line["id"]):
        lines[line["machine"], line["subject"]].append(line)
    rows = {(name, row["id"]): row for name in set(ROWS.values()) for row in tables[name]}
    for (machine, subject), history in lines.items():
        row = rows.pop((ROWS[machine], subject), None)
        if row is None:
            yield f"{machine} {subject} has a journal and no row"
            continue
        if [line["seq"] for line in history] != list(range(1, len(history) + 1)):
            yield f"{subject}: seqs are {[line['seq'] for line in history]}"
        for before, line in itertools.pairwise([None, *history]):
            assert line is not None
            yield from _line(before, line)
        last = history[-1]
        if (row["state"], row["version"], row["head_hash"]) != (last["dest"], last["seq"], last["hash"]):
            yield f"{subject}: the row is {row['state']} v{row['version']}, its journal {last['dest']} v{last['seq']}"
        ends = [line["seq"] for line in history if line["dest"] in TABLES[machine].final_values]
        if ROWS[machine] == "operation" and (
            len(ends) > 1 or bool(ends) != (row["state"] in TABLES[machine].final_values)
        ):
            yield f"{subject}: terminal lines {ends}, and it is {row['state']}"
    yield from (f"{name} {subject} has no journal" for name, subject in rows)


def _line(before: Row | None, line: Row) -> Iterator[str]:
    where = f"{line['subject']}#{line['seq']}"
    source, head = (before["dest"], before["hash"]) if before else ("", "")
    if (line["source"], line["prev_hash"]) != (source, head):
        yield f"{where} goes on from {line['source']}, not from {source}"
    if line_hash(Line(**{k: v for k, v in line.items() if k != "id"})) != line["hash"]:
        yield f"{where}: its hash is another's"
    if before and line["at"] < before["at"]:
        yield f"{where} was written before the line it follows"
    table = TABLES[line["machine"]]
    if before is None:
        wanted = table.initial.value
    else:
        wanted = table.step(source, table.events(line["event"]), table.facts(**line["facts"])).value
    if line["dest"] != wanted:
        yield f"{where}: {line['event']} from {source} leads to {wanted}, not to {line['dest']}"


def _operations(tables: Tables) -> Iterator[str]:
    """At rest: final and let go of, or paused and holding its instance; no instance is held by what is over."""
    instances = {row["id"]: row for row in tables["instance"]}
    operations = {row["id"]: row for row in tables["operation"]}
    for op in operations.values():
        is_final = op["state"] in TABLES[op["machine"]].final_values
        if not is_final and op["state"] != "paused":
            yield f"{op['id']} rests in {op['state']}"
        if is_final and (op["lease_owner"] or op["finished_at"] is None):
            yield f"{op['id']} is {op['state']}: lease {op['lease_owner']}, finished at {op['finished_at']}"
        if not is_final and instances[op["instance_id"]]["operation_id"] != op["id"]:
            yield f"{op['id']} is {op['state']} and does not hold its instance"
        if op["state"] == "deleted" and instances[op["instance_id"]]["deleted_at"] is None:
            yield f"{op['id']} is deleted and its instance lives"
    for row in instances.values():
        holder = operations.get(row["operation_id"] or "")
        if row["operation_id"] and (holder is None or holder["state"] != "paused"):
            yield f"instance {row['name']} is held by {row['operation_id']}"
        if row["deleted_at"] is not None and (row["live_name"] or row["ready_at"] or row["endpoints"]):
            yield f"instance {row['name']} is deleted and still shown"
    for agent in tables["agent"]:
        if instances[agent["instance_id"]]["deleted_at"] is not None and agent["state"] != "departed":
            yield f"agent {agent['instance_uid']} of a deleted instance is {agent['state']}"
    for config in tables["config_version"]:
        if config["operation_id"] not in operations:
            yield f"config version {config['id']} was published by nobody"


def _keys(site: Site, tables: Tables) -> Iterator[str]:
    """What was acknowledged exists; a key is one operation, also that of a request which joined it while it ran."""
    by_key = Counter(row["idempotency_key"] for row in tables["operation"] if row["idempotency_key"])
    yield from (f"key {key} made {count} operations" for key, count in by_key.items() if count > 1)
    there = {row["id"]: row for row in tables["operation"]}
    made = {row["idempotency_key"]: row for row in there.values() if row["idempotency_key"]}
    joined = {row["idempotency_key"]: row["operation_id"] for row in tables["joined_key"]}
    yield from (f"key {key} made an operation and joined {joined[key]}" for key in made.keys() & joined.keys())
    for key, operation in site.acked.items():
        told = there.get(operation)
        if told is None or (key in made and made[key]["body_hash"] != told["body_hash"]):
            yield f"key {key} was told {operation}, and is {made[key]['id'] if key in made else 'nothing'}"
        elif told["idempotency_key"] == key and made[key] is not told:
            yield f"key {key} is {operation} and {made[key]['id']}"
        elif key in joined and joined[key] != operation:
            yield f"key {key} was told {operation}, and joined {joined[key]}"


def _room(tables: Tables) -> Iterator[str]:
    """Counters are the sum of reservations; a living gateway at rest holds what its spec takes, a deleted one nothing."""
    held = {row["instance_id"]: row for row in tables["reservation"]}
    for cluster in tables["cluster"]:
        mine = [row for row in held.values() if row["cluster_id"] == cluster["id"]]
        for column, of in (
            ("gateways_used", "places"),
            ("cpu_millicores_used", "cpu_millicores"),
            ("memory_bytes_used", "memory_bytes"),
        ):
            if cluster[column] != sum(row[of] for row in mine):
                yield f"cluster {cluster['name']}: {column} is {cluster[column]}, held {sum(row[of] for row in mine)}"
    for row in tables["instance"]:
        mine = held.pop(row["id"], None)
        if row["operation_id"] is not None:
            continue  # paused: what it holds is its own affair
        wanted = row["spec"]["replicas"] if row["managed"] and not row["deleted_at"] and not row["orphaned_at"] else 0
        if (mine["places"] if mine else 0) != wanted:
            yield f"instance {row['name']} holds {mine and mine['places']} places, its spec takes {wanted}"
    yield from (f"{instance} holds room and does not exist" for instance in held)


def _tokens(tables: Tables) -> Iterator[str]:
    gone = {row["id"] for row in tables["instance"] if row["deleted_at"] is not None}
    for token in tables["bootstrap_token"]:
        if token["instance_id"] in gone and token["revoked_at"] is None and token["expires_at"] > now_us():
            yield f"token {token['id']} is still good for the deleted {token['instance_id']}"


def _wanted(tables: Tables) -> set[str]:
    """The marks of the processes that should run."""
    return {
        f"{row['id']}/{number}"
        for row in tables["instance"]
        if row["managed"] and row["deleted_at"] is None and row["operation_id"] is None
        for number in range(1, row["spec"]["replicas"] + 1)
    }


def _processes(site: Site, tables: Tables, missing: set[str]) -> Iterator[str]:
    """One process for each replica of each living instance, no other; each listens on its own port."""
    paused = {row["id"] for row in tables["instance"] if row["operation_id"] is not None}
    running = [(pid, mark) for pid, mark in gateways(site.gateways_dir) if mark.partition("/")[0] not in paused]
    for mark, count in Counter(mark for _, mark in running).items():
        if count > 1:
            yield f"{mark} runs {count} times"
    there, wanted = {mark for _, mark in running}, _wanted(tables)
    yield from (f"{mark} runs and should not" for mark in sorted(there - wanted))
    yield from (f"{mark} should run and does not" for mark in sorted(wanted - there - missing))
    ports = Counter[int]()
    for pid, mark in running:
        instance, _, number = mark.partition("/")
        port = int((site.gateways_dir / instance / f"replica-{number}" / "port").read_text())
        ports[port] += 1
        identity = processes.Identity(pid, processes.started_at(pid), processes.boot_id())
        if processes.listener(port, identity, mark) != "ours":
            yield f"{mark} does not listen on its port {port}"
    yield from (f"port {port} is remembered by {count} replicas" for port, count in ports.items() if count > 1)


def _files(site: Site, tables: Tables) -> Iterator[str]:
    """Files of living replicas only; nothing half-written that nobody will ever finish."""
    root = site.gateways_dir
    paused = {row["id"] for row in tables["instance"] if row["operation_id"] is not None}
    there = {f"{path.parent.name}/{path.name[8:]}" for path in root.glob("*/replica-*")}
    there |= {f"{path.name}/" for path in root.glob("*") if not any(path.iterdir())}
    wanted = _wanted(tables)
    yield from (f"files of {mark} are left" for mark in sorted(there - wanted) if mark.partition("/")[0] not in paused)
    yield from (f"{path} is left half-written" for path in root.rglob("*.tmp"))
