"""`operation explain`, `audit verify`, `machine diff`, `machine upgrade`: what a server found, for people and as data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.machines import TABLES
from mcpg.wire.explain import Explanation

from .checking import (
    DIFFERS,
    MISCOUNTED,
    STUCK,
    TAMPERED,
    audit_page,
    definition,
    explanation,
    steady,
    upgrade_page,
)
from .fake import OPERATION, Ctl, Fake, data, refusal

EXPLAIN = f"/v1/operations/{OPERATION}/explain"
PAUSED = {
    "rest": "owner",
    "waits_for": "an operator: operation resume, operation cancel, or a delete of the gateway",
    "seen": "",
    "replicas": [],
    "attempts": 3,
    "last_failure": "the registry is away",
    "next_attempt_at": "2026-11-22T10:22:01Z",
    "paused": ["it paused in applying on deadline: apply did not end in 30 s", "resume goes back to applying"],
    "blocked": ["whoever held it is gone, and the lease is over: the next sweep takes it"],
    "moves": [],
}


@pytest.mark.parametrize("case", ["waiting", "paused"])
def test_explain(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, case: str) -> None:
    said = explanation(**(PAUSED if case == "paused" else {}))
    fake.says("GET", EXPLAIN, data(said))
    ran = acme("operation", "explain", OPERATION)
    assert (ran.code, ran.err, steady(ran.out)) == (0, "", snapshot)
    assert acme("operation", "explain", OPERATION, "-o", "json").json == said


@pytest.mark.parametrize(
    ("holds", "why", "words"),
    [
        (True, '{"active": 2}', "yes (active 2)"),
        (False, '{"is_paused": true, "ends": 0}', "no (is paused true, ends 0)"),
        (
            None,
            '{"enrolled": 1}; its endpoints were not asked',
            "not known here (enrolled 1; its endpoints were not asked)",
        ),
        (None, "{}; not asked", "not known here (not asked)"),
        (False, "it is full", "no (it is full)"),
        (False, "[1, 2]", "no ([1, 2])"),
        (False, "[" * 100_000, f"no ({'[' * 100_000})"),
    ],
    ids=["a number", "a flag", "what was not seen", "no facts", "words", "no object", "without an end"],
)
def test_what_a_guard_saw_is_said_as_words(acme: Ctl, fake: Fake, holds: bool | None, why: str, words: str) -> None:
    move = {"event": "go", "dest": "on", "by": "the engine", "guard": "all_of_it", "holds": holds, "why": why}
    fake.says("GET", EXPLAIN, data(explanation(moves=[move])))
    assert f"go → on, by the engine, when all of it: {words}\n" in acme("operation", "explain", OPERATION).out


@pytest.mark.parametrize("missing", sorted(Explanation.model_fields))
def test_an_explanation_of_another_version_may_lack_a_field(acme: Ctl, fake: Fake, missing: str) -> None:
    fake.says("GET", EXPLAIN, data({k: v for k, v in explanation().items() if k != missing}))
    assert acme("operation", "explain", OPERATION).code == 0


# ---- audit verify

AUDIT = "/v1/audit/verify"


def test_a_clean_journal_exits_0(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("GET", AUDIT, data(audit_page()))
    ran = acme("audit", "verify")
    assert (ran.code, ran.err, steady(ran.out)) == (0, "", snapshot)


def test_findings_of_all_parts_are_added_up_and_exit_1(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says(
        "GET", AUDIT, data(audit_page(TAMPERED, next="op-a")), data(audit_page(next="op-b")),
        data(audit_page(MISCOUNTED, found=3)),
    )  # fmt: skip
    ran = acme("audit", "verify")
    assert (ran.code, ran.err, steady(ran.out)) == (1, "", snapshot)
    assert [asked.query for asked in fake.asked] == ["limit=100", "limit=100&after=op-a", "limit=100&after=op-b"]


def test_a_server_that_does_not_get_on_is_not_asked_for_ever(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", AUDIT, data(audit_page(next="op-a")))
    ran = acme("audit", "verify")
    assert (ran.code, ran.err.splitlines()[0]) == (1, "error: the control plane did not come to an end")
    assert len(fake.asked) == 2


# ---- machine diff


def files(tmp_path: Path, **changes: Any) -> tuple[str, str]:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(definition())
    new.write_text(definition(**changes))
    return str(old), str(new)


def changes() -> dict[str, Any]:
    found = json.loads(definition())
    moves = [m for m in found["moves"] if m[:2] != ["confirming", "next"]]
    rests = found["rests"] | {"applying": found["rests"]["applying"] | {"timeout_s": 5}}
    return {"moves": [*moves, ["paused", "fail", None, "failed"]], "rests": rests}


def test_two_files_need_no_control_plane(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, tmp_path: Path) -> None:
    ran = acme("machine", "diff", *files(tmp_path, **changes()))
    assert (ran.code, ran.err, steady(ran.out), fake.asked) == (0, "", snapshot, [])


def test_rows_that_would_notice_are_counted(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    _, new = files(tmp_path, **changes())
    fake.says("GET", "/v1/machines/definitions/provision", data({"body": TABLES["provision"].canonical}))
    states = [{"name": "applying", "rows": 2}, {"name": "paused", "rows": 1}, {"name": "ready", "rows": 9}]
    fake.says("GET", "/v1/machines/provision", data({"name": "provision", "states": states, "final": ["ready"]}))
    found = acme("machine", "diff", "provision", new, "-o", "json").json
    assert (found["live"], found["is_same"]) == (3, False)
    assert {c["what"]: c["live"] for c in found["changes"]}["timeout_s of applying"] == 2


def test_a_definition_that_is_not_there(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/machines/definitions/washing", refusal(errors.NotFound("no definition washing")))
    assert acme("machine", "diff", "washing", "provision").code == 3


HALVES = {
    "provision": "provision NAME|HASH|FILE",
    "'a b'": "'a b' NAME|HASH|FILE",
    "--after provision": "NAME|HASH|FILE provision",
    "": "NAME|HASH|FILE NAME|HASH|FILE",
}


@pytest.mark.parametrize("given", HALVES)
def test_one_definition_is_half_of_a_question(acme: Ctl, given: str) -> None:
    ran = acme("machine", "diff", *shlex.split(given))
    example = "as in: mcpg-ctl machine diff provision provision.json"
    hint = f"hint:  mcpg-ctl machine diff {HALVES[given]} …      {example}"
    assert (ran.code, ran.err.splitlines()[2]) == (2, hint)


# ---- machine upgrade

CHECK = "/v1/machines/upgrade-check"


def test_what_would_be_stuck_exits_1(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, tmp_path: Path) -> None:
    _, new = files(tmp_path)
    fake.says("POST", CHECK, data(upgrade_page(DIFFERS, next="op-a")), data(upgrade_page(STUCK)))
    ran = acme("machine", "upgrade", "--check", new)
    assert (ran.code, ran.err, steady(ran.out)) == (1, "", snapshot)
    assert [(asked.query, asked.body["definition"]["name"]) for asked in fake.asked] == [
        ("", "provision"),
        ("after=op-a", "provision"),
    ]


def test_what_would_only_have_gone_another_way_exits_0(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    fake.says("POST", CHECK, data(upgrade_page(DIFFERS)))
    assert acme("machine", "upgrade", files(tmp_path)[1]).code == 0


def test_without_a_file_every_machine_of_this_version_is_judged(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", CHECK, data(upgrade_page()))
    assert acme("machine", "upgrade", "-o", "json").code == 0
    assert [asked.body["definition"] for asked in fake.asked] == [t.definition() for t in TABLES.values()]
