"""The journal against the rows, and one history against its definition, as the wire has them."""

from mcpg.wire.base import Body, Time


class Finding(Body):
    """
    One thing that is not as it must be. `kind`: chain (a history does not hold), orphan (lines without a row), silent (a row
    without lines), definition, counters, reservation, room, placement, occupation, operation, lease, unreadable. `check` says
    of a chain what was looked at, `seq` at which line.
    """

    kind: str
    subject: str
    what: str
    check: str = ""
    seq: int = 0
    expected: str = ""
    found: str = ""


class AuditPage(Body):
    """
    GET /v1/audit/verify: some whole histories, checked; `next` is where to go on (`?after=`), "" at the end, where rows
    were held against each other as well. `found` counts the findings, of which the first are listed. `journal` is about how
    many lines there are in all.
    """

    at: Time
    lines: int
    subjects: int
    found: int
    findings: list[Finding]
    journal: int
    next: str = ""


class Audit(Body):
    """What `mcpg-ctl audit verify` prints: all pages together."""

    ok: bool
    lines: int
    subjects: int
    found: int
    findings: list[Finding]


class Divergence(Body):
    """
    The first line that does not follow from those before it: what was looked at, and what was expected instead. `check` is
    "header" for a field beside the lines that is not what line `seq` says.
    """

    seq: int
    check: str
    expected: str
    found: str
    why: str


class ReplayedLine(Body):
    """One line of a replay; `ok` is false for the one that does not follow."""

    seq: int
    offset_ms: float
    source: str
    dest: str
    event: str
    actor: str
    reason: str = ""
    in_state_ms: float | None = None
    ok: bool = True


class Replay(Body):
    """
    What `mcpg-ctl operation replay` prints. `state` is where the lines lead, up to line `until`; `row` whether that is where
    the operation is, null when it was not compared. `guards_unchecked` are moves whose guard is not this version's.
    `not_covered` are the fields of the export that no line says anything of.
    """

    id: str
    kind: str
    name: str
    machine: str
    ok: bool
    state: str
    until: int
    row: bool | None = None
    definitions: list[str]
    judged_by: str = ""
    transitions: int
    retries: int
    guards_checked: int
    guards_unchecked: int
    total_ms: float
    in_state_ms: dict[str, float]
    can_move: list[str] = []
    divergence: Divergence | None = None
    not_covered: list[str] = []
    lines: list[ReplayedLine]
