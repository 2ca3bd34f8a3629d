"""
The world of one agent: its process, its channel, silence, and what operators and teardowns do to it. A model for `explore`.

Unlike an operation an agent has no end: what holds instead is that silence alone leads to `departed`, that whoever talks is
shown as online again unless an operator said otherwise, and that what was seen to end is not shown as alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mcpg.errors import NoSuchMove
from mcpg.machines.check.explore import Kind, Step
from mcpg.machines.table import Owner, Table, Wait

TALKS = "who talks is online"
ENDED = "an end that is seen is written down"
BARRED = "quarantine is the operator's to end"
GONE = "an agent of a deleted gateway has departed"
INVARIANTS = (TALKS, ENDED, BARRED, GONE)


class Agent(NamedTuple):
    """`state` is the row's; the rest is outside."""

    state: str
    runs: bool = True
    channel: bool = False
    deleted: bool = False  # its gateway is no more


class AgentWorld:
    """engine/agents.py: `_fire` raises an event where the state has it; elsewhere it is no news."""

    name = "agent"
    about = "one gateway process: it enrols, falls silent, ends, comes back, is quarantined, revived and removed"

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.table = tables["enrolment"]
        self.events = {e.value: e for e in self.table.events}

    def start(self) -> Agent:
        return Agent(self.table.initial.value)

    def alike(self, state: Agent) -> Agent:
        return state

    def _to(self, state: Agent, event: str) -> str | None:
        try:
            return str(self.table.step(state.state, self.events[event]).value)
        except NoSuchMove:
            return None

    def _raise(
        self, at: Agent, kind: Kind, who: str, what: str, event: str, *, wanted: tuple[str, ...], invariant: str,
        runs: bool | None = None, channel: bool | None = None, deleted: bool | None = None,
    ) -> Step:  # fmt: skip
        """*event* must take the agent to one of *wanted*, now that it runs or not, and has a channel or not."""
        dest = self._to(at, event)
        after = Agent(
            dest or at.state,
            at.runs if runs is None else runs,
            at.channel if channel is None else channel,
            at.deleted if deleted is None else deleted,
        )
        broken = None
        if after.state not in wanted or (dest is None and event == "exited" and at.state != "departed"):
            how = f"took it to {after.state}" if dest else f"is not accepted in {at.state}"
            broken = invariant, f"{event} {how}"
        move = ("enrolment", at.state, event, dest) if dest else None
        return Step(kind, who, what, after, move, broken)

    def steps(self, at: Agent) -> Iterator[Step]:
        """agents.opened, heard, _silence, exited, deregistered; effects._departures; the operators' quarantine and revive."""
        barred = at.state == "quarantined"
        online, ended = ("online",), ("departed", "quarantined")
        if at.runs and not at.deleted and not barred:
            if not at.channel:
                yield self._raise(
                    at, Kind.CHANCE, "the gateway", "opens a channel", "channel_opened", wanted=online, invariant=TALKS,
                    channel=True,
                )  # fmt: skip
            if at.state != "online":
                yield self._raise(
                    at, Kind.CHANCE, "the gateway", "says something", "heartbeat", wanted=online, invariant=TALKS
                )
        if at.channel:
            yield Step(Kind.CHANCE, "the network", "the channel breaks", at._replace(channel=False))
        rest = self.table.rests.get(self.table.states(at.state))
        if isinstance(rest, Wait) and rest.late is not None and rest.timeout_s and not at.channel:
            dest = self._to(at, rest.late.value)
            if dest is not None:
                move = ("enrolment", at.state, rest.late.value, dest)
                yield Step(
                    Kind.ENGINE,
                    "the engine",
                    f"has heard nothing for {rest.timeout_s:g} s",
                    at._replace(state=dest),
                    move,
                )
        if at.runs:
            yield self._raise(
                at, Kind.CHANCE, "the provisioner", "sees its process end", "exited", wanted=ended, invariant=ENDED,
                runs=False, channel=False,
            )  # fmt: skip
            if not barred and at.state != "departed":
                yield self._raise(
                    at, Kind.CHANCE, "the gateway", "says goodbye and ends", "deregistered", wanted=("departed",),
                    invariant=ENDED, runs=False, channel=False,
                )  # fmt: skip
            yield Step(Kind.CHANCE, "the machine", "is switched off", at._replace(runs=False, channel=False))
        elif not at.deleted:
            yield Step(Kind.CHANCE, "the machine", "starts it again", at._replace(runs=True))
        if not barred and not at.deleted:
            yield self._raise(
                at, Kind.CHANCE, "an operator", "quarantines it", "quarantine", wanted=("quarantined",), invariant=BARRED,
                channel=False,
            )  # fmt: skip
        if barred and not at.deleted:
            yield self._raise(
                at, Kind.PEOPLE, "an operator", "revives it", "revive", wanted=("stale",), invariant=BARRED
            )
        if not at.deleted and at.state != "departed" and not at.channel:
            yield self._raise(
                at, Kind.CHANCE, "a teardown", "is confirmed", "removed", wanted=("departed",), invariant=GONE,
                runs=False, deleted=True,
            )  # fmt: skip

    def wrong(self, at: Agent) -> tuple[str, str] | None:
        if at.deleted and at.state != "departed":
            return GONE, f"its gateway is deleted, and it is {at.state}"
        return (BARRED, "it is quarantined, and talks") if at.state == "quarantined" and at.channel else None

    def is_over(self, at: Agent) -> bool:
        return at.state == "departed" or (at.state == "online" and at.channel)

    def unowned(self, at: Agent) -> str:
        is_owned = isinstance(self.table.rests.get(self.table.states(at.state)), Owner)
        return "" if is_owned or self.is_over(at) else f"it is {at.state}, nothing is heard of it, and no clock runs"

    def told(self, at: Agent) -> list[str]:
        process = "runs" if at.runs else "does not run"
        return [at.state, process, "channel open" if at.channel else "no channel"] + ["deleted"] * at.deleted
