"""
Who was heard when, and what silence does: the clocks of the enrolment machine. Called by mcpg/engine/agents.py.

Of several replicas each minds the agents whose channel it holds or held last. Those whose replica is gone are found by a
sweep that every replica makes; a move on silence is a compare-and-set on the agent's version and on who holds its channel,
so that none is called silent that is connected anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mcpg.engine.core import Core
from mcpg.errors import Refused, Unavailable
from mcpg.machines import enrolment
from mcpg.machines.enrolment import STALE_AFTER_S, Event, State
from mcpg.store import reads, writes
from mcpg.store.journal import Fire, Line

log = logging.getLogger("mcpg.agents")

FLUSH_S = 5.0
LOOK_S = 10.0  # between two looks for agents that nobody minds
ORPHANED_S = 15.0  # a clock that ran out so long ago has nobody who minds it
CLOCKS = {  # seconds of silence until the machine moves, counted from entering the state
    State.ENROLLING.value: enrolment.ENROL_WITHIN_S,
    State.ONLINE.value: STALE_AFTER_S,
    State.STALE.value: enrolment.DEPARTED_AFTER_S - STALE_AFTER_S,
}

Row = dict[str, Any]


class Timer(Protocol):
    """What was put off, and can be called off."""

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Timer]  # seconds, and what to call then


def on_the_loop(seconds: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(slots=True)
class Presence:
    """One agent as this process last heard it."""

    instance_id: str
    state: str
    heard_at: int
    version: int = 0  # of the newest line that was heard of it
    timer: Timer | None = None


class Clocks:
    """`later` is the timer of the same clock as `engine.clock`. `presence` holds the agents that are minded here."""

    def __init__(self, engine: Core, later: Later) -> None:
        self._engine = engine
        self._later = later
        self.presence: dict[str, Presence] = {}
        self._unsaved: dict[str, int] = {}
        self._flush: Timer | None = None
        self._began = 0
        self._minding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Arm a clock for every agent that has one running; among several replicas, look for those that nobody minds."""
        self._began = now = self._engine.clock()
        if self._engine.leases.shared:
            self._minding = asyncio.get_running_loop().create_task(self._mind(), name="agents")
            return
        for row in await reads.living_agents(self._engine.db):
            heard = now  # silence while nobody listened is no evidence
            self.presence[row["id"]] = Presence(row["instance_id"], row["state"], heard, row["version"])
            self._arm(row["id"], self._left(row["state"], row["deadline_at"], now))

    async def stop(self) -> None:
        if self._minding is not None:
            self._minding.cancel()
            await asyncio.gather(self._minding, return_exceptions=True)
        for p in self.presence.values():
            if p.timer is not None:
                p.timer.cancel()
        if self._flush is not None:
            self._flush.cancel()
        await self._save()

    def hear(self, agent: Row) -> Presence:
        presence = self.presence.get(agent["id"])
        if presence is None:
            presence = Presence(agent["instance_id"], agent["state"], 0, agent["version"])
            self.presence[agent["id"]] = presence
        self.heard_now(agent["id"], presence)
        return presence

    def mind(self, agent_id: str) -> None:
        """Its channel is here: if another replica minded it until now, its clock is ours from now on."""
        presence = self.presence.get(agent_id)
        if presence is not None and presence.timer is None and presence.state in CLOCKS:
            self._arm(agent_id, STALE_AFTER_S)

    def heard_now(self, agent_id: str, presence: Presence) -> None:
        presence.heard_at = self._unsaved[agent_id] = self._engine.clock()
        if self._flush is None:
            self._flush = self._later(FLUSH_S, lambda: self._engine.aside(self._save()))

    async def _save(self) -> None:
        self._flush = None
        unsaved = dict(self._unsaved)
        if not unsaved:
            return
        try:
            await self._engine.db.writer.execute(*writes.seen(list(unsaved.items())))
        except Unavailable as exc:
            log.warning("when %d agents were last heard was not saved: %s", len(unsaved), exc.cause)
        else:  # and only now: until then nobody else knows
            self._unsaved = {each: at for each, at in self._unsaved.items() if unsaved.get(each) != at}

    def last_heard(self, agent_id: str) -> int | None:
        """When this process last heard the agent, newer than the row's `last_seen_at`; None when it did not."""
        return self._unsaved.get(agent_id)

    @staticmethod
    def _left(state: str, deadline_at: int | None, now: int) -> float:
        if state == State.ENROLLING.value and deadline_at is not None:
            return max(0.0, (deadline_at - now) / 1e6)
        return STALE_AFTER_S

    def _arm(self, agent_id: str, seconds: float) -> None:
        presence = self.presence[agent_id]
        if presence.timer is not None:
            presence.timer.cancel()
        presence.timer = self._later(seconds, lambda: self._engine.aside(self._silence(agent_id)))

    async def _silence(self, agent_id: str) -> None:
        """A clock ran out: either it was heard meanwhile, and the clock is set anew, or the machine moves."""
        presence = self.presence.get(agent_id)
        if presence is None:
            return
        if self._engine.fleet.is_live(agent_id):
            self._arm(agent_id, STALE_AFTER_S)
            return
        row = await reads.find_agent(self._engine.db, agent_id)
        if row is None or self._engine.fleet.is_connected(row):  # whoever holds its channel minds it
            self.forget(agent_id)
            return
        presence.heard_at = max(presence.heard_at, row["last_seen_at"] or 0)  # another may have heard it since
        left = self._left_of_silence(row, presence.heard_at)
        if left > 0:
            self._arm(agent_id, left)
        else:
            await self._miss(row, presence.heard_at)

    def _left_of_silence(self, row: Row, heard_at: int) -> float:
        """Seconds until the machine moves; 0 when it should."""
        if row["state"] == State.ENROLLING.value:
            return 0.0
        after = STALE_AFTER_S if row["state"] == State.ONLINE.value else enrolment.DEPARTED_AFTER_S
        return max(0.0, after - (self._engine.clock() - heard_at) / 1e6)

    async def _miss(self, row: Row, heard_at: int) -> None:
        """Its clock ran out: the machine moves, unless it did already, or the agent came back, to whichever replica."""
        event, reason = Event.EXPIRED, "never seen on a channel"
        if row["state"] != State.ENROLLING.value:
            silent = (self._engine.clock() - heard_at) / 1e6
            event, reason = Event.MISSED, f"nothing heard for {silent:.0f} s"
        fire = Fire(
            enrolment.MACHINE, row["id"], event, "engine", expect=row["version"], reason=reason, sets={"reason": reason}
        )
        try:
            await self._engine.db.writer.fire(fire, writes.still_away(row["id"], row["session_epoch"]))
        except Refused as exc:
            log.debug("agent %s: %s", row["id"], exc.what)
            if row["id"] in self.presence:
                self._arm(row["id"], STALE_AFTER_S)

    def forget(self, agent_id: str) -> None:
        presence = self.presence.pop(agent_id, None)
        if presence is not None and presence.timer is not None:
            presence.timer.cancel()

    async def _mind(self) -> None:
        """Among several replicas: what nobody else does for an agent whose replica is gone."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.sweep()
                await self._engine.fleet.settle()
            except Unavailable as exc:
                log.warning("agents were not looked after: %s; trying on every %g s", exc.cause or exc.what, LOOK_S)
            except Exception:
                log.exception("agents were not looked after; trying on every %g s", LOOK_S)

    async def sweep(self) -> None:
        """Move agents on whose clock ran out a while ago, for whoever should have done it is gone."""
        now = self._engine.clock()

        def ago(seconds: float) -> int:
            return now - int((seconds + ORPHANED_S) * 1e6)

        found = await reads.silent_agents(
            self._engine.db,
            ago(0.0),
            ago(STALE_AFTER_S),
            ago(CLOCKS[State.STALE.value]),
            ago(enrolment.DEPARTED_AFTER_S),
        )
        for row in found:
            presence = self.presence.get(row["id"])
            if (presence is not None and presence.timer is not None) or self._engine.fleet.is_connected(row):
                continue
            heard_at = max(row["last_seen_at"] or 0, self._began)  # before that nobody may have listened
            if self._left_of_silence(row, heard_at) == 0.0:
                await self._miss(row, heard_at)

    def on_line(self, line: Line) -> None:
        """A move of an agent that was written here: presence and clocks follow the journal."""
        if line.machine != enrolment.MACHINE.name:
            return
        presence = self.presence.get(line.subject)
        if line.event == Event.REGISTER.value:
            presence = self.presence[line.subject] = Presence(line.data["instance_id"], line.dest, line.at)
        if presence is None:
            if line.dest in CLOCKS:  # a departed or quarantined agent is not kept in mind; now its clock runs again
                self._engine.aside(self._remember(line.subject))
            return
        self._follow(line, presence)
        self._engine.evidence(presence.instance_id)

    def on_line_of_others(self, line: Line) -> None:
        """A move that another replica wrote: it minds the agent from now on, unless the agent's channel is here."""
        presence = self.presence.get(line.subject)
        if presence is None or line.machine != enrolment.MACHINE.name:
            return
        if self._engine.fleet.is_live(line.subject):
            self._follow(line, presence)
        else:
            self.forget(line.subject)

    def _follow(self, line: Line, presence: Presence) -> None:
        if line.seq <= presence.version:  # a line of another replica's that one of ours overtook
            return
        presence.version, presence.state = line.seq, line.dest
        if line.dest in CLOCKS:
            self._arm(line.subject, CLOCKS[line.dest])
        else:
            self.forget(line.subject)

    async def _remember(self, agent_id: str) -> None:
        row = await reads.find_agent(self._engine.db, agent_id)
        if row is not None and row["state"] in CLOCKS and agent_id not in self.presence:
            self.presence[agent_id] = Presence(row["instance_id"], row["state"], self._engine.clock(), row["version"])
            self._arm(agent_id, CLOCKS[row["state"]])
