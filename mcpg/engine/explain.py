"""
Why an operation is where it is: what it waits for and what of that was seen, which moves there are and which guard says
no, who drives it, and when nobody does, why. Read from its definition, its row, its lines and the evidence.

It only looks: nothing is probed, moved or written, so asking never changes the answer. Called by mcpg/api/operations.py.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from mcpg.engine import compensation, steer, supervision
from mcpg.engine.core import Core
from mcpg.engine.evidence import unasked
from mcpg.engine.operation import Operation
from mcpg.machines import enrolment
from mcpg.machines.table import Facts, Owner, Table, Wait, Work
from mcpg.store import reads, verify
from mcpg.store.journal import LEASE_S, Line

Row = dict[str, Any]
_BY_PEOPLE = {"resume": "operation resume", "cancel": "operation cancel", "superseded": "a delete of the gateway"}
_BY_PEOPLE["supersede"] = "a publish or a delete of the gateway"


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """What is known of one replica of the gateway. `is_there`: nothing more is waited for from it, as far as was seen."""

    replica: int
    is_there: bool
    words: str
    agent_id: str = ""
    since: int | None = None  # microseconds: since when it is so


@dataclass(frozen=True, slots=True)
class MoveSeen:
    """One move from the state it is in. `holds`: what its guard says of `facts` now; None when that cannot be said here."""

    event: str
    dest: str
    by: str
    guard: str
    holds: bool | None
    why: str


@dataclass(slots=True)
class Explained:
    """`row` and `lines` are what it was read from; times in microseconds."""

    row: Row
    lines: list[Line]
    now: int
    kind: str = ""  # of the rest: work, wait, owner, final, unknown
    waits_for: str = ""
    seen: str = ""
    replicas: list[ReplicaSeen] = field(default_factory=list)
    moves: list[MoveSeen] = field(default_factory=list)
    lease: str = ""
    lease_here: bool = False
    attempts: int = 0
    last_failure: str = ""
    paused: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


async def explain(engine: Core, row: Row, *, drives: bool) -> Explained:
    """*row* is the operation's, *drives* whether this process is at it now."""
    lines = [line for line in await reads.history(engine.db, row["id"]) if line.seq <= row["version"]]
    op = Operation.of(row)
    failed = _failed_attempts(lines)
    found = Explained(row, lines, engine.clock(), attempts=len(failed), last_failure=failed[0].reason if failed else "")
    table = op.table
    if op.state not in {s.value for s in table.states}:
        found.kind = "unknown"
        found.blocked = [_of_another_version(op, table, lines)]
        found.next = [f"mcpg-ctl operation replay {op.id}", f"mcpg-ctl machine show {table.name}"]
        return found
    rest = table.rests.get(table.states(op.state))
    if rest is None:
        found.kind = "final"
        found.next = await _after_the_end(engine, op, table)
        return found
    found.replicas = await _replicas(engine, op)
    facts, asked = await _facts(engine, op)
    match rest:
        case Work():
            found.kind, found.waits_for = "work", f"the engine: {rest.effect}"
        case Wait():
            found.kind, found.waits_for = "wait", rest.for_
            found.seen = _counted(op, facts.as_json())
        case Owner():
            found.kind, found.waits_for = "owner", rest.who
    refused = {"cancel"} - set(steer.allowed(row, found.now))  # what is cancelled already, and is being taken back
    moves = [m for m in table.moves if m.source.value == op.state and m.event.value not in refused]
    found.moves = [_move(table, m, facts, is_asked=asked, rest=rest) for m in moves]
    found.lease, found.lease_here, alive = await _lease(engine, row, table, found.now)
    if op.state in table.driven:
        found.blocked = await _blocked(engine, op, table, row, found, drives=drives, is_held=alive)
    elif op.state == "paused":
        found.paused = _paused(op, found)
    found.next = _next(op, found)
    return found


def _failed_attempts(lines: list[Line]) -> list[Line]:
    """Since the state it is in was entered, the newest first; what somebody tried by hand is no failure."""
    out = []
    for line in reversed(lines):
        if line.source != line.dest:
            break
        if line.event == "retry" and "attempt" in line.data:
            out.append(line)
    return out


def _of_another_version(op: Operation, table: Table, lines: list[Line]) -> str:
    made_by = lines[-1].definition[:12] if lines else "unknown"
    return (
        f"{op.state} is no state of {table.label}, which this version runs; its last line was made by"
        f" {table.name}@{made_by}: run that version again, or one that knows the state"
    )


