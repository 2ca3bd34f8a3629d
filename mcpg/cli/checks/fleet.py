"""
Checks of what the control plane looks after: operations that stopped or are stranded, agents that went silent, clusters, orphans.

They ask the control plane at the URL. Where none answers they read the database here, and say only what it can still say.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from typing import Any

from mcpg.cli import database, render
from mcpg.cli.checks.facts import Facts, Skip, Verdict, bad, good, note

_STUCK_S = 300.0
_REGISTER = "mcpg-ctl cluster register --name local --region local --gateways-max 20"
_NAMED = 3  # how many are named; the rest is counted
_OPEN = "SELECT id, kind, name, state, updated_at FROM operation WHERE finished_at IS NULL ORDER BY created_at"
_ORPHANS = "SELECT name, instance_uid FROM instance WHERE deleted_at IS NULL AND orphaned_at IS NOT NULL"
_SUBJECTS = {"operation": "machine", "agent": "'enrolment'", "cluster": "'cluster'"}  # table: what names its machine


def operations(facts: Facts) -> Verdict:
    """Operations that rest where only a person moves them on, or have not moved when they should have."""
    if not facts.answers:
        return _waiting(facts)
    now = time.time()
    found = facts.ask("v1", "operations", running="true", history="true", limit="200")
    paused = [each for each in found if each.get("state") == "paused"]
    stuck = [each for each in found if each.get("state") != "paused" and _is_stuck(each, now)]
    if paused:
        words = f"{_listed(_operation(each) for each in paused)}: a person decides how it goes on"
        if paused[0].get("kind") == "recover":
            words += f"; {paused[0].get('name')} is down: {_last_words(paused[0])}"
        return note(words, f"mcpg-ctl operation show {shlex.quote(str(paused[0].get('id')))}")
    if stuck:
        words = f"{_listed(_operation(each) for each in stuck)}: no move for {_STUCK_S / 60:.0f} minutes, or past its deadline"
        return note(words, f"mcpg-ctl operation show {shlex.quote(str(stuck[0].get('id')))}")
    return good(f"{len(found)} running, none of them stuck" if found else "none is running")


def _last_words(operation: dict[str, Any]) -> str:
    history = operation.get("history") or [{}]
    return str(history[-1].get("message") or "no reason is known")


def _is_stuck(operation: dict[str, Any], now: float) -> bool:
    history = operation.get("history") or [{}]
    moved = render.epoch(history[-1].get("at") or operation.get("started_at"))
    deadline = render.epoch(operation.get("deadline_at"))
    is_late = deadline is not None and now > deadline + 5  # the engine acts on it a moment later
    return is_late or (moved is not None and now - moved > _STUCK_S)


def _operation(operation: dict[str, Any]) -> str:
    return f"{operation.get('id')} ({operation.get('kind')} {operation.get('name')}) is {operation.get('state')}"


def _waiting(facts: Facts) -> Verdict:
    """With no control plane nothing moves: operations that are open wait for one."""
    with facts.db() as db:
        if not {"finished_at", "kind"} <= database.columns(db, "operation"):
            raise Skip("the database has no operations")
        rows = db.execute(_OPEN).fetchall()
    fields = ("id", "kind", "name", "state")
    found = [_operation(dict(zip(fields, row[:4], strict=True))) for row in rows]
    if found:
        return note(f"{_listed(found)}, and no control plane runs to go on with it", "mcpg-ctl serve")
    return good("none is open")


def stranded(facts: Facts) -> Verdict:
    """Operations that no control plane drives, and gateways that dial one that is gone. Only a live one can tell."""
    found, now = facts.ask("v1", "stranded"), time.time()
    if found:
        words = _listed((f"{each.get('message')}, for {render.age(each.get('since'), now)}" for each in found), "; ")
        return note(words, str(found[0].get("hint") or "mcpg-ctl status"))
    return good("nothing")


def agents(facts: Facts) -> Verdict:
    """Agents that should be heard or connected and are not. Only a live control plane can tell."""
    found = [(each, agent) for each in facts.ask("v1", "instances") for agent in each.get("agents") or []]
    silent = [(each, agent) for each, agent in found if agent.get("state") in ("stale", "departed")]
    cut = [(each, agent) for each, agent in found if agent.get("state") == "online" and not agent.get("connected")]
    connected = sum(bool(agent.get("connected")) for _, agent in found)
    counts = f"{len(found)} enrolled, {connected} connected"
    if silent or cut:
        words = [_listed((_agent(*each) for each in which), "; ") for which in (silent, cut)]
        why = [f"{what}: {names}" for what, names in zip(("not heard", "not connected"), words, strict=True) if names]
        uid = str((silent or cut)[0][0].get("instance_uid"))
        return note(f"{counts}; {'; '.join(why)}", f"mcpg-ctl instance show {shlex.quote(uid)}")
    return good(counts if found else "none is enrolled")


def _agent(instance: dict[str, Any], agent: dict[str, Any]) -> str:
    name = instance.get("name") or instance.get("instance_uid")
    return f"{name}, replica {agent.get('replica')}, {agent.get('state')}{_seen(agent)}"


def _seen(agent: dict[str, Any]) -> str:
    return f" (last {render.ago(agent['last_seen_at'], time.time())})" if agent.get("last_seen_at") else ""


def orphans(facts: Facts) -> Verdict:
    """Gateways whose cluster was taken away under them."""
    if facts.answers:
        found = [each.get("name") or each.get("instance_uid") for each in facts.ask("v1", "instances", orphaned="true")]
    else:
        with facts.db() as db:
            if "orphaned_at" not in database.columns(db, "instance"):
                raise Skip("the database does not know orphans yet")
            found = [name or uid for name, uid in db.execute(_ORPHANS)]
    if found:
        words = f"{_listed(map(str, found))}: running on without a cluster, to be adopted or reaped"
        return note(words, "mcpg-ctl instance list --orphaned")
    return good("none")


def clusters(facts: Facts) -> Verdict:
    """Whether a cluster takes gateways, and which of them the control plane cannot reach."""
    found = facts.ask("v1", "clusters")
    resting = [str(each.get("name")) for each in found if each.get("state") == "draining"]
    if len(resting) == len(found):
        words = f": {_listed(resting)} {'is' if len(resting) == 1 else 'are'} draining" if resting else ""
        way_on = f"mcpg-ctl cluster undrain {shlex.quote(resting[0])}" if resting else _REGISTER
        return bad(f"no cluster takes gateways{words}", way_on)
    lost = [
        f"{each.get('name')}{': ' if each.get('reason') else ''}{each.get('reason') or ''}"
        for each in found
        if each.get("reachable") is False
    ]
    if lost:
        return note(f"unreachable: {_listed(lost, '; ')}", "mcpg-ctl cluster health")
    return good(f"{len(found)}, all reachable")


def states(facts: Facts) -> Verdict:
    """Rows in a state that no known definition of their machine has: of a newer version, or written by hand."""
    known, rows = _by_api(facts) if facts.answers else _by_database(facts)
    lost = [
        f"{count} {machine} in {state}"
        for machine, counts in sorted(rows.items())
        for state, count in sorted(counts.items())
        if machine in known and state not in known[machine]
    ]
    lost += [
        f"{sum(counts.values())} of the machine {machine}" for machine, counts in rows.items() if machine not in known
    ]
    if lost:
        return note(f"unknown here: {_listed(lost)}", "pip install --upgrade mcpg-control-plane")
    count = sum(sum(counts.values()) for counts in rows.values())
    return good(f"{count} row{'' if count == 1 else 's'}, all in known states")


Known = tuple[dict[str, set[str]], dict[str, dict[str, int]]]  # machine: its states; machine: rows by state


def _by_api(facts: Facts) -> Known:
    """`rows` names every declared state, and others only where a row is in one: then the machine is asked for its own."""
    found = {str(each.get("name")): each for each in facts.ask("v1", "machines")}
    rows = {name: dict(each.get("rows") or {}) for name, each in found.items()}
    known = {name: set(counts) for name, counts in rows.items()}
    for name, each in found.items():
        if len(rows[name]) > int(each.get("states") or 0):
            known[name] = {
                str(state.get("name")) for state in facts.api.item("v1", "machines", name).get("states") or []
            }
    return known, rows


def _by_database(facts: Facts) -> Known:
    known: dict[str, set[str]] = {}
    rows: dict[str, dict[str, int]] = {}
    with facts.db() as db:
        if "body" not in database.columns(db, "definition"):
            raise Skip("the database has no definitions to compare with")
        for machine, body in db.execute("SELECT machine, body FROM definition"):
            known.setdefault(machine, set()).update(json.loads(body)["states"])
        for table, machine in _SUBJECTS.items():
            counts = db.execute(f"SELECT {machine}, state, count(*) FROM {table} GROUP BY 1, 2")  # noqa: S608  constants
            for name, state, count in counts:
                rows.setdefault(name, {})[state] = count
    return known, rows


def _listed(words: Iterable[str], between: str = ", ") -> str:
    """The first few, and how many more."""
    found = list(words)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return between.join(found[:_NAMED]) + more
