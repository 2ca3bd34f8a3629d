"""
The enrolment machine at work: what agents say and stay silent about, made into events.

Called by mcpg/agent/control.py for what arrives, by the loop for processes that ended. Heartbeats are not transitions:
an unchanged one writes nothing; `last_seen_at` is written with a channel that opens, and then flushed for all in one batch
every few seconds. Silence is counted
from when we could have heard: a control plane that was away does not call its fleet dead.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcpg import faults
from mcpg.engine.clocks import Clocks, Later, on_the_loop
from mcpg.engine.core import Core, Scope
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Exited
from mcpg.errors import Conflict, Forbidden, NotFound, NotSignedIn, Refused, Unavailable
from mcpg.machines import enrolment
from mcpg.machines.enrolment import Event, State
from mcpg.store import reads, tenancy, writes
from mcpg.store.clock import short_id, uuid7
from mcpg.store.journal import Also, Birth, Fire, Step, canonical

log = logging.getLogger("mcpg.agents")

BEGUN_STEP_S = 0.02
REPLICA_TOKEN_S = 3600  # a replica enrols within seconds; its token may be presented again by the same replica

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a Register earns: the agent's identity and the generation of its credentials."""

    agent_id: str
    instance_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Introduction:
    """What an agent says of itself when it registers."""

    uid: str
    software: str
    host: dict[str, Any]


