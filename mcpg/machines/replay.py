"""
Folding a history through the definition it was made by: does every line follow from the one before it?

`Rules` are a definition made ready, from its canonical JSON alone, so that a history is judged by the table of its own time
and not by ours. `Fold` takes the lines of one subject in order, a batch at a time, and stops at the first that does not
follow. Guards are functions and no part of the JSON: they are found by name among our own machines, and fed the facts
the line recorded. A guard that is not ours, or that knows other facts, is not judged: any of its moves may be the one, and
it is counted. Called by mcpg/engine/audit.py, upgrades.py beside it, and by `mcpg-ctl operation replay`, which needs no server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any

from mcpg.errors import BadSpec, McpgError
from mcpg.machines import TABLES
from mcpg.machines.chain import Entry, canonical
from mcpg.machines.table import Facts, Guard

RETRY = "retry"  # the event of an attempt that failed, in every machine that tries
ENGINE = "engine"  # whose such lines are: the same event of a person is an order to try again now


@dataclass(frozen=True, slots=True)
class Choice:
    """One guarded row of a table. Without a `name` it is the row that is taken when no guard before it held."""

    name: str
    guard: Guard | None
    dest: str


@dataclass(frozen=True, slots=True)
class Rules:
    """
    A definition made ready: where each (state, event) goes, or what may decide it. `facts` is what our guards are fed,
    None where the definition knows other facts than this version does: then none of its guards can be judged.
    """

    name: str
    digest: str
    body: Mapping[str, Any]
    birth: str
    initial: str
    final: frozenset[str]
    states: frozenset[str]
    settled: Mapping[tuple[str, str], str]
    guarded: Mapping[tuple[str, str], tuple[Choice, ...]]
    facts: type[Facts] | None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.digest[:12]}"

    def events_from(self, state: str) -> list[str]:
        """The events that have a move from *state*, guards aside, in declared order."""
        return list(dict.fromkeys(event for source, event, _, _ in self.body["moves"] if source == state))

    def has_way_out(self, state: str) -> bool:
        """Whether a row may rest there: it is over, or somebody can move it on."""
        return state in self.final or (state in self.states and state in self.body["rests"] and self._leaves(state))

    def _leaves(self, state: str) -> bool:
        return any(source == state != dest for source, _, _, dest in self.body["moves"])


def rules(text: str) -> Rules:
    """From a definition's canonical JSON. Raises BadSpec for what is none, saying where."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadSpec("this is not a machine definition", cause=f"it is not JSON: {exc}") from None
    return rules_of(body)


def rules_of(body: Any) -> Rules:
    """From a definition as JSON values; raises as `rules`."""
    wrong = _wrong(body)
    if wrong:
        raise BadSpec("this is not a machine definition", cause=wrong, hint="mcpg-ctl machine show NAME -o json > FILE")
    shipped = TABLES.get(body["name"])
    ours = {m.guard.__name__: m.guard for m in shipped.moves if m.guard} if shipped else {}
    same_facts = shipped is not None and [f.name for f in dataclasses.fields(shipped.facts)] == body["facts"]
    by_key: dict[tuple[str, str], list[Choice]] = {}
    for source, event, guard, dest in body["moves"]:
        by_key.setdefault((source, event), []).append(Choice(guard or "", ours.get(guard), dest))
    return Rules(
        name=body["name"], digest=_digest(body), body=body, birth=body["birth"],
        initial=body["initial"], final=frozenset(body["final"]), states=frozenset(body["states"]),
        settled={key: found[0].dest for key, found in by_key.items() if not found[0].name},
        guarded={key: tuple(found) for key, found in by_key.items() if found[0].name},
        facts=shipped.facts if shipped is not None and same_facts else None,
    )  # fmt: skip


def _digest(body: Any) -> str:
    try:
        return hashlib.sha256(canonical(body).encode()).hexdigest()
    except (ValueError, RecursionError) as exc:
        raise BadSpec("this is not a machine definition", cause=f"it has no canonical form: {exc}") from None


