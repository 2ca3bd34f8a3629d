"""Every companion statement, one function a fact: constant SQL that joins a transition's transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mcpg.errors import Busy, Conflict, McpgError, NameTaken, TemporaryError
from mcpg.store.database import Database
from mcpg.store.journal import Also, canonical

# ---- instances


def insert_instance(*, taken_hint: str, columns: dict[str, Any]) -> Also:
    """A new instance; refused with NameTaken when its name or uid is held by another."""
    names = ",".join(columns)
    return Also(
        f"INSERT INTO instance({names}) VALUES({','.join('?' * len(columns))})",
        tuple(columns.values()),
        refuse=lambda: NameTaken(
            f"the name {columns.get('name') or columns['instance_uid']} is taken",
            cause="a gateway's name is unique across all orgs, for it is a DNS label",
            hint=taken_hint,
        ),
    )


def join_key(key_id: str, org: str, key: str, operation_id: str, at: int, refuse: Callable[[], McpgError]) -> Also:
    """A request with *key* joins an operation that runs; refused when that is over by now, or the key has an operation."""
    return Also(
        "INSERT INTO joined_key(id,org,idempotency_key,operation_id,created_at)"
        " SELECT CAST(? AS TEXT),CAST(? AS TEXT),CAST(? AS TEXT),CAST(? AS TEXT),CAST(? AS BIGINT)"
        " WHERE EXISTS(SELECT 1 FROM operation WHERE id=? AND finished_at IS NULL)"
        " AND NOT EXISTS(SELECT 1 FROM operation WHERE org=? AND idempotency_key=?)"
        " ON CONFLICT(org,idempotency_key) DO NOTHING",
        (key_id, org, key, operation_id, at, operation_id, org, key),
        expect=1,
        refuse=refuse,
    )


def occupy_instance(instance_id: str, operation_id: str, what: str) -> Also:
    """Make *operation_id* the one operation that runs on the instance; refused with Busy."""
    return Also(
        "UPDATE instance SET operation_id=? WHERE id=? AND operation_id IS NULL AND deleted_at IS NULL",
        (operation_id, instance_id),
        expect=1,
        refuse=lambda: Busy(f"another operation is running on {what}", cause="it was accepted a moment earlier"),
    )


def recovery_over(instance_id: str, operation_id: str) -> Also:
    """The recovery that ran on the instance has given way; refused with Busy when another operation runs there."""
    return Also(
        "UPDATE instance SET operation_id=NULL WHERE id=? AND operation_id=?",
        (instance_id, operation_id),
        expect=1,
        refuse=lambda: Busy("another operation is running on it", cause="it was accepted a moment earlier"),
    )


def left_down(instance_id: str, words: str) -> Also:
    """Somebody said that it is to stay down: what it is shown with until it comes up again."""
    return Also("UPDATE agent SET reason=? WHERE instance_id=? AND state='departed'", (words, instance_id))


def departed_only(instance_id: str) -> Also:
    """Changes nothing; refused when an agent of it is anything but departed."""
    return Also(
        "UPDATE instance SET managed=managed WHERE id=?1"
        " AND NOT EXISTS (SELECT 1 FROM agent WHERE instance_id=?1 AND state!='departed')",
        (instance_id,),
        expect=1,
        refuse=lambda: Conflict("the gateway came back a moment earlier", hint="stop it where it runs, then try again"),
    )


def assign(
    instance_id: str, cluster_id: str, spec: dict[str, Any], version: int, config_hash: str,
    rolling_from: int | None = None,
) -> Also:  # fmt: skip
    """
    What the instance should be from now on. With *rolling_from*, a config version, only its first replica: the others keep
    that one until `roll` comes to them.
    """
    return Also(
        "UPDATE instance SET cluster_id=?,spec=?,config_version=?,assigned_hash=?,rolling_from=?,rolled=? WHERE id=?",
        (cluster_id, canonical(spec), version, config_hash, rolling_from, int(rolling_from is not None), instance_id),
    )


def roll(instance_id: str, operation_id: str, rolled: int) -> Also:
    """
    Of an instance that is being rolled: the replicas 1 to *rolled* are assigned the new config, the others the old. Refused
    when the operation does not run on it any more: an engine that was overtaken must not change the next one's roll.
    """
    return Also(
        "UPDATE instance SET rolled=? WHERE id=? AND operation_id=?",
        (rolled, instance_id, operation_id),
        expect=1,
        refuse=lambda: Conflict("the operation is over", cause="another engine went on with it meanwhile"),
    )


def forget_refusals(instance_id: str) -> Also:
    """A newly assigned config has not been refused yet, also when its hash was once before."""
    return Also("UPDATE agent SET rejected_hash='',config_error='' WHERE instance_id=?", (instance_id,))


def set_endpoints(instance_id: str, endpoints: list[str]) -> Also:
    return Also("UPDATE instance SET endpoints=? WHERE id=?", (canonical(endpoints), instance_id))


def mark_ready(instance_id: str, at: int) -> Also:
    """Its endpoints are shown, every replica is assigned one config; the operation that made it so is over."""
    return Also(
        "UPDATE instance SET ready_at=?,operation_id=NULL,rolling_from=NULL,rolled=0 WHERE id=?", (at, instance_id)
    )


def hide_endpoints(instance_id: str) -> Also:
    return Also("UPDATE instance SET ready_at=NULL WHERE id=?", (instance_id,))


def end_operation(instance_id: str) -> Also:
    return Also("UPDATE instance SET operation_id=NULL WHERE id=?", (instance_id,))


def delete_instance(instance_id: str, at: int) -> Also:
    """Gone: its name is free again, its row stays for its history."""
    return Also(
        "UPDATE instance SET deleted_at=?,live_name=NULL,operation_id=NULL,ready_at=NULL,endpoints='[]' WHERE id=?",
        (at, instance_id),
    )


def insert_config(
    instance_id: str,
    version: int,
    raw: str,
    raw_hash: str,
    rendered: str,
    rendered_hash: str,
    operation_id: str,
    at: int,
) -> Also:
    return Also(
        "INSERT INTO config_version(id,instance_id,version,raw_text,raw_sha256,rendered,rendered_sha256,operation_id,"
        "created_at) VALUES(?,?,?,?,?,?,?,?,?)",
        (f"{instance_id}/{version}", instance_id, version, raw, raw_hash, rendered, rendered_hash, operation_id, at),
        refuse=lambda: Conflict("another publish of this gateway came first"),
    )


# ---- room in clusters

Amounts = tuple[int, int, int]  # places, CPU in millicores, memory in bytes


def reserve(cluster_id: str, instance_id: str, operation_id: str, more: Amounts) -> tuple[Also, ...]:
    """Take *more* of each for the instance, never beyond what the cluster has. Nothing is asked of what is not taken."""
    places, cpu, memory = more
    return (
        Also(
            "UPDATE cluster SET gateways_used=gateways_used+?1,cpu_millicores_used=cpu_millicores_used+?2,"
            "memory_bytes_used=memory_bytes_used+?3 WHERE id=?4 AND state='registered'"
            " AND (CAST(?1 AS BIGINT)=0 OR gateways_used+?1<=gateways_max)"
            " AND (CAST(?2 AS BIGINT)=0 OR cpu_millicores_total IS NULL OR cpu_millicores_used+?2<=cpu_millicores_total)"
            " AND (CAST(?3 AS BIGINT)=0 OR memory_bytes_total IS NULL OR memory_bytes_used+?3<=memory_bytes_total)",
            (places, cpu, memory, cluster_id),
            expect=1,
            refuse=lambda: TemporaryError("the chosen cluster filled up meanwhile", delay=0.0),
            sums=3,
        ),
        Also(
            "INSERT INTO reservation(instance_id,cluster_id,operation_id,places,cpu_millicores,memory_bytes)"
            " VALUES(?,?,?,?,?,?) ON CONFLICT(instance_id) DO UPDATE SET places=reservation.places+excluded.places,"
            "cpu_millicores=reservation.cpu_millicores+excluded.cpu_millicores,"
            "memory_bytes=reservation.memory_bytes+excluded.memory_bytes,operation_id=excluded.operation_id"
            " WHERE reservation.cluster_id=excluded.cluster_id",
            (instance_id, cluster_id, operation_id, places, cpu, memory),
            expect=1,
            refuse=lambda: TemporaryError("the gateway was given room elsewhere meanwhile", delay=0.0),
        ),
    )


def settle(instance_id: str, keep: Amounts) -> tuple[Also, ...]:
    """The instance holds exactly *keep* after this, and its cluster's counters follow; nothing when it holds nothing."""
    return (
        Also(
            "UPDATE cluster SET gateways_used=gateways_used+?2-(SELECT places FROM reservation WHERE instance_id=?1),"
            "cpu_millicores_used=cpu_millicores_used+?3-(SELECT cpu_millicores FROM reservation WHERE instance_id=?1),"
            "memory_bytes_used=memory_bytes_used+?4-(SELECT memory_bytes FROM reservation WHERE instance_id=?1)"
            " WHERE id=(SELECT cluster_id FROM reservation WHERE instance_id=?1)",
            (instance_id, *keep),
        ),
        Also(
            "UPDATE reservation SET places=?,cpu_millicores=?,memory_bytes=? WHERE instance_id=?", (*keep, instance_id)
        ),
    )


