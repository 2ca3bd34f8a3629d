"""
The rows of a world and the one way they move: a shipped table decides, the companions of the event follow in the same step.

Each companion says which function of the engine it abstracts. What must be true when an operation ends is looked at where
it ends (`evidence`); what must be true of every world is `wrong`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcpg.errors import GuardRefused, NoSuchMove
from mcpg.machines.check.parts import (
    DELETED,
    LIVES,
    NOBODY,
    RULES,
    Inst,
    Op,
    Rules,
    Setup,
    Turn,
    World,
    running,
    serving,
)
from mcpg.machines.table import NO_FACTS, Facts, Owner, Table, Work

Broken = tuple[str, str]
Moved = tuple[str, str, str, str]

FENCED = "a fenced-off engine changes nothing"
ACCEPTED = "every outcome is accepted"
CANCEL = "cancel is legal everywhere"
RESUME = "resume goes back to where it paused"
ROOM = "no oversubscription"
ORPHAN = "no orphan"
SINGLE = "one operation at a time"
TERMINAL = "one terminal outcome"
EVIDENCE = "terminal only with evidence"
SERVED = "an update leaves N-1 serving"
BRAKE = "recovery stops at its brake"
DOWN = frozenset({"ended", "fail", "deadline"})  # what recovery counts, with the one that is being written
INVARIANTS = (FENCED, ACCEPTED, CANCEL, RESUME, ROOM, ORPHAN, SINGLE, TERMINAL, EVIDENCE, SERVED, BRAKE)


class Refusal(Exception):
    """The table has no such move now; `guarded` when a guard said no."""

    def __init__(self, words: str, *, guarded: bool) -> None:
        super().__init__(words)
        self.guarded = guarded


class Rows:
    """One world's tables, set-up and rules, and the moves of its rows."""

    def __init__(self, tables: Mapping[str, Table], setup: Setup, rules: Rules = RULES) -> None:
        self.name, self.about = setup.name, setup.about
        self.tables, self.setup, self.rules = tables, setup, rules
        self._dests: dict[tuple[str, str, str, Facts], str | Refusal] = {}
        self._events = {t.name: {e.value: e for e in t.events} for t in tables.values()}
        self._work = {t.name: {s.value: r for s, r in t.rests.items() if isinstance(r, Work)} for t in tables.values()}
        self._guarded = {
            (t.name, m.source.value, m.event.value) for t in tables.values() for m in t.moves if m.guard is not None
        }
        self._declared = {
            (t.name, s.value): frozenset(e.value for e in (r.done, r.failed, r.late, *r.others))
            for t in tables.values()
            for s, r in t.rests.items()
            if isinstance(r, Work)
        }
        self._rests = {t.name: {s.value: r for s, r in t.rests.items()} for t in tables.values()}
        self._final = {t.name: t.final_values for t in tables.values()}

    # ---- reading

    def alike(self, w: World) -> World:
        """Engines are equals: of two worlds that differ in which is called A, the smaller."""
        if len(w.engines) != 2:
            return w
        key = [tuple((o.owner == e) for o in w.ops) for e in (0, 1)]
        mine = [((w.engines[e] is None), w.engines[e] or (), key[e]) for e in (0, 1)]
        if mine[0] <= mine[1]:
            return w
        ops = tuple(o if o.owner == NOBODY else o._replace(owner=1 - o.owner) for o in w.ops)
        return w._replace(ops=ops, engines=(w.engines[1], w.engines[0]))

    def start(self) -> World:
        return self.setup.start

    def is_final(self, op: Op) -> bool:
        return op.state in self._final[op.machine]

    def work(self, op: Op) -> Work | None:
        return self._work[op.machine].get(op.state)

    def rest(self, op: Op) -> Any:
        return self._rests[op.machine].get(op.state)

    def size(self, spec: str) -> int:
        return self.setup.sizes.get(spec, 0)

    def turns(self, op: Op) -> tuple[Turn, ...]:
        """rolling.steps_of: those that stay one by one, then those that are new, then those that are too many."""
        new = self.size(op.spec)
        old = self.size(op.prev) if op.prev else new
        changed = op.prev not in ("", op.spec)
        turns = [Turn(k, k + 1, k + 1) for k in range(min(old, new))] if changed else []
        if not turns:
            turns.append(Turn(0, new, new))
        elif new > old:
            turns.append(Turn(old, new, new))
        return (*turns, *([Turn(0, 0, new, stops=True)] if new < old else []))

    def turn(self, op: Op) -> Turn:
        turns = self.turns(op)
        return turns[min(op.step, len(turns) - 1)]

    def step(self, machine: str, state: str, event: str, facts: Facts = NO_FACTS) -> str:
        """Where the shipped table takes it. Raises Refusal."""
        key = (machine, state, event, facts)
        dest = self._dests.get(key)
        if dest is None:
            try:
                dest = str(self.tables[machine].step(state, self._events[machine][event], facts).value)
            except NoSuchMove:
                dest = Refusal(f"{machine} does not accept {event} in {state}", guarded=False)
            except GuardRefused as exc:
                dest = Refusal(f"{machine} refuses {event} in {state}: {exc.cause}", guarded=True)
            self._dests[key] = dest
        if isinstance(dest, Refusal):
            raise dest
        return dest

    def facts_of(self, w: World, op: Op, event: str) -> Facts:
        """What is true now, as evidence._seen and supervision._seen count it."""
        inst = w.insts[op.inst]
        wanted = self.size(op.spec)
        known: Callable[..., Facts] = self.tables[op.machine].facts
        here = inst.reps[:wanted]
        if op.machine == "provision":
            rolled = self.turn(op).rolled
            return known(
                replicas=wanted, enrolled=serving(here), active=here[:rolled].count(op.spec.upper()),
                answering=serving(here), rolled=rolled, before=op.before, surplus=running(inst.reps[wanted:]),
                cancelled=op.cancelled, paused_in=op.paused_in,
            )  # fmt: skip
        if op.machine == "teardown":
            return known(connected=int(inst.channel), superseded=op.over)
        up = here.count(op.spec.upper())
        return known(ends=op.ends + (event in DOWN), replicas=wanted, enrolled=up, active=up, answering=up)

    # ---- moving

    def move(
        self, w: World, at: int, event: str, engine: int = NOBODY, facts: Facts | None = None
    ) -> tuple[World, Moved]:
        """
        journal.Appender._fire: the row moves and its line is written; whoever held the version before holds an old one.
        The lease goes to *engine* where there is work (`claim`), and is cleared elsewhere. Raises Refusal.
        """
        op = w.ops[at]
        if facts is None:
            guarded = (op.machine, op.state, event) in self._guarded
            facts = self.facts_of(w, op, event) if guarded else NO_FACTS
        dest = self.step(op.machine, op.state, event, facts)
        took = (op.machine, op.state, event, dest)
        work = self._work[op.machine].get(dest)
        if work is not None and work.undo and dest != op.state:  # compensation.plan: newest first, each once
            op = op._replace(undo=(work.undo, *(u for u in op.undo if u != work.undo)))
        op = op._replace(
            state=dest,
            owner=engine if work is not None else NOBODY,
            cancelled=op.cancelled or (event == "cancel" and op.machine == "provision"),
            paused_in=op.state if dest == "paused" else "",
        )
        if dest in self._final[op.machine]:
            late = any(t.op == at for tasks in w.engines if tasks for t in tasks)  # who is late still means to undo it
            op = Op(
                op.machine, op.kind, dest, op.inst, spec=op.spec, prev=op.prev, undo=op.undo if late else (),
                cancelled=op.cancelled, orphan=op.orphan,
            )  # fmt: skip
        engines = w.engines
        if any(t.op == at for tasks in engines if tasks for t in tasks):
            engines = tuple(e and tuple(t._replace(fresh=False) if t.op == at else t for t in e) for e in engines)
        return World(w.cluster, w.used, w.insts, _set(w.ops, at, op), engines), took

    def with_inst(self, w: World, at: int, **changes: Any) -> World:
        return w._replace(insts=_set(w.insts, at, w.insts[at]._replace(**changes)))

    def with_op(self, w: World, at: int, **changes: Any) -> World:
        return w._replace(ops=_set(w.ops, at, w.ops[at]._replace(**changes)))

    def hold(self, w: World, at: int, places: int) -> World:
        """writes.reserve, settle and release: the reservation and the cluster's counter change together."""
        return self.with_inst(w._replace(used=w.used + places - w.insts[at].held), at, held=places)

    # ---- companions

    def reserved(self, w: World, at: int) -> World | None:
        """effects.reserve at its commit: room by compare-and-set, the spec assigned. None: refused, it looks again."""
        op, inst = w.ops[at], w.insts[w.ops[at].inst]
        keep = max(inst.held, self.size(op.spec))
        more = keep - inst.held
        if more and self.rules.registered and w.cluster != "registered":
            return None
        if more and self.rules.room and w.used + more > self.setup.capacity:
            return None
        w = self.with_op(w, at, orphan=inst.orphan, before=serving(inst.reps) if op.prev else 0)
        w = self.hold(w, op.inst, keep)
        return self.with_inst(w, op.inst, spec=op.spec, orphan=False, nack=False)

    def not_created(self, w: World, at: int) -> World:
        """effects.not_created: nothing is left of a create; an update's gateway is as it was."""
        op = w.ops[at]
        if op.prev:
            return self.end(w, op.inst)
        w = self.hold(w, op.inst, 0)
        return self.with_inst(w, op.inst, life=DELETED, op=NOBODY, orphan=False, spec="", nack=False)

    def end(self, w: World, inst: int) -> World:
        """writes.end_operation."""
        return self.with_inst(w, inst, op=NOBODY)

    def undone(self, w: World, at: int, undo: tuple[str, ...]) -> World:
        """compensation.compensate at its commit: what _release gives back, then not_created."""
        op = w.ops[at]
        if op.prev and "release" in undo:
            if op.orphan:  # writes.orphan_again
                w = self.with_inst(self.hold(w, op.inst, 0), op.inst, orphan=True)
            elif w.insts[op.inst].held:  # writes.settle does nothing where nothing is held
                w = self.hold(w, op.inst, self.size(op.prev))
        return self.not_created(w, at)

    def confirmed(self, w: World, at: int) -> World:
        """evidence._confirmed: the update's surplus room goes back, the operation is over, endpoints are shown."""
        op = w.ops[at]
        if w.insts[op.inst].held:
            w = self.hold(w, op.inst, self.size(op.spec))
        return self.with_inst(w, op.inst, op=NOBODY, left=False, made=True)

    def gone(self, w: World, at: int) -> World:
        """effects.gone: the room is free, the name too."""
        w = self.hold(w, w.ops[at].inst, 0)
        return self.with_inst(w, w.ops[at].inst, life=DELETED, op=NOBODY, orphan=False, left=False, spec="", nack=False)

    # ---- what must be true

    def evidence(self, w: World, at: int, event: str) -> Broken | None:
        """What the end of an operation claims, against the world."""
        op = w.ops[at]
        inst = w.insts[op.inst]
        what = f"{op.kind} is {op.state}, "
        wrong = ""
        match op.machine, op.state:
            case "provision", "ready":
                if inst.reps != op.spec.upper() * self.size(op.spec):
                    wrong = f"and its replicas are {inst.reps or 'none'}"
                elif op.cancelled:
                    return TERMINAL, f"{what}but a cancel of it was accepted"
            case "provision", _ if event != "superseded":
                wrong = self._as_before(op, inst)
                if (op.state == "cancelled") != op.cancelled:
                    return TERMINAL, f"{what}but a cancel of it was {'' if op.cancelled else 'not '}accepted"
            case "teardown", "deleted":
                if running(inst.reps) or inst.channel:
                    wrong = f"and its replicas are {inst.reps or 'none'}" + ", a channel is open" * inst.channel
            case "recovery", "recovered":
                if inst.reps != op.spec.upper() * self.size(op.spec):
                    wrong = f"and its replicas are {inst.reps or 'none'}"
        return (EVIDENCE, what + wrong) if wrong else None

    def _as_before(self, op: Op, inst: Inst) -> str:
        if not op.prev:
            return f"and {inst.reps} of it runs" if running(inst.reps) else ""
        others = [r for r in inst.reps if r != "-" and r.lower() != op.prev]
        if others or len(inst.reps) > self.size(op.prev):
            return f"and the gateway runs {inst.reps}, not {op.prev * self.size(op.prev)}"
        if inst.spec != op.prev:
            return f"and the gateway is assigned {inst.spec or 'nothing'}, not {op.prev}"
        if inst.held != (0 if inst.orphan else self.size(op.prev)):
            return f"and the gateway holds {inst.held} places"
        return "and the gateway is an orphan no more, and holds nothing" if op.orphan and not inst.orphan else ""

    def wrong(self, w: World) -> Broken | None:
        held = sum(i.held for i in w.insts)
        if w.used != held:
            return ROOM, f"the counter says {w.used}, the reservations {held}"
        if w.used > self.setup.capacity:
            return ROOM, f"{w.used} places are taken of {self.setup.capacity}"
        if w.cluster == "decommissioned" and held:
            return ROOM, "a decommissioned cluster has gateways in it"
        for n, inst in enumerate(w.insts):
            mine = [k for k, op in enumerate(w.ops) if op.inst == n and not self.is_final(op)]
            if len(mine) > 1:
                return SINGLE, f"{w.ops[mine[0]].kind} and {w.ops[mine[1]].kind} run on one gateway"
            if inst.op != NOBODY and inst.op not in mine:
                return SINGLE, "the gateway is busy for ever: its operation is over"
            if mine and inst.op == NOBODY:
                return SINGLE, f"{w.ops[mine[0]].kind} runs on a gateway that does not know of it"
            if inst.op == NOBODY and (words := self._leaked(inst)):
                return ORPHAN, words
        return None

    def _leaked(self, inst: Inst) -> str:
        """What nobody will ever deal with, of a gateway on which nothing runs."""
        if inst.life != LIVES:
            if running(inst.reps):
                return "a process runs, and its gateway is no more"
            return "room is reserved, and its gateway is no more" if inst.held else ""
        if not inst.made:
            return "a gateway that never was ready lives on, and nothing will finish or remove it"
        if any(r not in ("-", inst.spec, inst.spec.upper()) for r in inst.reps) or len(inst.reps) > self.size(
            inst.spec
        ):
            return f"it runs {inst.reps}, and nothing will make it {inst.spec * self.size(inst.spec)}"
        if inst.held != (0 if inst.orphan else self.size(inst.spec)):
            return f"it holds {inst.held} places, needs {self.size(inst.spec)}, and is {'an' if inst.orphan else 'no'} orphan"
        return ""

    def is_over(self, w: World) -> bool:
        return all(self.is_final(op) for op in w.ops)

    def unowned(self, w: World) -> str:
        for op in w.ops:
            if not self.is_final(op) and not isinstance(self.rest(op), Owner):
                return f"{op.kind} rests in {op.state}, and nothing will move it on"
        return ""

    def told(self, w: World) -> list[str]:
        parts = [f"room {w.used}/{self.setup.capacity}" + f" {w.cluster}" * (w.cluster != "registered")]
        for inst in w.insts:
            if inst.life == LIVES or inst.reps or inst.held:
                words = [{LIVES: "gateway", DELETED: "deleted gateway"}.get(inst.life, "no gateway")]
                words += [inst.reps or "–", f"holds {inst.held}"]
                words += [f"assigned {inst.spec}"] * bool(inst.spec) + ["orphan"] * inst.orphan
                words += ["channel open"] * inst.channel + ["refused"] * inst.nack + ["deaf"] * inst.deaf
                parts.append(" ".join(words))
        for n, op in enumerate(w.ops):
            lease = f" leased by {engine(op.owner)}" if op.owner != NOBODY else ""
            parts.append(f"{op.kind}#{n + 1} {op.state}{lease}")
        for n, tasks in enumerate(w.engines):
            if tasks is None:
                parts.append(f"{engine(n)} is down")
            for task in tasks or ():
                how = {"": "works", "…": "hangs"}.get(task.result, f"holds {task.result}")
                parts.append(f"{engine(n)} {how} for {task.state}#{task.op + 1}" + " (overtaken)" * (not task.fresh))
        return parts


def engine(n: int) -> str:
    return f"engine {'ABC'[n]}"


def _set(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*values[:at], value, *values[at + 1 :])