def nonce_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Agents:
    """`later` is the timer of the same clock as `engine.clock`."""

    def __init__(self, engine: Core, *, enrol_base: Callable[[], str], later: Later = on_the_loop) -> None:
        self._engine = engine
        self._enrol_base = enrol_base
        self._clocks = Clocks(engine, later)
        self.start, self.stop, self.sweep = self._clocks.start, self._clocks.stop, self._clocks.sweep
        self.on_line, self.on_line_of_others = self._clocks.on_line, self._clocks.on_line_of_others
        self.last_heard = self._clocks.last_heard

    # ---- tokens

    async def mint(
        self, scope: Scope, *, ttl_s: int, max_uses: int, one_shot: bool, expected_uid: str | None, issuer: str
    ) -> tuple[Row, str]:
        """A new enrolment token: its row, and the enrolment URL that holds the secret."""
        return await self._mint(
            org=scope.org, workspace=scope.workspace, environment=scope.environment, ttl_s=ttl_s,
            max_uses=1 if one_shot else max_uses, one_shot=int(one_shot), expected_uid=expected_uid, issuer=issuer,
        )  # fmt: skip

    async def mint_for_replica(self, op: Operation, replica: int) -> str:
        """The enrolment URL for one replica of a managed instance; it enrols nothing else."""
        _, url = await self._mint(
            org=op.org, workspace=op.workspace, environment=op.environment, ttl_s=REPLICA_TOKEN_S, max_uses=1,
            one_shot=1, expected_uid=f"{op.instance_id}.{replica}", issuer=op.id, instance_id=op.instance_id,
            replica=replica,
        )  # fmt: skip
        return url

    async def _mint(self, *, ttl_s: int, **columns: Any) -> tuple[Row, str]:
        now, token = self._engine.clock(), "ENROL-" + secrets.token_urlsafe(24)
        row = {"id": short_id("tok-"), "nonce_hash": nonce_hash(token), "created_at": now, **columns}
        row["expires_at"] = now + ttl_s * 1_000_000
        faults.reach("token:before:mint")
        await self._engine.db.writer.execute(writes.insert_token(row))
        faults.reach("token:after:mint")
        return row, f"{self._enrol_base()}/enroll/v1#token={token}"

    # ---- enrolment

    async def register(self, token: str, who: Introduction) -> Enrolment:
        """
        Trade a token for an identity.

        The uid is never the identity (default uids collide): a token enrols one agent per use, and the agent that used
        it may come again with it. Raises NotSignedIn for a token nobody minted, Forbidden with the reason otherwise.
        """
        row = await tenancy.find_token(self._engine.db, nonce_hash(token))
        if row is None:
            raise NotSignedIn("this enrolment token is not known", hint="mint a new one and enrol again")
        if row["revoked_at"] is not None:
            raise Forbidden("this enrolment token was revoked")
        if row["expected_uid"] and row["expected_uid"] != who.uid:
            raise Forbidden(
                "this enrolment token is for another gateway", cause=f"it is bound to {row['expected_uid']}"
            )
        for _ in range(3):
            holders = await reads.agents_of_token(self._engine.db, row["id"])
            known = next((a for a in holders if self._is_same(row, a, who)), None)
            try:
                if known is not None:
                    return await self._renew(row, known, who, use=())
                self._check_unused(row, holders, who)
                use = (writes.use_token(row["id"], self._engine.clock()),)
                if row["instance_id"] is None:
                    return await self._enrol_itself(row, who, use)
                return await self._enrol_replica(row, who, use)
            except Conflict:
                row = await tenancy.find_token(self._engine.db, nonce_hash(token)) or row
        raise Conflict("this enrolment token is being used by several gateways at once", hint="try again")

    def _is_same(self, token: Row, agent: Row, who: Introduction) -> bool:
        """Whether who registers is the agent that used this token before, by everything we can see."""
        if agent["is_gone"] or agent["instance_uid"] != who.uid or self._engine.fleet.is_connected(agent):
            return False
        seen = agent["last_seen_at"] is not None or self.last_heard(agent["id"]) is not None
        return bool(token["one_shot"]) or seen

    def _check_unused(self, token: Row, holders: list[Row], who: Introduction) -> None:
        if token["use_count"] >= token["max_uses"]:
            twin = next((a for a in holders if a["instance_uid"] == who.uid), None)
            cause = (
                f"{who.uid} is connected with it now: two gateways share one identity"
                if twin
                else f"it enrolled {', '.join(sorted({a['instance_uid'] for a in holders})[:5])}"
            )
            raise Forbidden("this enrolment token is used up", cause=cause, hint="mint a new one for this gateway")
        if token["expires_at"] <= self._engine.clock():
            raise Forbidden("this enrolment token has expired", hint="mint a new one and enrol again")

    async def _renew(self, token: Row, agent: Row, who: Introduction, use: tuple[Also, ...]) -> Enrolment:
        if agent["state"] == State.QUARANTINED.value:
            raise Forbidden("this gateway is quarantined", cause="an operator said so", hint="ask them to revive it")
        await self._engine.db.writer.execute(
            *use, writes.renew_agent(agent["id"], agent["generation"], token["id"], who.uid, who.software, who.host)
        )
        return Enrolment(agent["id"], agent["instance_id"], agent["generation"] + 1)

    async def _enrol_replica(self, token: Row, who: Introduction, use: tuple[Also, ...]) -> Enrolment:
        instance = await reads.find_instance(self._engine.db, token["instance_id"])
        if instance is None or instance["deleted_at"] is not None:
            raise Forbidden("the gateway this token is for was deleted")
        for agent in await reads.agents(self._engine.db, token["instance_id"]):
            if agent["replica"] == token["replica"]:
                return await self._renew(token, agent, who, use)
        return await self._born(token, instance["id"], token["replica"], who, list(use))

    async def _enrol_itself(self, token: Row, who: Introduction, use: tuple[Also, ...]) -> Enrolment:
        instance_id = uuid7()
        taken = await reads.find_instance_by_uid(self._engine.db, who.uid)
        uid = f"{who.uid[:193]}~{instance_id[-6:]}" if taken or not who.uid else who.uid
        columns = {
            "id": instance_id, "instance_uid": uid,
            "org": token["org"], "workspace": token["workspace"], "environment": token["environment"],
            "discovered_via": "self_registration", "spec": "{}", "created_at": self._engine.clock(),
        }  # fmt: skip
        insert = writes.insert_instance(taken_hint="", columns=columns)
        insert = Also(insert.sql, insert.params, refuse=lambda: Conflict("this uid was taken a moment earlier"))
        return await self._born(token, instance_id, 1, who, [*use, insert])

    async def _born(
        self, token: Row, instance_id: str, replica: int, who: Introduction, steps: list[Step]
    ) -> Enrolment:
        agent_id = uuid7()
        columns = {
            "instance_id": instance_id, "replica": replica, "instance_uid": who.uid, "token_id": token["id"],
            "software": who.software, "host": canonical(who.host),
        }  # fmt: skip
        data = {"instance_id": instance_id, "replica": replica, "token": token["id"], "version": who.software}
        birth = Birth(enrolment.MACHINE, agent_id, columns, f"agent:{who.uid}", data=data)
        await self._engine.db.writer.submit([*steps, birth])
        return Enrolment(agent_id, instance_id, 1)

    # ---- what a session tells

    async def opened(self, agent_id: str) -> None:
        """A channel with good credentials is open. Raises Forbidden for a quarantined agent."""
        agent = await reads.find_agent(self._engine.db, agent_id)
        instance = await reads.find_instance(self._engine.db, agent["instance_id"]) if agent else None
        if agent is None or instance is None or instance["deleted_at"] is not None:
            raise NotFound("this gateway is not enrolled here any more")
        if agent["state"] == State.QUARANTINED.value:
            raise Forbidden("this gateway is quarantined", cause="an operator said so")
        self._clocks.hear(agent)
        await asyncio.gather(  # one commit
            self._engine.db.writer.execute(
                writes.session_opened(agent_id, self._engine.epoch), *writes.seen([(agent_id, self._engine.clock())])
            ),
            self._fire(agent_id, Event.CHANNEL_OPENED, f"agent:{agent['instance_uid']}"),
        )
        self._clocks.mind(agent_id)
        self._engine.evidence(agent["instance_id"])

    async def until_begun(self, instance_id: str, replica: int) -> None:
        """
        Until a replica that was started here a moment ago listens, or should long since. A real gateway that is sent a config
        sooner, as on a machine that is overloaded, listens where that config says and not where it was told to.
        """
        provisioner = self._engine.provisioner
        while provisioner is not None and provisioner.is_starting(instance_id, replica):  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(BEGUN_STEP_S)

    async def heard(self, agent_id: str) -> None:
        """A heartbeat, or anything that proves life. No write while nothing changes."""
        presence = self._clocks.presence.get(agent_id)
        if presence is None:
            agent = await reads.find_agent(self._engine.db, agent_id)
            if agent is None:
                return
            if agent["state"] == State.DEPARTED.value and self._engine.fleet.is_connected(agent):
                return  # it departed with its channel open: what still comes out of it was said before
            presence = self._clocks.hear(agent)
        else:
            self._clocks.heard_now(agent_id, presence)
        if presence.state not in (State.ONLINE.value, State.QUARANTINED.value):
            await self._fire(agent_id, Event.HEARTBEAT, "agent")

    async def acked(self, agent_id: str, config_hash: str, *, ok: bool, words: str) -> None:
        """The only proof of what is applied."""
        write = writes.acked(agent_id, config_hash) if ok else writes.rejected(agent_id, config_hash, words)
        await self._engine.db.writer.execute(write)
        presence = self._clocks.presence.get(agent_id)
        if presence is not None:
            self._engine.evidence(presence.instance_id)

    async def reported(self, agent_id: str, received_hash: str) -> None:
        """What a StatusReport echoes as received: shown, never believed."""
        await self._engine.db.writer.execute(writes.reported(agent_id, received_hash))

    def closed(self, agent_id: str, instance_id: str) -> None:
        """A channel of its is gone, also of an agent already departed; the clock runs from the last thing heard."""
        self._engine.aside(self._closed(agent_id, instance_id))

    async def _closed(self, agent_id: str, instance_id: str) -> None:
        try:
            if not self._engine.fleet.is_live(agent_id):  # it may be back already
                await self._engine.db.writer.execute(writes.session_closed(agent_id, self._engine.epoch))
        except Unavailable as exc:
            log.warning("that the channel of agent %s closed was not written down: %s", agent_id, exc.cause)
        finally:
            self._engine.evidence(instance_id)

    async def deregistered(self, agent_id: str, reason: str) -> None:
        """
        It says goodbye. Of a managed replica that is no news: who runs it sees its process end, and starts it again or
        takes it down without the gateway being shown as departed meanwhile.
        """
        agent = await reads.find_agent(self._engine.db, agent_id)
        instance = await reads.find_instance(self._engine.db, agent["instance_id"]) if agent else None
        provisioner = self._engine.provisioner
        if instance is not None and instance["managed"] and provisioner is not None and provisioner.observes:
            return
        await self._fire(agent_id, Event.DEREGISTERED, "agent", reason=reason or "it said goodbye")

    async def exited(self, exited: Exited) -> None:
        """A managed replica's process was seen to end."""
        for agent in await reads.agents(self._engine.db, exited.instance_id):
            if agent["replica"] == exited.replica:
                reason = f"process {exited.pid} ended, {exited}"
                await self._fire(
                    agent["id"], Event.EXITED, self._engine.provisioner_name, reason=reason, active_hash=""
                )

    async def _fire(self, agent_id: str, event: Event, actor: str, *, reason: str = "", **columns: str) -> None:
        """Raise *event* where the agent's state has it; elsewhere it is no news."""
        presence = self._clocks.presence.get(agent_id)
        if presence is not None and event.value not in enrolment.MACHINE.allowed(presence.state):
            return
        try:
            await self._engine.db.writer.fire(
                Fire(enrolment.MACHINE, agent_id, event, actor, reason=reason, sets={"reason": reason, **columns})
            )
        except Refused as exc:
            log.debug("agent %s: %s", agent_id, exc.what)
