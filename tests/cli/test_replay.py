"""`operation replay`: an export folded here, from the server, a file or stdin; a verdict, and an exit code that says it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from .checking import changed, definition, export, lines, steady
from .fake import OPERATION, Ctl, Fake, data

PATH = f"/v1/operations/{OPERATION}/export"


@pytest.mark.parametrize("argv", ["", "--until 4"])
def test_a_history_that_holds(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, argv: str) -> None:
    fake.says("GET", PATH, data(export()))
    ran = acme("operation", "replay", OPERATION, *argv.split())
    assert (ran.code, ran.err, steady(ran.out)) == (0, "", snapshot)


BROKEN: dict[str, dict[str, Any]] = {
    "a reason": {"reason": "somewhere else"},
    "a destination": {"dest": "ready"},
    "facts": {"facts": {"replicas": 9}},
    "a time": {"at_us": 5},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_history_that_does_not_hold_exits_1(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, case: str) -> None:
    fake.says("GET", PATH, data(changed(**BROKEN[case])))
    ran = acme("operation", "replay", OPERATION)
    assert (ran.code, ran.err, steady(ran.out)) == (1, "", snapshot)
    found = acme("operation", "replay", OPERATION, "-o", "json")
    assert (found.code, found.json["ok"], found.json["divergence"]["seq"]) == (1, False, 4)


def test_a_row_that_is_not_where_its_lines_lead(acme: Ctl, fake: Fake) -> None:
    found = export()
    found["row"]["state"] = "failed"
    fake.says("GET", PATH, data(found))
    ran = acme("operation", "replay", OPERATION)
    assert (ran.code, "the row says failed, its lines lead to ready" in ran.out) == (1, True)
    assert acme("operation", "replay", OPERATION, "--until", "6").code == 0, "then the row is not looked at"


def test_a_file_needs_no_control_plane(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "op.json"
    path.write_text(json.dumps(export()))
    here = acme("operation", "replay", str(path), "-o", "json")
    assert (here.code, fake.asked) == (0, [])
    fake.says("GET", PATH, data(export()))
    assert acme("operation", "replay", OPERATION, "-o", "json").json == here.json


def test_stdin_is_a_file(acme: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(export()).encode())))
    assert (acme("operation", "replay", "-").code, fake.asked) == (0, [])


def test_another_definition_says_where_it_would_have_gone_another_way(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    moves = [m for m in json.loads(definition())["moves"] if m[1] != "retry"]
    (tmp_path / "new.json").write_text(definition(moves=moves))
    fake.says("GET", PATH, data(export()))
    ran = acme("operation", "replay", OPERATION, "--definition", str(tmp_path / "new.json"))
    assert (ran.code, "line 3 does not follow (move)" in ran.out) == (1, True)
    (tmp_path / "same.json").write_text(json.dumps({"body": definition()}))
    assert acme("operation", "replay", OPERATION, "--definition", str(tmp_path / "same.json")).code == 0


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in export().items() if k != key}


ALTERED = export() | {
    "definitions": {digest: json.loads(definition(initial="ready")) for digest in export()["definitions"]}
}
NOT_EXPORTS = {
    "of an older version": (export() | {"format": "mcpg-operation/1"}, "its format is mcpg-operation/1"),
    "a list": ([], "it has no format"),
    "without a row": (without("row"), "operation, row or definitions are missing"),
    "without lines": (export() | {"operation": {"id": "x"}}, "it has no lines"),
    "a line without a time": (changed(at_us="soon"), "line 4 holds a value of another type"),
    "a definition that was changed": (ALTERED, "its hash is "),
}


@pytest.mark.parametrize("case", NOT_EXPORTS)
def test_what_is_no_export_is_refused_with_the_reason(acme: Ctl, tmp_path: Path, case: str) -> None:
    document, cause = NOT_EXPORTS[case]
    (tmp_path / "x.json").write_text(json.dumps(document))
    ran = acme("operation", "replay", str(tmp_path / "x.json"))
    assert (ran.code, ran.out, cause in ran.err) == (2, "", True)
    assert "mcpg-ctl operation export ID --file FILE" in ran.err


@pytest.mark.parametrize(("where", "code"), [("nowhere.json", 3), ("./", 2), ("x/\0", 2)])
def test_a_file_that_cannot_be_read(acme: Ctl, fake: Fake, where: str, code: int) -> None:
    ran = acme("operation", "replay", where)
    assert (ran.code, ran.out, fake.asked, "bug" in ran.err) == (code, "", [], False)


@pytest.mark.parametrize("until", ["0", "7", "x"])
def test_a_line_that_is_not_there(acme: Ctl, fake: Fake, until: str) -> None:
    fake.says("GET", PATH, data(export()))
    assert acme("operation", "replay", OPERATION, "--until", until).code == 2


def test_the_fixture_is_an_export_of_six_lines() -> None:
    assert [each["seq"] for each in lines()] == [1, 2, 3, 4, 5, 6]
