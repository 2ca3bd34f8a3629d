"""A definition in a file: alone, or shown; what is shown must be what its body says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcpg.machines import TABLES
from mcpg.present.machines import machine
from mcpg.store import reads
from mcpg.store.database import Database

from .checking import export
from .fake import Ctl, Fake, data

Doc = dict[str, Any]
Shown = Callable[[str], Doc]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What `machine show NAME -o json` prints."""

    async def rows(db: Database, name: str) -> dict[str, int]:
        return {TABLES[name].initial.value: 1}

    monkeypatch.setattr(reads, "count_by_state", rows)
    db: Any = None
    return lambda name: asyncio.run(machine(db, TABLES[name])).model_dump(mode="json")


def written(tmp_path: Path, found: Any, name: str = "prov.json") -> str:
    path = tmp_path / name
    path.write_text(json.dumps(found))
    return str(path)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_shown_is_taken(acme: Ctl, fake: Fake, tmp_path: Path, shown: Shown, name: str) -> None:
    alone = written(tmp_path, TABLES[name].definition(), "alone.json")
    ran = acme("machine", "diff", written(tmp_path, shown(name)), alone, "-o", "json")
    assert (ran.code, ran.err, ran.json["is_same"], fake.asked) == (0, "", True, [])


LAST = len(TABLES["provision"].moves) - 1
EDITS: dict[str, Callable[[Doc], Any]] = {
    "moves[0].dest": lambda d: d["moves"][0].update(dest="failed"),
    "moves[1].guard": lambda d: d["moves"][1].update(guard="never"),
    "moves[2].source": lambda d: d["moves"][2].pop("source"),
    f"moves[{LAST}]": lambda d: d["moves"].pop(),
    "states[3].rest.timeout_s": lambda d: d["states"][3]["rest"].update(timeout_s=5),
    "states[3].rest.more": lambda d: d["states"][3]["rest"].update(more=5),
    "states[1].phase": lambda d: d["states"][1].update(phase="other"),
    "final[0]": lambda d: d["final"].reverse(),
    "initial": lambda d: d.update(initial="ready"),
    "name": lambda d: d.update(name="teardown"),
    "definition": lambda d: d.update(definition="provision@000000000000"),
    "hash": lambda d: d.update(body=d["body"].replace('"answering"', '"replying"')),
}
ASKED = ("machine diff provision {}", "machine upgrade --check {}", "operation replay {op} --definition {}")


@pytest.mark.parametrize("argv", ASKED)
@pytest.mark.parametrize("part", EDITS)
def test_what_says_two_things_is_refused(
    acme: Ctl, fake: Fake, tmp_path: Path, shown: Shown, part: str, argv: str
) -> None:
    found = shown("provision")
    EDITS[part](found)
    path = written(tmp_path, found)
    op = written(tmp_path, export(), "op.json")
    fake.says("GET", "/v1/machines/definitions/provision", data({"body": TABLES["provision"].canonical}))
    ran = acme(*(word.format(path, op=op) for word in argv.split()))
    first, _, hint = ran.err.splitlines()[:3]
    assert (ran.code, ran.out, [a for a in fake.asked if a.method == "POST"]) == (2, "", [])
    assert first.startswith(f"error: {path} says two things: {part} is ")
    assert hint.startswith(f"hint:  jq '.body | fromjson' {path} > NEW.json")


def test_words_and_counts_are_no_part_of_a_definition(acme: Ctl, tmp_path: Path, shown: Shown) -> None:
    found = shown("provision")
    found["states"][0] |= {"about": "mine", "rows": 7}
    found |= {"title": "mine", "mermaid": ""}
    alone = written(tmp_path, TABLES["provision"].definition(), "alone.json")
    assert acme("machine", "diff", written(tmp_path, found), alone).code == 0


@pytest.mark.parametrize("argv", ASKED)
def test_an_export_is_told_from_a_definition(acme: Ctl, fake: Fake, tmp_path: Path, argv: str) -> None:
    op = written(tmp_path, export(), "op.json")
    fake.says("GET", "/v1/machines/definitions/provision", data({"body": TABLES["provision"].canonical}))
    ran = acme(*(word.format(op, op=op) for word in argv.split()))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[:3] == [
        f"error: {op} is not a machine definition",
        "cause: it is an operation's export, which holds 1",
        f"hint:  jq '.definitions[.operation.history[-1].definition]' {op} > NEW.json      name that",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 1}', '{"body": "x"}'])
def test_what_is_no_definition_is_told_by_its_file(acme: Ctl, tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    ran = acme("machine", "diff", str(path), str(path))
    first, _, hint = ran.err.splitlines()[:3]
    assert (ran.code, first) == (2, f"error: {path} is not a machine definition")
    assert hint == "hint:  mcpg-ctl machine show NAME -o json > FILE"


@pytest.mark.parametrize("argv", ASKED)
def test_a_file_that_is_not_there_is_told_with_how_to_make_one(
    acme: Ctl, fake: Fake, tmp_path: Path, argv: str
) -> None:
    op = written(tmp_path, export(), "op.json")
    fake.says("GET", "/v1/machines/definitions/provision", data({"body": TABLES["provision"].canonical}))
    ran = acme(*(word.format("nosuch.json", op=op) for word in argv.split()))
    assert (ran.code, ran.err.splitlines()) == (
        3,
        ["error: no file nosuch.json", "hint:  mcpg-ctl machine show NAME -o json > FILE"],
    )