async def _after_the_end(engine: Core, op: Operation, table: Table) -> list[str]:
    """No retry of a recovery that nothing needs, such as one that was cancelled while every replica served."""
    is_due = op.kind != supervision.KIND or await supervision.is_needed(engine, op.instance_id)
    if op.state in table.failure_values and is_due:
        return [f"mcpg-ctl operation show {op.id}", f"mcpg-ctl operation retry {op.id}"]
    return [f"mcpg-ctl operation show {op.id}", f"mcpg-ctl operation replay {op.id}"]


# ---- evidence


async def _replicas(engine: Core, op: Operation) -> list[ReplicaSeen]:
    """Each replica that is wanted, and one that ended."""
    agents = {a["replica"]: a for a in await reads.agents(engine.db, op.instance_id)}
    instance = await reads.find_instance(engine.db, op.instance_id)
    wanted = 0 if op.machine == "teardown" else int(op.spec.get("replicas", 0))
    numbers = sorted({*range(1, wanted + 1), *(n for n in agents if op.machine == "teardown")})
    exits = await engine.ended(op.instance_id)
    out = []
    for number in numbers:
        if (ended := exits.get(number)) is not None:
            out.append(ReplicaSeen(number, False, f"its process ({ended.process}) ended: {ended}"))
            continue
        agent = agents.get(number)
        if op.machine == "teardown":
            assert agent is not None  # noqa: S101 - the numbers are its agents'
            is_open = engine.fleet.is_connected(agent)
            words = "its stream is still open" if is_open else f"gone: {agent['reason'] or agent['state']}"
            out.append(ReplicaSeen(number, not is_open, words, agent["id"], agent["updated_at"]))
        else:
            wanted_hash = reads.assigned(instance, number)[1] if instance is not None else ""
            out.append(_replica(engine, number, agent, wanted_hash))
    return out


def _replica(engine: Core, number: int, agent: Row | None, wanted: str) -> ReplicaSeen:
    """Against the config that this replica is assigned: while an update rolls, not all are assigned the same."""
    if agent is None:
        return ReplicaSeen(number, False, "has not enrolled")
    name = agent["id"]
    if agent["rejected_hash"] and agent["rejected_hash"] == wanted:
        words = f"refused config {wanted[:6]}: {agent['config_error']}"
        return ReplicaSeen(number, False, words, name, agent["updated_at"])
    if agent["state"] == enrolment.State.ENROLLING.value:
        return ReplicaSeen(number, False, "has not connected since enrolment", name, agent["created_at"])
    if agent["state"] != enrolment.State.ONLINE.value or not engine.fleet.is_connected(agent):
        words = f"is {agent['state']}: no channel is open" + (f" ({agent['reason']})" if agent["reason"] else "")
        return ReplicaSeen(number, False, words, name, agent["last_seen_at"] or agent["updated_at"])
    if agent["active_hash"] != wanted:
        other = f", it runs {agent['active_hash'][:6]}" if agent["active_hash"] else ""
        words = f"connected, has not acknowledged config {wanted[:6]}{other}"
        return ReplicaSeen(number, False, words, name, agent["updated_at"])
    return ReplicaSeen(number, True, f"acknowledged {wanted[:6]}", name, agent["updated_at"])


async def _facts(engine: Core, op: Operation) -> tuple[Facts, bool]:
    """
    What the guards would be given, as far as it is known without asking anybody; and whether that is all of it: who
    answers is found out by a probe, which is not made here.
    """
    seen = await unasked(engine, op)
    fields = {f.name for f in dataclasses.fields(seen)}
    known = {"cancelled": op.cancelled, "paused_in": op.paused_in}
    told: Any = seen
    facts: Facts = dataclasses.replace(told, **{k: v for k, v in known.items() if k in fields})
    return facts, "answering" not in fields or not getattr(facts, "evidence", True)


def _counted(op: Operation, facts: dict[str, Any]) -> str:
    if op.machine == "teardown":
        return f"{facts.get('connected', 0)} agent stream(s) still open"
    if not facts.get("evidence", True):
        return "nothing to observe: the no-op provisioner"
    wanted, hash_ = facts.get("replicas", 0), str(op.spec.get("config_hash", ""))[:6]
    return f"{facts.get('enrolled', 0)} of {wanted} enrolled, config {hash_} active on {facts.get('active', 0)} of {wanted}"


# ---- moves


def _move(table: Table, move: Any, facts: Facts, *, is_asked: bool, rest: Work | Wait | Owner) -> MoveSeen:
    event, guard = move.event.value, move.guard
    late = getattr(rest, "late", None)
    if event in _BY_PEOPLE:
        by = _BY_PEOPLE[event]
    elif late is not None and move.event is late:
        by = "its deadline"
    else:
        by = "the engine"
    if guard is None:
        return MoveSeen(event, move.dest.value, by, "", True, "")
    text = json.dumps(facts.as_json(), sort_keys=True)
    if guard(facts):
        return MoveSeen(event, move.dest.value, by, guard.__name__, True, text)
    if not is_asked and guard(_answering(facts)):
        return MoveSeen(event, move.dest.value, by, guard.__name__, None, f"{text}; its endpoints were not asked here")
    return MoveSeen(event, move.dest.value, by, guard.__name__, False, text)


