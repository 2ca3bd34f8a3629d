"""
Events folded per second of one core: replaying many histories, beside a bare json.loads and sha256 of the same lines.

Each history is a provision of seven lines as a real one has them: seven hashes, one guard that is given its facts. Ours is
`Fold`, the code under `audit verify` and `operation replay`: sequence, times, every move by the table, guards, the chain of
hashes. The reference reads each line's canonical JSON and hashes it, which is the least that who checks a chain must do.
Both are CPU seconds of this process, taken in turn; every fold must end without a divergence, and one line that was
changed must be found, or nothing is said.
"""

from __future__ import annotations

import argparse
import json
import time
from hashlib import sha256

from benchmarks.measure import Load, Wrong, bounded, emit, median
from mcpg.machines import provision
from mcpg.machines.chain import Entry, canonical, entry_hash
from mcpg.machines.replay import Fold, replay, rules
from mcpg.machines.table import NO_FACTS, Facts

E, Seen = provision.Event, provision.Seen
TABLE = provision.MACHINE
RULES = {TABLE.definition_hash: rules(TABLE.canonical)}
SPEC = {
    "replicas": 2,
    "size": "s",
    "region": "us-1",
    "config_version": 1,
    "config_hash": "9c41d2" * 10,
    "name": "edge-1",
}
RESERVED = {"cluster": "us-1", "cluster_id": "019a3c1e-0000-7000-8000-0000009f3c2a", "places": 2, "used": 17}
READY = {"instance_uid": "019a3c1e-0000-7000-8000-0000009f3c2b", "endpoints": ["http://127.0.0.1:41873/mcp"]}
WALK: tuple[tuple[provision.Event, Facts, str, dict[str, object]], ...] = (
    (E.ACCEPT, NO_FACTS, "", {}),
    (E.RESERVED, NO_FACTS, "us-1 (17 of 50 gateways)", RESERVED),
    (E.APPLIED, NO_FACTS, "process 4711, 4712 started", {"pids": [4711, 4712], "ports": [41873, 41874]}),
    (E.OBSERVED, Seen(2, 1, 1, 0), "1 of 2 enrolled, config 9c41d2 active on 1", {}),
    (E.OBSERVED, Seen(2, 2, 1, 0), "2 of 2 enrolled, config 9c41d2 active on 1", {}),
    (E.CONFIRMED, Seen(2, 2, 2, 2), "2 of 2 enrolled, config 9c41d2 active on 2", READY),
)

History = tuple[str, list[Entry]]


def history(number: int) -> History:
    """One ladder, by the table itself, with every hash."""
    subject, state, lines = f"op-{number:010x}", "", list[Entry]()

    def add(event: str, dest: str, facts: Facts, reason: str, data: dict[str, object]) -> None:
        at = 1_795_342_867_000_000 + len(lines) * 90_000
        before = lines[-1].hash if lines else ""
        e = Entry(
            TABLE.name, len(lines) + 1, event, state, dest, "engine", reason, canonical(facts.as_json()), canonical(data),
            TABLE.definition_hash, before, "", at,
        )  # fmt: skip
        lines.append(e._replace(hash=entry_hash(subject, e)))

    add(TABLE.birth.value, TABLE.initial.value, NO_FACTS, "", {"kind": "create", "name": "edge-1", "spec": SPEC})
    state = TABLE.initial.value
    for event, facts, reason, data in WALK:
        dest = TABLE.step(state, event, facts).value
        add(event.value, dest, facts, reason, data)
        state = dest
    return subject, lines


def ours(histories: list[History]) -> float:
    """CPU seconds of folding them all."""
    began = time.process_time()
    folds = [replay(subject, lines, RULES) for subject, lines in histories]
    took = time.process_time() - began
    wrong = [fold for fold in folds if fold.divergence is not None or (fold.state, fold.checked) != ("ready", 1)]
    if wrong:
        raise Wrong(f"{len(wrong)} of {len(folds)} histories did not replay: {wrong[0].divergence}")
    return took


def reference(texts: list[str]) -> float:
    """CPU seconds of reading and hashing every line."""
    began = time.process_time()
    for text in texts:
        json.loads(text)
        sha256(text.encode()).hexdigest()
    return time.process_time() - began


def _finds_a_change(found: History) -> bool:
    subject, lines = found
    fold = Fold(subject, RULES)
    fold.feed([*lines[:3], lines[3]._replace(reason="process 1 started"), *lines[4:]])
    return fold.divergence is not None and (fold.divergence.seq, fold.divergence.check) == (4, "hash")


def measure(rounds: int, many: int) -> None:
    histories = [history(number) for number in range(many)]
    events = sum(len(lines) for _, lines in histories)
    texts = [json.dumps([subject, *line], separators=(",", ":")) for subject, lines in histories for line in lines]
    if not _finds_a_change(histories[0]):
        raise Wrong("a line that was changed was not found")
    with Load() as load:
        taken = [(reference(texts), ours(histories)) for _ in range(rounds)]
    beside = median([theirs / mine for theirs, mine in taken])
    emit("bare", "loads and sha256", per_cpu_s=events / median([theirs for theirs, _ in taken]), events=events,
         other_cpu=load.other_cpu, rounds=rounds)  # fmt: skip
    emit("ours", "replay", per_cpu_s=events / median([mine for _, mine in taken]), events=events, histories=many,
         beside_x=beside, other_cpu=load.other_cpu, rounds=rounds)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--histories", type=int, default=15_000)
    a = parser.parse_args()
    bounded(300, lambda: measure(max(3, a.rounds), max(100, a.histories)))


if __name__ == "__main__":
    main()