def _wrong(body: Any) -> str:
    """Why *body* is no definition, "" when it is one."""
    if not isinstance(body, dict):
        return "it is no JSON object"
    for key in ("name", "birth", "initial"):
        if not isinstance(body.get(key), str):
            return f"{key} is not a text"
    for key in ("states", "events", "final", "failures", "facts"):
        if not (isinstance(body.get(key), list) and all(isinstance(each, str) for each in body[key])):
            return f"{key} is not a list of names"
    for key in ("rests", "phases"):
        if not isinstance(body.get(key), dict):
            return f"{key} is not an object"
    if not all(isinstance(rest, dict) for rest in body["rests"].values()):
        return "rests holds something that is no object"
    if not all(isinstance(phase, str) for phase in body["phases"].values()):
        return "phases holds something that is no name"
    moves = body.get("moves")
    if not isinstance(moves, list) or not all(isinstance(m, list) and len(m) == 4 for m in moves):
        return "moves is not a list of [source, event, guard, dest]"
    states, events = set(body["states"]), {*body["events"]}
    for source, event, guard, dest in moves:
        if not (isinstance(source, str) and isinstance(event, str) and isinstance(dest, str)):
            return "a move names something that is no text"
        if not (guard is None or (isinstance(guard, str) and guard)):
            return f"the guard of {event} from {source} is not a name"
        if source not in states or dest not in states or event not in events:
            return f"the move {event} from {source} to {dest} names what is not declared"
    unknown = [s for s in (body["initial"], *body["final"], *body["failures"], *body["rests"]) if s not in states]
    return f"{unknown[0]} is not one of its states" if unknown else ""


@dataclass(frozen=True, slots=True)
class Divergence:
    """
    The first thing that does not follow. `check` says what was looked at: sequence, machine, definition, birth, source,
    move, guard, dest, time, chain (the hash before), hash, row (the present against the past), value, header (header.py).
    """

    seq: int
    check: str
    expected: str
    found: str
    why: str