def _answering(facts: Facts) -> Facts:
    """*facts*, if everybody who could answer did."""
    known: Any = facts
    answering: Facts = dataclasses.replace(known, answering=known.enrolled)
    return answering


# ---- who drives it


async def _lease(engine: Core, row: Row, table: Table, now: int) -> tuple[str, bool, bool]:
    """In words, whether it is ours, and whether somebody holds it who is alive."""
    owner, until = row["lease_owner"], row["lease_until"]
    if owner is None:
        if row["state"] not in table.driven:
            return "none needed in this state", False, False
        could = engine.provisioner is not None or engine.leases.others_run_gateways()
        return "nobody holds it" + ("" if could else ": no control plane that runs gateways is alive"), False, False
    if owner == engine.epoch:  # which has no need of a term where it is alone
        when = f", {_term(((until or 0) - now) / 1e6)}" if engine.leases.shared else ""
        return f"this control plane ({owner}){when}", True, True
    holder = await verify.replica_of(engine.db, owner)
    if holder is None:
        return f"a start of a control plane that is over ({owner})", False, False
    name = f"{holder['id']} on {holder['host']} (pid {holder['pid']}, {owner})"
    if not holder["seen_at"]:
        return f"{name}, which has stopped", False, False
    silent = (holder["asked_at"] - holder["seen_at"]) / 1e6  # both by the database's clock
    is_alive = silent < LEASE_S
    return f"{name}, {_term(LEASE_S - silent)}" + ("" if is_alive else f"; silent for {silent:.0f} s"), False, is_alive


def _term(left_s: float) -> str:
    return f"for another {left_s:.0f} s" if left_s > 0 else f"until {-left_s:.0f} s ago"


async def _blocked(
    engine: Core, op: Operation, table: Table, row: Row, found: Explained, *, drives: bool, is_held: bool
) -> list[str]:
    """Why nothing moves it on though something should; nothing when somebody does."""
    out = []
    if found.lines and found.lines[-1].definition != table.definition_hash:
        out.append(
            f"its last line was made by {table.name}@{found.lines[-1].definition[:12]}, and this version runs {table.label}:"
            " it goes on by the new one from the state it is in"
        )
    if engine.provisioner is None and not drives:
        alive = await verify.living_provisioners(engine.db)
        if not [p for p in alive if p not in ("", "none")]:
            out.append("no control plane with a provisioner runs: this one was started with --provisioner none")
        else:
            out.append("this control plane has no provisioner (--provisioner none): another one drives it")
        return out
    if drives or found.lease_here:
        return out
    if row["lease_owner"] is not None and not is_held:
        out.append("whoever held it is gone, and the lease is over: the next sweep takes it")
    elif row["lease_owner"] is None:
        out.append("nobody drives it here: the next sweep takes it")
    return out


# ---- what a person can do


def _paused(op: Operation, found: Explained) -> list[str]:
    """Why it is paused, and where each way out leads."""
    paused_by = next((x for x in reversed(found.lines) if x.dest == op.state and x.source != op.state), None)
    out = []
    if paused_by is not None:
        out.append(f"it paused in {paused_by.source} on {paused_by.event}: {paused_by.reason or 'no reason was given'}")
    resumed = next((m for m in found.moves if m.event == "resume" and m.holds), None)
    if resumed is not None:
        out.append(f"resume goes back to {resumed.dest}, with a fresh deadline")
    cancel = next((m for m in found.moves if m.event == "cancel"), None)
    if cancel is not None:
        known = {s.value for s in op.table.states}  # a line of another version may name others
        steps = [step.words for step in compensation.plan(op, [x for x in found.lines if x.dest in known])]
        undo = f": {', '.join(steps)}" if steps else ""
        out.append(f"cancel leads to {cancel.dest}{undo}")
    return out


def _next(op: Operation, found: Explained) -> list[str]:
    events = {m.event for m in found.moves}
    out = []
    if any("--provisioner none" in words and "no control plane" in words for words in found.blocked):
        out.append("mcpg-ctl serve --provisioner local")
    if op.state == "paused":
        out += [f"mcpg-ctl operation resume {op.id}"] if "resume" in events else []
    else:
        out.append(f"mcpg-ctl operation attach {op.id}")
    if any(not r.is_there for r in found.replicas) and op.machine != "teardown":
        out.append(f"mcpg-ctl instance show {op.instance_id}")
    if "cancel" in events:
        out.append(f"mcpg-ctl operation cancel {op.id} --plan")
    return out