def release(instance_id: str) -> tuple[Also, ...]:
    """Give back exactly what the instance holds; nothing when it holds nothing."""
    return (*settle(instance_id, (0, 0, 0)), Also("DELETE FROM reservation WHERE instance_id=?", (instance_id,)))


def resize_cluster(cluster_id: str, gateways_max: int) -> Also:
    return Also("UPDATE cluster SET gateways_max=? WHERE id=?", (gateways_max, cluster_id))


def orphan_all(cluster_id: str, at: int) -> tuple[Also, ...]:
    """Whoever holds room in the cluster has lost it: they are orphans from now on."""
    return (
        Also(
            "UPDATE instance SET orphaned_at=? WHERE id IN (SELECT instance_id FROM reservation WHERE cluster_id=?)",
            (at, cluster_id),
        ),
        Also("DELETE FROM reservation WHERE cluster_id=?", (cluster_id,)),
        Also("UPDATE cluster SET gateways_used=0,cpu_millicores_used=0,memory_bytes_used=0 WHERE id=?", (cluster_id,)),
    )


def adopt(instance_id: str) -> Also:
    """It holds room again."""
    return Also("UPDATE instance SET orphaned_at=NULL WHERE id=?", (instance_id,))


def orphan_again(instance_id: str, cluster_id: str, at: int) -> tuple[Also, ...]:
    """What an adoption that failed goes back to: no room, and where and since when it was an orphan."""
    return (
        *release(instance_id),
        Also("UPDATE instance SET orphaned_at=?,cluster_id=? WHERE id=?", (at, cluster_id, instance_id)),
    )


