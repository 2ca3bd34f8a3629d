"""The worlds that are explored: several small ones instead of a huge one, each about one thing that may go wrong."""

from __future__ import annotations

from mcpg.machines.check.parts import LIVES, Inst, Op, Setup

_ONE = Inst(life=LIVES, held=1, spec="a", made=True, reps="A", channel=True)
_TWO = Inst(life=LIVES, held=2, spec="a", made=True, reps="AA", channel=True)
_NONE = Inst()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


WORLDS: tuple[Setup, ...] = (
    Setup(
        name="create",
        about="a gateway of two replicas is created and deleted, by an engine that is killed at any moment",
        insts=(_NONE,),
        wishes=_set("create delete cancel"),
        faults=_set("crash duplicate temporary permanent late hang death nack deaf"),
        sizes={"a": 2},
        capacity=2,
    ),
    Setup(
        name="update",
        about="two replicas are updated one after the other, stopped and undone at each step",
        insts=(_TWO,),
        wishes=_set("update cancel"),
        faults=_set("crash temporary permanent late death nack"),
        sizes={"a": 2, "b": 2},
        capacity=2,
        slots=1,
    ),
    Setup(
        name="grow",
        about="an update from one replica to two, where there may be no room for the second",
        insts=(_ONE,),
        wishes=_set("update cancel delete drain undrain"),
        faults=_set("late nack"),
        sizes={"a": 1, "b": 2},
        capacity=2,
    ),
    Setup(
        name="shrink",
        about="an update from two replicas to one while somebody waits for the room",
        insts=(_TWO, _NONE),
        wishes=_set("update cancel create"),
        faults=frozenset(),
        sizes={"a": 2, "b": 1},
        capacity=3,
    ),
    Setup(
        name="lease",
        about="two engines: one is slow, loses its lease, and comes back with what it did",
        insts=(_NONE,),
        wishes=_set("create cancel delete"),
        faults=_set("steal late"),
        engines=2,
    ),
    Setup(
        name="lease-update",
        about="two engines take back a cancelled update, one of them slow, while the next update begins",
        insts=(_ONE._replace(op=0, spec="b", reps="B"),),
        ops=(
            Op(
                "provision", "update", "compensating", 0, spec="b", prev="a", undo=("remove", "release"), cancelled=True
            ),
        ),
        wishes=_set("update cancel"),
        faults=_set("steal"),
        engines=2,
    ),
    Setup(
        name="room",
        about="two creates and one place, in a cluster that is drained, decommissioned, forced",
        insts=(_NONE, _NONE),
        wishes=_set("create cancel drain decommission force_decommission"),
        faults=frozenset(),
    ),
    Setup(
        name="orphan",
        about="a cluster is forced away under an update; the orphan is adopted, published or deleted",
        insts=(_ONE,),
        wishes=_set("update adopt cancel delete force_decommission drain decommission"),
        faults=_set("permanent late"),
    ),
    Setup(
        name="brake",
        about="a gateway of two replicas ends by itself, over and over, up to the brake",
        insts=(_TWO,),
        wishes=_set("recover cancel"),
        faults=_set("crash temporary permanent late hang death nack deaf"),
        sizes={"a": 2},
        capacity=2,
        slots=1,
        ends=2,
    ),
    Setup(
        name="overtaken",
        about="a recovery is superseded by an update or a delete while its restart is under way",
        insts=(_ONE,),
        wishes=_set("recover delete update cancel"),
        faults=_set("late death"),
        ends=4,
    ),
    Setup(
        name="recovery-lease",
        about="as overtaken, with two engines, one of them slow",
        insts=(_ONE._replace(reps=""),),
        wishes=_set("recover delete"),
        faults=_set("steal"),
        engines=2,
        ends=4,
    ),
)
