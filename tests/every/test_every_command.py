"""
Every command, against one seeded state of a real server: what it prints for people, and what it prints for programmes.

The snapshots are pages to read. The rest holds for all commands alike: JSON has the shape the table says, YAML and
JSON lines say the same, stdout holds data alone, and a secret that goes in never comes out.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.commands import COMMANDS
from mcpg.cli.table import Command
from mcpg.wire.shapes import definitions, schema_of

from .conftest import STORY
from .story import CANARY, Ran, Story, plain

LOOKS = (  # every command that only looks
    "status",
    "doctor",
    "gateway-status",
    "version",
    "auth status",
    "context list",
    "context show prod",
    "config explain cp-",
    "provision history",
    "operation list",
    "operation list --kind delete",
    "operation show {op:edge-1}",
    "operation attach {op:edge-1}",
    "operation explain {op:edge-1}",
    "operation replay {op:edge-1}",
    "audit verify",
    "instance list",
    "instance list --orphaned",
    "instance show {uid:edge-1}",
    "cluster list",
    "cluster list --all",
    "cluster show us-east-1a",
    "cluster health",
    "machine list",
    "machine show cluster",
    "machine diff cluster enrolment",
    "machine upgrade",
    "token list",
)
ELSEWHERE = {  # commands with a test of their own, and where
    "quickstart": "tests/cli/test_local.py",
    "serve": "tests/cli/test_local.py",
    "gateway": "tests/cli/test_gateway.py",
    "login": "tests/cli/test_login.py",
    "logout": "tests/cli/test_login.py",
    "operation watch": "tests/cli/test_operation.py",
    "operation export": "tests/cli/test_operation.py",
    "completion": "tests/cli/test_completion.py",
    "machine check": "tests/cli/test_machine_check.py",
}
LOOK = pytest.mark.parametrize("typed", LOOKS)
CLOCKS = (
    "status",
    "doctor",
    "operation attach {op:edge-1}",
    "operation explain {op:edge-1}",
)  # they say what time it is


def command_of(typed: str) -> Command:
    words = tuple(typed.split())
    return next(each for each in COMMANDS if words[: len(each.words)] == each.words)


def test_every_command_is_run_here_or_elsewhere() -> None:
    here = {command_of(typed).words for typed in (*STORY, *LOOKS)}
    elsewhere = {tuple(words.split()) for words in ELSEWHERE}
    assert {each.words for each in COMMANDS} == here | elsewhere
    assert here & elsewhere == set()


def shown(ran: Ran, story: Story) -> str:
    """A run as a page: what was typed, the exit code, stdout, stderr."""
    text = f"$ mcpg-ctl {ran.typed}\n{ran.out}"
    if ran.err:
        text += f"--- stderr\n{ran.err}"
    return plain(f"{text}--- exit {ran.code}", story.ctl.home)


@pytest.mark.parametrize("at", range(len(STORY)), ids=lambda at: f"{at:02} {STORY[at][:60]}")
def test_what_changes_something_says_what_it_did(at: int, story: Story, snapshot: SnapshotAssertion) -> None:
    assert shown(story.ran[at], story) == snapshot


@pytest.mark.parametrize("typed", [typed for typed in LOOKS if typed != "doctor"])  # its page is in test_doctor.py
@pytest.mark.parametrize("output", ["table", "wide", "name", "json"])
def test_what_a_command_shows(typed: str, output: str, story: Story, snapshot: SnapshotAssertion) -> None:
    ran = story.ctl(f"{story.filled(typed)} -o {output}")
    assert shown(ran._replace(typed=f"{typed} -o {output}"), story) == snapshot


def data_of(ran: Ran) -> Any:
    return json.loads(ran.out)


@LOOK
def test_json_has_the_shape_that_the_table_names(typed: str, story: Story) -> None:
    found = data_of(story.ctl(f"{story.filled(typed)} -o json"))
    fits(found, command_of(typed))


def fits(found: Any, command: Command) -> None:
    assert command.shape
    validator = Draft202012Validator({**schema_of(command.shape), "$defs": definitions()})
    assert [error.message for error in validator.iter_errors(found)] == []


@pytest.mark.parametrize("at", [at for at, typed in enumerate(STORY) if "-o json" in typed])
def test_json_of_what_changes_something_has_its_shape(at: int, story: Story) -> None:
    ran = story.ran[at]
    if ran.code == 0:
        fits(data_of(ran), command_of(STORY[at]))
    else:
        told = json.loads(ran.err.splitlines()[-1])
        assert (ran.out, set(told)) == ("", {"error"})


@pytest.mark.parametrize("typed", [typed for typed in LOOKS if typed not in CLOCKS])
def test_yaml_and_json_lines_say_what_json_says(typed: str, story: Story) -> None:
    asked = story.filled(typed)
    found = data_of(story.ctl(f"{asked} -o json"))
    lines = [json.loads(line) for line in story.ctl(f"{asked} -o jsonl").out.splitlines()]
    read = yaml.safe_load(story.ctl(f"{asked} -o yaml").out)
    assert still(lines) == still(found if isinstance(found, list) else [found])
    assert still(read) == still(found)


def still(value: Any) -> Any:
    """*value* without what a clock moves between two runs."""
    if isinstance(value, dict):
        moving = ("last_seen_at", "updated_at", "age_ms", "evidence", "since")
        return {key: still(each) for key, each in value.items() if key not in moving}
    return [still(each) for each in value] if isinstance(value, list) else value


@LOOK
def test_stdout_is_data_whatever_is_said_beside_it(typed: str, story: Story) -> None:
    """A debugger's view, logs as JSON, a cookie on the command line: none of it reaches stdout, nor the cookie anything."""
    ran = story.ctl(
        f"--json-logs {story.filled(typed)} --output=json",
        MCPG_DEBUG="1",
        PYTHONWARNINGS="always",
        MCPG_SESSION_COOKIE=CANARY,
        MCPG_ENROLLMENT_URL=f"http://h/enroll/v1#token=ENROL-{CANARY}",
        MCPG_CP_DB_URL="",
    )
    data_of(ran)
    assert CANARY not in ran.out + ran.err


TROUBLE = {
    "nobody answers": {"MCPG_CP_URL": "http://127.0.0.1:9"},
    "not a URL": {"MCPG_CP_URL": f"ftp://user:{CANARY}@h"},
    "a password in the URL": {"MCPG_CP_URL": f"http://user:{CANARY}@127.0.0.1:9"},
}


@LOOK
@pytest.mark.parametrize("trouble", TROUBLE)
def test_no_refusal_tells_a_secret(typed: str, trouble: str, story: Story) -> None:
    asked = story.filled(typed)
    secrets = {"MCPG_SESSION_COOKIE": CANARY, "MCPG_ENROLLMENT_URL": f"http://h/enroll/v1#token=ENROL-{CANARY}"}
    ran = story.ctl(asked, **TROUBLE[trouble], **secrets, MCPG_DEBUG="1")
    assert CANARY not in ran.out + ran.err


def test_the_servers_log_holds_no_secret(story: Story) -> None:
    """At its most talkative; it heard the cookie from every command above that ran before, and hears it here."""
    story.ctl("instance list", MCPG_SESSION_COOKIE=CANARY)
    minted = data_of(story.ctl("token create -o json"))
    log = (story.ctl.home / "server.log").read_text()
    assert "ready on" in log
    assert [secret for secret in (CANARY, minted["token"]) if secret in log] == []