def saw_cluster(cluster_id: str, *, reachable: bool, reason: str, last_seen_at: int | None) -> Also:
    """What was seen of a cluster's reachability."""
    return Also(
        "UPDATE cluster SET reachable=?,reason=?,last_seen_at=COALESCE(?,last_seen_at) WHERE id=?",
        (int(reachable), reason, last_seen_at, cluster_id),
    )


# ---- agents and tokens


def insert_token(columns: dict[str, Any]) -> Also:
    names = ",".join(columns)
    return Also(
        f"INSERT INTO bootstrap_token({names}) VALUES({','.join('?' * len(columns))})",
        tuple(columns.values()),
    )


def use_token(token_id: str, at: int) -> Also:
    """One more use; refused when there is none left, it has run out or was revoked."""
    return Also(
        "UPDATE bootstrap_token SET use_count=use_count+1 WHERE id=? AND revoked_at IS NULL AND expires_at>?"
        " AND use_count<max_uses",
        (token_id, at),
        expect=1,
        refuse=lambda: Conflict("the enrolment token was used up a moment earlier"),
    )


def revoke_token(scope: str, token_id: str, at: int) -> Also:
    """A token of ORG/WORKSPACE/ENVIRONMENT is worth nothing from now on; a second time changes nothing."""
    return Also(
        "UPDATE bootstrap_token SET revoked_at=? WHERE id=? AND org||'/'||workspace||'/'||environment=?"
        " AND revoked_at IS NULL",
        (at, token_id, scope),
    )


