"""Why an operation is where it is, as the wire has it."""

from mcpg.wire.base import Body, Time
from mcpg.wire.operations import Operation, Transition


class ReplicaEvidence(Body):
    """One replica of the gateway: whether what is waited for was seen of it, else what is missing and since when."""

    replica: int
    is_there: bool
    words: str
    agent_id: str = ""
    since: Time | None = None


class PossibleMove(Body):
    """
    A move from the state it is in, and who makes it. `holds` is what the guard says of what is known now, `why` the facts
    it saw; null when it also needs what is found out only by asking the gateway.
    """

    event: str
    dest: str
    by: str
    guard: str = ""
    holds: bool | None = None
    why: str = ""


class Explanation(Body):
    """
    GET /v1/operations/:id/explain, as of `at`. `since` is when it entered its state; `rest` says who moves it on (work: the
    engine, wait, owner: `waits_for` says who, final, unknown: a state of another version). `blocked` says why nobody picks it
    up; `paused` why it waits for an operator, and what each way out does. `next` are commands.
    """

    at: Time
    operation: Operation
    since: Time
    rest: str
    waits_for: str = ""
    seen: str = ""
    replicas: list[ReplicaEvidence] = []
    last: Transition | None = None
    moves: list[PossibleMove] = []
    attempts: int = 0
    next_attempt_at: Time | None = None
    last_failure: str = ""
    lease: str = ""
    lease_owner: str = ""
    lease_until: Time | None = None
    paused: list[str] = []
    blocked: list[str] = []
    next: list[str] = []
