"""`config explain`: every setting with its value and source, and no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.explain import masked
from mcpg.cli.options import TREES

from .fake import Ctl

SECRETS = {
    "MCPG_SESSION_COOKIE": "c4n4ry",
    "MCPG_ENROLLMENT_URL": "http://cp/enroll/v1#token=c4n4ry",
    "MCPG_CP_DB_URL": "sqlite://ada:c4n4ry@host/x",
    "MCPG_CP_URL": "https://ada:c4n4ry@cp.example",
}


@pytest.fixture
def context(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    file = tmp_path / "state/contexts.json"
    file.touch(0o600)
    file.write_text(json.dumps({"current": "prod", "contexts": {"prod": {"org": "acme", "env": "us"}}}))


@pytest.mark.usefixtures("context")
def test_what_it_shows(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, tmp_path: Path) -> None:
    monkeypatch.setenv("MCPG_ENV", "eu")
    monkeypatch.setenv("MCPG_CONTROL_PLANE_LOG_LEVEL", "debug")
    monkeypatch.setenv("MCPG_OUTPUT", "xml")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    ran = ctl("config", "explain", "--workspace", "w")
    assert (ran.code, ran.err, "c4n4ry" in ran.out) == (0, "", False)
    assert re.sub(" {2,}", "  ", ran.out.replace(str(tmp_path), "HOME")) == snapshot


@pytest.mark.parametrize("output", ["table", "wide", "name", "json", "yaml", "jsonl"])
def test_no_output_holds_a_secret(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    ran = ctl("config", "explain", "-o", output)
    assert (ran.code, "c4n4ry" in f"{ran}") == (0, False)


def test_every_setting_of_every_tree_is_there_once(ctl: Ctl) -> None:
    found = [(each["name"], each["flag"]) for each in ctl("config", "explain", "-o", "json").json]
    wanted = {(option.field, option.name) for options in TREES.values() for option in options}
    assert (len(found), set(found)) == (len(wanted), wanted)


@pytest.mark.usefixtures("context")
def test_one_setting_as_data(ctl: Ctl) -> None:
    assert ctl("config", "explain", "org", "-o", "json").json == [
        {
            "name": "org",
            "of": ["client"],
            "value": "acme",
            "source": "context prod",
            "secret": False,
            "flag": "--org",
            "env": ["MCPG_ORG"],
            "default": "",
            "problem": "",
        }
    ]


def test_a_part_of_a_name_as_it_is_typed(ctl: Ctl) -> None:
    assert ctl("config", "explain", "cp-URL", "-o", "name").out == "cp_url\n"


def test_a_name_that_no_setting_has(ctl: Ctl) -> None:
    ran = ctl("config", "explain", "workspcae")
    assert (ran.code, ran.err.splitlines()[-1]) == (3, "hint:  did you mean: workspace")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pw@h/x", "https://ada:***@h/x"),
        ("pg://u:p/w@x@h/db", "pg://u:***@h/db"),
        ("https://ada@h", "https://ada@h"),
        ("pg://u:p@h/db?a=b&password=p&sslmode=require", "pg://u:***@h/db?a=b&password=***&sslmode=require"),
        ("http://h:7843/a", "http://h:7843/a"),
        ("plain", "plain"),
    ],
)
def test_the_password_of_a_url_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