def revoke_tokens_of(instance_id: str, at: int) -> Also:
    """Those minted for it, and those that it used up alone; one that others share, or may still use, is theirs too."""
    return Also(
        "UPDATE bootstrap_token SET revoked_at=?1 WHERE revoked_at IS NULL AND (instance_id=?2 OR (use_count>=max_uses"
        " AND id IN (SELECT token_id FROM agent WHERE instance_id=?2) AND NOT EXISTS (SELECT 1 FROM agent a"
        " JOIN instance i ON i.id=a.instance_id"
        " WHERE a.token_id=bootstrap_token.id AND i.id!=?2 AND i.deleted_at IS NULL)))",
        (at, instance_id),
    )


def renew_agent(agent_id: str, generation: int, token_id: str, uid: str, software: str, host: dict[str, Any]) -> Also:
    """New credentials for a known agent; refused when somebody else renewed it first."""
    return Also(
        "UPDATE agent SET generation=generation+1,active_hash='',token_id=?,instance_uid=?,software=?,host=? WHERE id=?"
        " AND generation=?",
        (token_id, uid, software, canonical(host), agent_id, generation),
        expect=1,
    )


def acked(agent_id: str, config_hash: str) -> Also:
    return Also("UPDATE agent SET active_hash=?,rejected_hash='',config_error='' WHERE id=?", (config_hash, agent_id))


def rejected(agent_id: str, config_hash: str, words: str) -> Also:
    return Also("UPDATE agent SET rejected_hash=?,config_error=? WHERE id=?", (config_hash, words, agent_id))


def reported(agent_id: str, received_hash: str) -> Also:
    return Also("UPDATE agent SET received_hash=? WHERE id=?", (received_hash, agent_id))


def seen(last_seen: list[tuple[str, int]]) -> tuple[Also, ...]:
    """(agent id, microseconds) pairs: when each was last heard."""
    return tuple(Also("UPDATE agent SET last_seen_at=? WHERE id=?", (at, agent)) for agent, at in last_seen)


def session_opened(agent_id: str, epoch: str) -> Also:
    """Its channel is held by *epoch* from now on, whoever held one before."""
    return Also("UPDATE agent SET session_epoch=? WHERE id=?", (epoch, agent_id))


def session_closed(agent_id: str, epoch: str) -> Also:
    """*epoch* holds no channel of its any more; another's is not touched."""
    return Also("UPDATE agent SET session_epoch=NULL WHERE id=? AND session_epoch=?", (agent_id, epoch))


def still_away(agent_id: str, session_epoch: str | None) -> Also:
    """Changes nothing; refused when a channel was opened since its row was read, to whichever replica."""
    return Also(
        "UPDATE agent SET session_epoch=session_epoch WHERE id=? AND COALESCE(session_epoch,'')=?",
        (agent_id, session_epoch or ""),
        expect=1,
        refuse=lambda: Conflict("the agent came back a moment earlier"),
    )


def put_key(name: str, value: str, at: int) -> Also:
    """Key material, kept for ever once written: the first writer wins."""
    return Also("INSERT INTO keyring(name,value,created_at) VALUES(?,?,?) ON CONFLICT DO NOTHING", (name, value, at))


# ---- whether anything can be written

PROBE_S = 1.0  # that who asks waits for the answer


async def still_failing(db: Database) -> str:
    """
    Why nothing can be written, "" when the last write went through. After one that failed a row is written as it is, for
    nobody else may write while we are not asked to: but one such write at a time, and who asks waits for 1 s of it.
    """
    if not db.writer.trouble:
        return ""
    probe = db.probe
    if probe is None or probe.done():
        write = db.writer.execute(Also("UPDATE definition SET first_seen_at=first_seen_at"))
        probe = db.probe = asyncio.get_running_loop().create_task(write)
        probe.add_done_callback(lambda task: task.cancelled() or task.exception())  # `trouble` says it
    await asyncio.wait({probe}, timeout=PROBE_S)
    return db.writer.trouble
