"""
The product: operations × gateways × room in a cluster × leases, with everything that people and faults may do to it at any
moment. `Driving` is the engine's part; here are requests, operators, crashes, and the gateways' own processes.
"""

from __future__ import annotations

from collections.abc import Iterator

from mcpg.machines.check.driving import Driving
from mcpg.machines.check.explore import Kind, Step
from mcpg.machines.check.parts import LIVES, NOBODY, UNBORN, Inst, Op, World, put, running, serving
from mcpg.machines.check.rows import ACCEPTED, CANCEL, RESUME, Refusal, engine
from mcpg.machines.cluster import Load
from mcpg.machines.table import Owner

OTHER = {"a": "b", "b": "a"}
_UNTIL = {
    "provision": None,
    "recovery": None,
    "teardown": ("requested", "draining"),
}  # where cancel is legal; None: everywhere


class Product(Driving):
    """A model for `explore`."""

    def steps(self, w: World) -> Iterator[Step]:
        yield from self.driven(w)
        yield from self.recoveries(w)
        yield from self._nature(w)
        yield from self._operators(w)
        yield from self._requests(w)
        yield from self._clusters(w)
        if "crash" in self.setup.faults:
            for e, tasks in enumerate(w.engines):
                if tasks:  # one without work has nothing to lose
                    yield Step(Kind.CHANCE, engine(e), "is killed", self._tasks(w, e, None))

    # ---- gateways

    def _nature(self, w: World) -> Iterator[Step]:
        for n, inst in enumerate(w.insts):
            for at, letter in enumerate(inst.reps):
                if letter.islower() and not inst.nack and not inst.deaf:
                    up = self.with_inst(w, n, reps=put(inst.reps, at, letter.upper()), channel=True)
                    yield Step(Kind.ENGINE, "the gateway", f"replica {at + 1} comes up and serves", up)
                if letter != "-" and "death" in self.setup.faults:
                    down = self.with_inst(w, n, reps=put(inst.reps, at, "-"))
                    yield Step(Kind.CHANCE, "the gateway", f"replica {at + 1} ends by itself", down)
            if "deaf" in self.setup.faults:
                yield from self._deaf(w, n, inst)
            if inst.channel and not serving(inst.reps) and not inst.deaf:
                yield Step(Kind.ENGINE, "the gateway", "its channel closes", self.with_inst(w, n, channel=False))
            if "nack" in self.setup.faults and not inst.nack and inst.op != NOBODY:
                op = w.ops[inst.op]
                if op.machine != "teardown" and inst.spec == op.spec and op.spec in inst.reps:
                    yield Step(Kind.CHANCE, "the gateway", "refuses its config", self.with_inst(w, n, nack=True))

    def _deaf(self, w: World, n: int, inst: Inst) -> Iterator[Step]:
        if inst.deaf:
            yield Step(Kind.PEOPLE, "an operator", "sees to the machine it runs on", self.with_inst(w, n, deaf=False))
        elif inst.channel or running(inst.reps):
            yield Step(Kind.CHANCE, "the gateway", "does not react any more", self.with_inst(w, n, deaf=True))

    # ---- operators

    def _operators(self, w: World) -> Iterator[Step]:
        for at, op in enumerate(w.ops):
            if self.is_final(op):
                continue
            theirs = isinstance(self.rest(op), Owner)
            kind = Kind.PEOPLE if theirs else Kind.CHANCE
            if "cancel" in self.setup.wishes:
                yield from self._cancel(w, at, op, kind)
            if op.state == "paused":
                yield from self._resume(w, at, op)

    def _cancel(self, w: World, at: int, op: Op, kind: Kind) -> Iterator[Step]:
        what = f"cancels {op.kind}#{at + 1}"
        only = _UNTIL[op.machine]
        try:
            after, took = self.move(w, at, "cancel")
        except Refusal as refusal:
            if only is None or op.state in only:
                yield Step(kind, "an operator", what, w, broken=(CANCEL, str(refusal)))
            return
        if only is not None and op.state not in only:
            broken = CANCEL, f"{op.kind} can be cancelled in {op.state}, when something was stopped already"
            yield Step(kind, "an operator", what, after, took, broken)
            return
        if self.is_final(after.ops[at]):
            after = self.with_inst(
                self.end(after, op.inst), op.inst, left=op.machine == "recovery" and op.state != "watching"
            )
        yield Step(kind, "an operator", what, after, took)

    def _resume(self, w: World, at: int, op: Op) -> Iterator[Step]:
        what = f"resumes {op.kind}#{at + 1}"
        try:
            after, took = self.move(w, at, "resume")
        except Refusal as refusal:
            yield Step(Kind.PEOPLE, "an operator", what, w, broken=(RESUME, str(refusal)))
            return
        broken = None
        back = op.paused_in if op.machine == "provision" else after.ops[at].state
        if after.ops[at].state != back:
            broken = RESUME, f"{op.kind} paused in {op.paused_in} and goes on in {after.ops[at].state}"
        if op.machine == "recovery":  # an operator says that it is worth another try: the count begins anew
            after = self.with_op(after, at, ends=0)
        yield Step(Kind.PEOPLE, "an operator", what, after, took, broken)

    # ---- requests

    def _requests(self, w: World) -> Iterator[Step]:
        if len(w.ops) >= self.setup.slots:
            return
        wishes, who = self.setup.wishes, "a user"
        for n, inst in enumerate(w.insts):
            op = w.ops[inst.op] if inst.op != NOBODY else None
            if inst.life == UNBORN and "create" in wishes:
                yield from self.born(w, n, "provision", "create", Kind.CHANCE, who, spec="a")
            if inst.life != LIVES:
                continue
            blind = op is not None and not self.rules.occupy
            for wish, machine in (("update", "provision"), ("adopt", "provision"), ("delete", "teardown")):
                if wish not in wishes or (wish == "adopt" and not (inst.orphan and op is None)):
                    continue
                spec = {"update": OTHER.get(inst.spec, ""), "adopt": inst.spec, "delete": ""}[wish]
                prev = inst.spec if machine == "provision" else ""
                if machine == "provision" and not prev:
                    continue
                if op is None or blind:
                    yield from self.born(w, n, machine, wish, Kind.CHANCE, who, spec=spec, prev=prev)
                elif op.machine == "recovery" or (
                    wish == "delete" and op.machine == "provision" and op.state == "paused"
                ):
                    yield from self._supersede(w, n, op, machine, wish, spec, prev)

    def _supersede(self, w: World, n: int, op: Op, machine: str, wish: str, spec: str, prev: str) -> Iterator[Step]:
        """requests._superseded: the operation that runs ends in the transaction that begins the next."""
        at, event = w.insts[n].op, "supersede" if op.machine == "recovery" else "superseded"
        kind = Kind.PEOPLE if isinstance(self.rest(op), Owner) else Kind.CHANCE
        try:
            after, took = self.move(w, at, event)
        except Refusal as refusal:
            yield Step(kind, "a user", f"asks for {wish}", w, broken=(ACCEPTED, str(refusal)))
            return
        if not self.is_final(after.ops[at]):
            yield Step(kind, "a user", f"asks for {wish}", after, broken=(ACCEPTED, f"{op.kind} goes on, superseded"))
            return
        words = f" over {op.kind}#{at + 1}"
        if not self.rules.together:
            yield Step(kind, "a user", f"ends {op.kind}#{at + 1} to ask for {wish} next", self.end(after, n), took)
            return
        for step in self.born(
            self.end(after, n),
            n,
            machine,
            wish,
            kind,
            "a user",
            spec=spec,
            prev=prev,
            words=words,
            over=op.machine == "provision",
        ):
            yield step
            yield step._replace(move=took)

    # ---- clusters

    def _clusters(self, w: World) -> Iterator[Step]:
        """engine/clusters.py: drain, undrain, decommission (counted in its transaction), force (whoever is there is orphaned)."""
        for event in ("drain", "undrain", "decommission", "force_decommission"):
            if event not in self.setup.wishes:
                continue
            try:
                dest = self.step("cluster", w.cluster, event, Load(gateways=sum(i.held > 0 for i in w.insts)))
            except Refusal:
                continue
            after = w._replace(cluster=dest)
            if event == "force_decommission":
                insts = tuple(i._replace(held=0, orphan=True) if i.held else i for i in w.insts)
                after = after._replace(insts=insts, used=0)
            yield Step(
                Kind.CHANCE, "an operator", f"{event} of the cluster", after, ("cluster", w.cluster, event, dest)
            )
