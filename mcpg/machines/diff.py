"""
Two definitions of one machine, side by side: what another version does otherwise, and whose rest it touches. Pure.

`compare` says what changed and in which states a row would notice. `judge` says of one history what the other definition
makes of it: replayable as it is, another path from some line on, or stuck where nobody could move it on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpg.machines.replay import Fold, Rules

Move = tuple[str, str, str, str]  # source, event, guard or "", dest


@dataclass(frozen=True, slots=True)
class Change:
    """
    One difference: what `kind` of thing (state, move, guard, rest, phase, final, facts, birth, order), `how` (added, removed,
    changed), what it is, and as what it was `before` and is `after`. `states` are those whose rows would notice.
    """

    kind: str
    how: str
    what: str
    before: str
    after: str
    states: tuple[str, ...]


def compare(a: Rules, b: Rules) -> list[Change]:
    """Every difference that decides a move or a deadline, *a* being before; nothing when they are one definition."""
    out = [Change("state", "removed", s, s, "", (s,)) for s in a.body["states"] if s not in b.states]
    out += [Change("state", "added", s, "", s, ()) for s in b.body["states"] if s not in a.states]
    if (a.birth, a.initial) != (b.birth, b.initial):
        before, after = f"{a.birth} to {a.initial}", f"{b.birth} to {b.initial}"
        out.append(Change("birth", "changed", "the first line", before, after, ()))
    both = [s for s in a.body["states"] if s in b.states]
    for state in both:
        out += _ends(state, a, b) + _moves(state, a, b) + _rests(state, a, b)
    for state in (s for s in b.body["states"] if s not in a.states):
        out += [_added(move) for move in _from(b, state)]
    if a.body["facts"] != b.body["facts"]:
        guarded = tuple(s for s in both if any(guard for _, _, guard, _ in _from(a, s)))
        out.append(Change("facts", "changed", "facts", " ".join(a.body["facts"]), " ".join(b.body["facts"]), guarded))
    return out


def _from(rules: Rules, state: str) -> list[Move]:
    return [(s, e, guard or "", d) for s, e, guard, d in rules.body["moves"] if s == state]


def _words(move: Move) -> str:
    source, event, _, dest = move
    return f"{source} → {dest} on {event}"


def _when(move: Move) -> str:
    return move[2] or "always"


def _added(move: Move) -> Change:
    return Change("move", "added", _words(move), "", _when(move), (move[0],))


def _ends(state: str, a: Rules, b: Rules) -> list[Change]:
    def end(rules: Rules) -> str:
        return "a failure" if state in rules.body["failures"] else "final" if state in rules.final else "not final"

    out = [] if end(a) == end(b) else [Change("final", "changed", state, end(a), end(b), (state,))]
    before, after = (rules.body["phases"].get(state, state) for rules in (a, b))
    return out + ([] if before == after else [Change("phase", "changed", state, before, after, (state,))])


def _moves(state: str, a: Rules, b: Rules) -> list[Change]:
    """Moves from *state*: gone, new, with another guard, or asked in another order, which decides where guards overlap."""
    before, after = _from(a, state), _from(b, state)
    gone, new = [m for m in before if m not in after], [m for m in after if m not in before]
    out = []
    for old in gone:
        same = next((m for m in new if (m[1], m[3]) == (old[1], old[3])), None)
        if same is None:
            out.append(Change("move", "removed", _words(old), _when(old), "", (state,)))
        else:
            new.remove(same)
            out.append(Change("guard", "changed", _words(old), _when(old), _when(same), (state,)))
    out += [_added(move) for move in new]
    if not out:  # the same rows: asked in another order, they may lead elsewhere
        for event in dict.fromkeys(e for _, e, _, _ in before):
            asked = [[f"{_when(m)}: {m[3]}" for m in found if m[1] == event] for found in (before, after)]
            if asked[0] != asked[1]:
                what = f"what {event} asks first in {state}"
                out.append(Change("order", "changed", what, ", ".join(asked[0]), ", ".join(asked[1]), (state,)))
    return out


def _rests(state: str, a: Rules, b: Rules) -> list[Change]:
    before, after = a.body["rests"].get(state, {}), b.body["rests"].get(state, {})
    return [
        Change("rest", "changed", f"{key} of {state}", _text(before.get(key)), _text(after.get(key)), (state,))
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What another definition makes of one subject: `verdict` is replayable, differs or stuck. `seq` is where it differs."""

    verdict: str
    seq: int
    why: str


def judge(fold: Fold, new: Rules, state: str) -> Verdict:
    """Of a history that was folded under *new*; *state* is where its row rests."""
    other = fold.divergence
    if not new.has_way_out(state):
        if state not in new.states:
            why = f"{new.label} has no state {state}"
        else:
            why = (
                f"from {state} nothing leads on in {new.label}"
                if state in new.body["rests"]
                else f"nobody is to move a row on from {state}"
            )
        return Verdict("stuck", other.seq if other else fold.seq, why)
    if other is not None:
        return Verdict("differs", other.seq, f"{other.why}: {other.expected}, and it went: {other.found}")
    return Verdict("replayable", 0, "")