@dataclass(slots=True)
class Fold:
    """
    One subject's history, folded as far as it goes. `definitions` are the rules by hash; with `under` every line is
    judged by that instead, while its hash is checked as it was recorded. Times in microseconds.
    """

    subject: str
    definitions: Mapping[str, Rules]
    under: Rules | None = None
    machine: str = ""
    state: str = ""
    seq: int = 0
    head: str = ""
    at: int = 0
    first_at: int = 0
    retries: int = 0
    checked: int = 0
    unchecked: int = 0
    times: dict[str, int] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    divergence: Divergence | None = None

    @property
    def rules(self) -> Rules | None:
        """What the last line was judged by."""
        return self.under or (self.definitions.get(self.used[-1]) if self.used else None)

    def feed(self, lines: Iterable[Entry]) -> bool:
        """The next lines; False once one did not follow. What comes after it is not looked at."""
        if self.divergence is None:
            try:
                self._feed(lines)
            except McpgError:
                raise  # who reads the lines says what they are not
            except Exception as exc:  # noqa: BLE001 - a database that was edited may hold anything anywhere
                self._stop(self.seq + 1, "value", "values of their types", str(exc), "the line cannot be read")
        return self.divergence is None

    def finish(self, state: str, version: int, head: str) -> bool:
        """Whether the present row is what the lines add up to; False also when one of them did not follow."""
        if self.divergence is None and (self.seq, self.state, self.head) != (version, state, head):
            if version != self.seq:
                why = f"the row is at version {version}, its last line is {self.seq}"
            elif state != self.state:
                why = f"the row says {state}, its lines lead to {self.state}"
            else:
                why = "the row's head is not the hash of its last line"
            self._stop(
                self.seq, "row", f"{self.state} at {self.seq}, head {self.head[:12]}",
                f"{state} at {version}, head {head[:12]}", why,
            )  # fmt: skip
        return self.divergence is None

    def _stop(self, seq: int, check: str, expected: str, found: str, why: str) -> None:
        self.divergence = Divergence(seq, check, expected, found, why)

    def _feed(self, lines: Iterable[Entry]) -> None:
        # A hundred thousand lines a second go through here: local names, no calls but for the hash and the guards.
        seq, state, head, at, times = self.seq, self.state, self.head, self.at, self.times
        machine, rules, definition = self.machine, self.under, self.used[-1] if self.used else ""
        if rules is None and definition:
            rules = self.definitions[definition]
        subject, quoted = encode_basestring(self.subject), encode_basestring(machine)
        try:
            for line in lines:
                name, number, event, source, dest, actor, reason, facts, data, made_by, before, digest, when = line
                if number != seq + 1:
                    why = f"line {seq + 1} is missing" if number > seq else f"line {number} comes after line {seq}"
                    return self._stop(seq + 1, "sequence", str(seq + 1), str(number), why)
                if made_by != definition or rules is None:
                    if made_by not in self.definitions:
                        why = "the definition that made this line is not known, so nobody can say what it allowed"
                        return self._stop(number, "definition", "a definition that is here", made_by[:12], why)
                    rules, definition = self.under or self.definitions[made_by], made_by
                    self.used.append(made_by)
                    if self.definitions[made_by].name != name:
                        why = f"its definition is of {self.definitions[made_by].name}"
                        return self._stop(number, "machine", self.definitions[made_by].name, name, why)
                if name != machine:
                    if machine:
                        return self._stop(number, "machine", machine, name, "a history is of one machine")
                    self.machine = machine = name
                    quoted = encode_basestring(machine)
                if source != state:
                    why = "it begins where the last did not end"
                    return self._stop(number, "source", state or "(nothing)", source or "(nothing)", why)
                if not seq:
                    if event != rules.birth or dest != rules.initial:
                        why = "a history begins with its machine's birth"
                        wanted = f"{rules.birth} to {rules.initial}"
                        return self._stop(number, "birth", wanted, f"{event} to {dest}", why)
                    self.first_at = when
                else:
                    goes = rules.settled.get((source, event))
                    if goes is None:
                        if (wrong := self._guarded(rules, source, event, dest, facts)) is not None:
                            return self._stop(number, *wrong)
                    elif goes != dest:
                        return self._stop(number, "dest", goes, dest, f"{event} leads from {source} to {goes}")
                    if when < at:
                        why = f"it is {(at - when) / 1e6:.3f} s before the last"
                        return self._stop(number, "time", f"{at} or later", str(when), why)
                if before != head:
                    why = "it does not hold the hash of the line before it"
                    return self._stop(number, "chain", head[:12] or "(nothing)", before[:12] or "(nothing)", why)
                text = (
                    f'["{head}",{quoted},{subject},{number},{encode_basestring(event)},{encode_basestring(source)},'
                    f"{encode_basestring(dest)},{encode_basestring(actor)},{encode_basestring(reason)},{facts},{data},"
                    f'"{made_by}",{when}]'
                )
                whole = sha256(text.encode()).hexdigest()
                if whole != digest:
                    why = "something in the line was changed after it was written"
                    return self._stop(number, "hash", whole[:12], digest[:12], why)
                if seq:
                    times[source] = times.get(source, 0) + when - at
                    if event == RETRY and actor == ENGINE:
                        self.retries += 1
                seq, state, head, at = number, dest, digest, when
        finally:
            self.seq, self.state, self.head, self.at = seq, state, head, at
        return None

    def _guarded(
        self, rules: Rules, source: str, event: str, dest: str, facts: str
    ) -> tuple[str, str, str, str] | None:
        """None when the recorded facts lead to *dest*, as far as that can be judged; else what a divergence says."""
        choices = rules.guarded.get((source, event))
        if choices is None:
            moves = ", ".join(rules.events_from(source)) or "none, it is final"
            return "move", f"one of: {moves}", event, f"{rules.label} has no move {event} from {source}"
        seen = _read(rules.facts, facts)
        possible, foreign, said_no = [], False, []
        for choice in choices:
            if choice.name and (choice.guard is None or seen is None):
                foreign = True
                possible.append(choice.dest)
                continue
            if choice.guard is None or choice.guard(seen):
                possible.append(choice.dest)
                break
            said_no.append(choice.name)
        if dest not in possible:
            why = f"{' and '.join(said_no)} said no to {facts}" if said_no else f"{event} does not lead there"
            return "guard", " or ".join(possible) or f"no move: {event} is refused", dest, why
        if foreign:
            self.unchecked += 1
        else:
            self.checked += 1
        return None


def _read(kind: type[Facts] | None, text: str) -> Facts | None:
    """Recorded facts as our guards take them; None when they are others than this version's."""
    if kind is None:
        return None
    found = json.loads(text)
    try:
        return kind(**found) if len(found) == len(dataclasses.fields(kind)) else None
    except TypeError:
        return None


def replay(
    subject: str, lines: Iterable[Entry], definitions: Mapping[str, Rules], *, under: Rules | None = None
) -> Fold:
    """A whole history at once."""
    fold = Fold(subject, definitions, under)
    fold.feed(lines)
    return fold
