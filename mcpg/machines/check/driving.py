"""
What engines do to a world: take an operation, work, write the outcome down, watch. One method for each thing that may
happen between two commits; the function of the engine that it abstracts is named beside it.

The outcome of an effect that succeeded is a step of its own, so that anything may come between the effect and its commit.
A look and the line it leads to are one step.
"""

from __future__ import annotations

from collections.abc import Iterator

from mcpg.machines.check.explore import Kind, Step
from mcpg.machines.check.parts import LIVES, NOBODY, Op, Task, World, put, running, serving
from mcpg.machines.check.rows import ACCEPTED, BRAKE, FENCED, SERVED, Broken, Refusal, Rows, engine
from mcpg.machines.recovery import BRAKE as MOST_ENDS
from mcpg.machines.table import Wait, Work

HANGS = "…"  # of an effect that will never end by itself
NOT_YET = frozenset({"next", "confirmed", "gone"})  # what a look proposes: its guard may say that it is too early
RAISES = {  # what each effect may answer with beside done and failed (engine/effects.py)
    "reserve": ("no_capacity",),
}
EFFECTS = ("reserve", "apply", "compensate", "drain", "remove", "restart")


class Driving(Rows):
    """The engine's part of the product."""

    def driven(self, w: World) -> Iterator[Step]:
        """Every step that an engine may take now."""
        for e, tasks in enumerate(w.engines):
            if tasks is None:
                yield Step(Kind.ENGINE, engine(e), "starts again", self._tasks(w, e, ()))
                continue
            busy = [t.op for t in tasks]
            for at, op in enumerate(w.ops):
                rest = self.rest(op)
                if isinstance(rest, Work) and at not in busy:
                    yield from self._take(w, e, at, op)
                elif isinstance(rest, Wait):
                    yield from self._watch(w, e, at, op, rest)
            for n, task in enumerate(tasks):
                idle = self._tasks(w, e, (*tasks[:n], *tasks[n + 1 :]))
                if task.result == HANGS:
                    yield from self._late(w, idle, e, task)
                elif task.result:
                    yield from self._commit(w, idle, e, n, task)
                else:
                    yield from self._effect(w, idle, e, n, task)

    def _tasks(self, w: World, e: int, tasks: tuple[Task, ...] | None) -> World:
        return w._replace(engines=(*w.engines[:e], tasks, *w.engines[e + 1 :]))

    def _with_task(self, w: World, e: int, task: Task) -> World:
        return self._tasks(w, e, tuple(sorted((*(w.engines[e] or ()), task))))

    def _take(self, w: World, e: int, at: int, op: Op) -> Iterator[Step]:
        """
        The sweep: claim by compare-and-set on the lease, then begin. Its own row, a free one, and one whose owner is dead
        at once or when the lease ran out; a living owner's only when its lease ran out while it worked.
        """
        is_free = op.owner in (NOBODY, e) or w.engines[op.owner] is None
        if not is_free and "steal" not in self.setup.faults:
            return
        kind = Kind.ENGINE if is_free else Kind.CHANCE
        begins = f"begins {op.kind}#{at + 1} {op.state}"
        what = begins if is_free else f"takes the lease of {engine(op.owner)}, which ran out, and {begins}"
        yield Step(kind, engine(e), what, self._with_task(self.with_op(w, at, owner=e), e, Task(at, op.state)))

    # ---- outcomes

    def _fire(
        self, w: World, idle: World, e: int, task: Task, event: str, kind: Kind = Kind.ENGINE, *, words: str = ""
    ) -> Iterator[Step]:
        """
        loop._raise: the outcome at the version it was decided on, by the lease's owner; else it is dropped (`_reload`).
        *idle* is *w* without the driver's effect.
        """
        op, who = w.ops[task.op], engine(e)
        what = f"{event} of {op.kind}#{task.op + 1} {task.state}" + (f" ({words})" if words else "")
        is_ours = op.owner == e
        if (self.rules.expect and not task.fresh) or (self.rules.fence and not is_ours):
            yield Step(kind, who, f"{what}: dropped, it was overtaken", idle)
            return
        broken: Broken | None = None
        if not task.fresh or not is_ours:
            broken = (
                FENCED,
                f"{who} wrote {event}, which it decided on as {'the owner' if is_ours else 'a former owner'}",
            )
        elif undeclared := self._undeclared(op, event):
            broken = ACCEPTED, undeclared
        try:
            after, took = self.move(idle, task.op, event, e)
        except Refusal as refusal:
            if event in NOT_YET and refusal.guarded:
                return
            yield Step(kind, who, what, idle, broken=broken or (ACCEPTED, str(refusal)))
            return
        settled = self._companions(idle, after, task.op, event)
        if settled is None:
            yield Step(kind, who, f"{what}: the cluster changed meanwhile, it looks again", idle)
            return
        if broken is None and op.machine == "recovery":
            broken = self._gave_up(op, settled.ops[task.op], event)
        if broken is None and self.is_final(settled.ops[task.op]):
            broken = self.evidence(settled, task.op, event)
        yield Step(kind, who, what, settled, took, broken)

    def _gave_up(self, op: Op, after: Op, event: str) -> Broken | None:
        """Before its brake a recovery goes on by itself; a restart that takes too long is an operator's to look at."""
        if after.state != "paused" or (op.state == "restarting" and event == "deadline") or op.ends + 1 >= MOST_ENDS:
            return None
        return BRAKE, f"left alone after {op.ends + 1} of {MOST_ENDS} ends"

    def _undeclared(self, op: Op, event: str) -> str:
        declared = self._declared.get((op.machine, op.state))
        if declared is None or event == "retry" or event in declared:
            return ""
        return (
            f"{self._work[op.machine][op.state].effect} raises {event}, which {op.state} of {op.machine} does not name"
        )

    def _companions(self, before: World, w: World, at: int, event: str) -> World | None:
        """What goes into the transaction of a move, by the outcome. None: a companion refused the whole unit."""
        op, was = w.ops[at], before.ops[at]
        match op.machine, event:
            case "provision", "reserved":
                return self.reserved(w, at)
            case "provision", "no_capacity":
                return self.not_created(w, at)
            case "provision", "next":
                return self.with_op(w, at, step=was.step + 1)
            case "provision", "confirmed":
                return self.confirmed(w, at)
            case "provision", "undone":
                return self.undone(w, at, was.undo)
            case "teardown", "gone":
                return self.gone(w, at)
            case "recovery", "ended" | "fail" | "deadline" if op.state in ("waiting", "paused"):
                return self.with_op(w, at, ends=min(was.ends + 1, MOST_ENDS))
            case "recovery", "held":
                return self.with_inst(w, op.inst, op=NOBODY)
        return w

    def _commit(self, w: World, idle: World, e: int, n: int, task: Task) -> Iterator[Step]:
        """The effect is done. A commit whose answer is lost is made again: the driver still holds the old version."""
        for step in self._fire(w, idle, e, task, task.result):
            yield step
            if "duplicate" in self.setup.faults and step.move is not None and task.fresh:
                again = self._with_task(step.after, e, task._replace(fresh=False))
                yield Step(
                    Kind.CHANCE, engine(e), f"{step.what}, and does not hear that it was written", again, step.move
                )

    # ---- effects

    def _effect(self, w: World, idle: World, e: int, n: int, task: Task) -> Iterator[Step]:
        """Driver._work: one step of the effect outside, or its failure, or its state's deadline."""
        op = w.ops[task.op]
        work = self._work[op.machine].get(task.state)
        if work is None:
            return
        faults, chance = self.setup.faults, Kind.CHANCE
        if "temporary" in faults:
            yield from self._fire(w, idle, e, task, "retry", chance, words="a failure that may pass")
        if "permanent" in faults:
            yield from self._fire(w, idle, e, task, work.failed.value, chance, words="a failure that does not pass")
        if "late" in faults:
            yield from self._late(w, idle, e, task)
        if "hang" in faults:
            hangs = self._with_task(idle, e, task._replace(result=HANGS))
            yield Step(chance, engine(e), f"hangs in {task.state}#{task.op + 1}", hangs)
        yield from getattr(self, f"_{work.effect}")(w, idle, e, task, work)

    def _late(self, w: World, idle: World, e: int, task: Task) -> Iterator[Step]:
        """
        The state's absolute deadline ends the effect, wherever it is (`Driver._until`). That work which was found late is
        attempted once before is one of these orders: time is not counted here.
        """
        work = self._work[w.ops[task.op].machine][task.state]
        if work.timeout_s:
            yield from self._fire(w, idle, e, task, work.late.value, words="its time is over")

    def _done(self, w: World, idle: World, e: int, task: Task, work: Work, what: str) -> Iterator[Step]:
        """*w* is the world after the effect; its outcome waits to be written."""
        engines = idle.engines
        after = self._with_task(w._replace(engines=engines), e, task._replace(result=work.done.value))
        yield Step(Kind.ENGINE, engine(e), what, after)

    def _dropped(self, w: World, idle: World, e: int, task: Task) -> Iterator[Step] | None:
        """
        An order that comes after its operation was overtaken: refused under the instance's lock, and the driver looks
        again. None: the order is good.
        """
        if self.rules.order and not (task.fresh and w.ops[task.op].owner == e):
            return iter([Step(Kind.ENGINE, engine(e), f"{task.state}#{task.op + 1}: not its to do any more", idle)])
        return None

    def _reserve(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """effects.reserve: the allocator chooses; who holds room stays there and asks for what it needs beyond that."""
        op = w.ops[task.op]
        more = max(0, self.size(op.spec) - w.insts[op.inst].held)
        if more and (w.cluster != "registered" or w.used + more > self.setup.capacity):
            yield from self._fire(w, idle, e, task, RAISES["reserve"][0])
            return
        yield from self._done(w, idle, e, task, work, f"chooses the cluster for {op.kind}#{task.op + 1}")

    def _apply(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """effects.apply with rolling.converge: start or tell what this turn touches, or stop what is too many."""
        if dropped := self._dropped(w, idle, e, task):
            yield from dropped
            return
        op = w.ops[task.op]
        inst, wanted = w.insts[op.inst], self.size(op.spec)
        which = f"{op.kind}#{task.op + 1}"
        turn = self.turn(op)
        if turn.stops:
            after = self.with_inst(w, op.inst, reps=inst.reps[:wanted].rstrip("-"))
            yield from self._done(after, idle, e, task, work, f"stops what is too many of {which}")
            return
        here = inst.reps.ljust(turn.last, "-")
        todo = [n for n in range(turn.first, turn.last) if here[n].lower() != op.spec]
        if not todo:
            yield from self._done(w, idle, e, task, work, f"finds {which} running")
            return
        after = self.with_inst(w, op.inst, reps=put(inst.reps, todo[0], op.spec))
        what = f"{'starts' if here[todo[0]] == '-' else 'tells'} replica {todo[0] + 1} of {which}"
        if len(todo) > 1:
            yield Step(Kind.ENGINE, engine(e), what, after)
        else:
            yield from self._done(after, idle, e, task, work, what)

    def _compensate(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """compensation._remove with rolling.back: remove a create's replicas; put an update's config and replicas back."""
        op = w.ops[task.op]
        inst, which = w.insts[op.inst], f"{op.kind}#{task.op + 1}"
        if "remove" not in op.undo:
            yield from self._done(w, idle, e, task, work, f"has nothing to stop of {which}")
            return
        if op.prev and inst.spec != op.prev:  # writes.roll, a write of its own: who connects is given the old config
            if self.rules.assigned and inst.op != task.op:
                yield Step(Kind.ENGINE, engine(e), f"{task.state}#{task.op + 1}: not its to do any more", idle)
                return
            after = self.with_inst(w, op.inst, spec=op.prev, nack=False)
            yield Step(Kind.ENGINE, engine(e), f"assigns the previous spec of {which}", after)
            return
        if dropped := self._dropped(w, idle, e, task):
            yield from dropped
            return
        yield from self._converge(w, idle, e, task, work, op.prev)

    def _converge(self, w: World, idle: World, e: int, task: Task, work: Work, spec: str) -> Iterator[Step]:
        """One replica at a time towards *spec*; "" is nothing at all."""
        op = w.ops[task.op]
        inst, which = w.insts[op.inst], f"{op.kind}#{task.op + 1}"
        wanted = self.size(spec)
        wrong = [
            n for n, r in enumerate(inst.reps.ljust(wanted, "-")) if (r.lower() != spec if n < wanted else r != "-")
        ]
        if not wrong:
            yield from self._done(w, idle, e, task, work, f"finds nothing left to put right of {which}")
            return
        at = wrong[0]
        after = self.with_inst(w, op.inst, reps=put(inst.reps, at, spec if at < wanted else "-"))
        what = f"{'puts back' if at < wanted else 'stops'} replica {at + 1} of {which}"
        if len(wrong) > 1:
            yield Step(Kind.ENGINE, engine(e), what, after)
        else:
            yield from self._done(after, idle, e, task, work, what)

    def _drain(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """effects.drain: endpoints leave the list in the transaction of the move."""
        yield from self._done(w, idle, e, task, work, f"tells the gateway of delete#{task.op + 1} to drain")

    def _remove(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """effects.remove: every replica ends; a gateway that is gone already is a success."""
        yield from self._converge(w, idle, e, task, work, "")

    def _restart(self, w: World, idle: World, e: int, task: Task, work: Work) -> Iterator[Step]:
        """supervision.restart: start what is missing."""
        if dropped := self._dropped(w, idle, e, task):
            yield from dropped
            return
        op = w.ops[task.op]
        for step in self._converge(w, idle, e, task, work, op.spec):
            broken = (BRAKE, f"started again after {op.ends} ends") if op.ends >= MOST_ENDS else None
            yield step._replace(broken=step.broken or broken)

    # ---- watching

    def _watch(self, w: World, e: int, at: int, op: Op, rest: Wait) -> Iterator[Step]:
        """loop._watch with evidence.look: whoever looks raises what was seen; the table's guards have the last word."""
        inst = w.insts[op.inst]
        task = Task(at, op.state)
        seen = w._replace(ops=(*w.ops[:at], op._replace(owner=e), *w.ops[at + 1 :]))  # a wait has no lease to hold
        for event in self._seen(op, inst.reps, nack=inst.nack):
            for step in self._fire(seen, seen, e, task, event):
                is_next = event == "next" and step.move is not None
                yield step._replace(broken=self._unserved(w, op)) if is_next else step
        if rest.late is not None and rest.timeout_s is not None and not self._is_held_back(op, inst.reps):
            yield from self._fire(seen, seen, e, task, rest.late.value, words="its time is over")

    def _seen(self, op: Op, reps: str, *, nack: bool) -> Iterator[str]:
        """The events that a look may propose now."""
        wanted = self.size(op.spec)
        if op.machine == "teardown":
            yield "gone"
            return
        if op.state == "waiting":
            return
        told = reps.ljust(wanted, "-")[: self.turn(op).rolled if op.machine == "provision" else wanted]
        if "-" in told:
            yield "fail" if op.machine == "provision" else "ended"
            return
        if op.state == "watching":
            return
        if op.machine == "recovery" and nack:
            yield "fail"
            return
        if op.machine == "provision":
            if nack:
                yield "rejected"
                return
            if op.step + 1 < len(self.turns(op)):
                yield "next"
        if 0 < serving(reps[:wanted]) < wanted:
            yield "observed"
        yield "confirmed"

    def _is_held_back(self, op: Op, reps: str) -> bool:
        """Nothing is `held` while a replica's end has not been dealt with: the look comes before the clock."""
        return op.state == "watching" and running(reps) < self.size(op.spec)

    def _unserved(self, w: World, op: Op) -> Broken | None:
        reps, floor = w.insts[op.inst].reps, min(op.before, self.size(op.spec))
        up = serving(reps[: self.size(op.spec)])
        if up >= floor and reps[: self.turn(op).rolled] == op.spec.upper() * self.turn(op).rolled:
            return None
        return (
            SERVED,
            f"the next of {self.size(op.spec)} replicas is touched while {reps} serve, of {floor} that did before",
        )

    # ---- what an engine begins by itself

    def recoveries(self, w: World) -> Iterator[Step]:
        """A gateway on which nothing runs and of which a replica ended is brought back, unless it was left down."""
        if (
            "recover" not in self.setup.wishes
            or len(w.ops) >= self.setup.slots
            or not any(e is not None for e in w.engines)
        ):
            return
        for n, inst in enumerate(w.insts):
            down = running(inst.reps) < self.size(inst.spec)
            if inst.life == LIVES and inst.op == NOBODY and down and not inst.left:
                for ends in (
                    self.setup.ends,
                    MOST_ENDS,
                ):  # with those of a recovery a moment ago (supervision._remembered)
                    yield from self.born(
                        w, n, "recovery", "recover", Kind.ENGINE, "the engine", spec=inst.spec, ends=ends
                    )

    def born(
        self, w: World, inst: int, machine: str, kind: str, step: Kind, who: str, *, spec: str = "", prev: str = "",
        words: str = "", over: bool = False, ends: int = 0,
    ) -> Iterator[Step]:  # fmt: skip
        """accept.accept: the row, its first two lines and what it claims, in one transaction."""
        at = len(w.ops)
        table = self.tables[machine]
        here = w.insts[inst]
        op = Op(machine, kind, table.initial.value, inst, spec=spec, prev=prev, ends=ends, over=over)
        if not self.rules.occupy and here.op != NOBODY:
            words = f"{words}, though {w.ops[here.op].kind} was accepted meanwhile"
        after = self.with_inst(w._replace(ops=(*w.ops, op)), inst, op=at, life=LIVES)
        try:
            after, took = self.move(after, at, "accept")
        except Refusal as refusal:
            yield Step(step, who, f"asks for {kind}", after, broken=(ACCEPTED, str(refusal)))
            return
        yield Step(step, who, f"{'begins' if who == 'the engine' else 'asks for'} {kind}#{at + 1}{words}", after, took)
