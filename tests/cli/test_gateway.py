"""`gateway` hands settings.Agent over; `gateway-status` prints what mcpg/agent/status.py says."""

from __future__ import annotations

import io
import json
import sys
import time
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.agent import status as stored
from mcpg.settings import Agent

from .fake import Ctl

URL = "http://h/enroll/v1#token=ENROL-canary"
DAY_S = 86_400


def at(seconds: float) -> str:
    """That many seconds from now, and half a unit, so that its age is always the same."""
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def nothing() -> dict[str, Any]:
    return stored.status(Path("/nowhere"))


def enrolled() -> dict[str, Any]:
    return {
        **nothing(),
        "enrolled": True,
        "instance_id": "01a2",
        "instance_uid": "edge-ab12cd34",
        "registered_at": at(-3.5 * DAY_S),
        "issued_at": at(-1.5 * DAY_S),
        "expires_at": at(28.5 * DAY_S),
        "expires_in_s": round(28.5 * DAY_S),
        "endpoint": "http://127.0.0.1:7844",
        "lkg": {"config_hash": "9c41d2ff00112233", "written_at": at(-5400), "tools": ["a", "b"], "servers": ["up"]},
    }


def running() -> dict[str, Any]:
    agent = {
        "running": True, "stale": False, "pid": 4711, "written_at": at(-5.5), "age_s": 5, "version": "0.1.0",
        "up_since": at(-7500), "state": "serving", "endpoint": "http://127.0.0.1:7844",
        "session_open_since": at(-3700), "next_retry_at": None, "config_refused": None,
        "last_error": {"at": at(-3705), "event": "session_ended", "code": "UNAVAILABLE", "reason": "gone\x1b[2J"},
        "listener": {"host": "::1", "port": 8787, "mcp_path": "/mcp"},
        "config": {"source": "pushed", "config_hash": "9c41d2ff00112233", "tools": 2, "at": at(-5400)},
        "dataplane": {
            "kind": "exec", "program": "/bin/mcpg", "version": "mcpg 1.0", "pid": 4712, "restarts": 2, "trouble": "",
        },
    }  # fmt: skip
    return {**enrolled(), "agent": agent}


def retrying() -> dict[str, Any]:
    found = running()
    down = {"pid": None, "trouble": "the data plane ended, 5 times in a row"}
    found["agent"] |= {
        "session_open_since": None,
        "next_retry_at": at(7.2),
        "dataplane": found["agent"]["dataplane"] | down,
    }
    return {**found, "problems": [{"problem": down["trouble"], "fix": "less log"}]}


def killed() -> dict[str, Any]:
    found = running()
    found["agent"] |= {"running": False, "stale": True, "pid": None, "state": None, "session_open_since": None}
    what = "the agent did not stop cleanly and does not run; its data plane, pid 4712, still serves"
    return {**found, "problems": [{"problem": what, "fix": "mcpg-ctl gateway --state-dir /nowhere"}]}


def expired() -> dict[str, Any]:
    return {**enrolled(), "expired": True, "expires_in_s": 0, "expires_at": at(-100), "lkg": None}


def foreign() -> dict[str, Any]:
    """Enrolled by the real gateway, which says nanoseconds."""
    return {**enrolled(), "instance_uid": None, "registered_at": None, "issued_at": at(-6.5).replace("Z", "613002Z")}


def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[Agent]:
    """What `gateway` calls the agent with; it returns 9."""
    got: list[Agent] = []
    module = types.ModuleType("mcpg.agent.process")
    module.run_gateway = lambda settings: got.append(settings) or 9  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcpg.agent.process", module)
    return got


def test_the_agent_gets_flag_then_environment_then_default(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    got = handed_over(monkeypatch)
    monkeypatch.setenv("MCPG_INSTANCE_UID", "from-env")
    monkeypatch.setenv("MCPG_ENROLLMENT_URL", URL)
    monkeypatch.setenv("MCPG_GATEWAY_EXEC", "mcpg")
    ran = ctl("gateway", "--instance-uid", "from-flag", "--drain-timeout-s", "2.5")
    assert (ran.code, ran.out) == (9, "")
    assert [
        (each.instance_uid, each.enrollment_url, each.cp_grpc, each.exec, each.drain_timeout_s) for each in got
    ] == [("from-flag", URL, "http://127.0.0.1:7844", "mcpg", 2.5)]


def test_the_enrolment_url_comes_from_a_file(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its first line; it wins over the environment."""
    got = handed_over(monkeypatch)
    monkeypatch.setenv("MCPG_ENROLLMENT_URL", "http://h/enroll/v1#token=other")
    path = tmp_path / "url"
    path.write_text(f"{URL}\nand more\n")
    path.chmod(0o600)
    assert ctl("gateway", "--enrollment-url-file", str(path)).code == 9
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"  {URL}\n"))
    assert ctl("gateway", "--enrollment-url-file", "-").code == 9
    assert [each.enrollment_url for each in got] == [URL, URL]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_is_refused(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int
) -> None:
    got = handed_over(monkeypatch)
    path = tmp_path / "url"
    path.write_text(URL)
    path.chmod(mode)
    ran = ctl("gateway", "--enrollment-url-file", str(path))
    assert (ran.code, ran.out, got) == (2, "", [])
    assert ran.err.splitlines() == [
        f"error: {path} can be read by other users",
        f"cause: its mode is {mode:04o} and it holds a secret",
        f"hint:  chmod 600 {path}",
    ]


NEXT = "hint:  mcpg-ctl token create -o name | mcpg-ctl gateway --enrollment-url-file -"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["error: --enrollment-url-file PATH cannot be read", "cause: No such file or directory", NEXT]),
        (b"\xff\xfe", ["error: --enrollment-url-file PATH cannot be read", "cause: not UTF-8", NEXT]),
        (b"\n", ["error: --enrollment-url-file holds no URL", "cause: the first line of PATH is empty", NEXT]),
    ],
)
def test_a_file_without_a_url_names_the_command_that_makes_one(
    ctl: Ctl, tmp_path: Path, content: bytes | None, words: list[str]
) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    ran = ctl("gateway", "--enrollment-url-file", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.replace(str(path), "PATH").splitlines() == words


def test_an_empty_stdin_is_no_url(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ran = ctl("gateway", "--enrollment-url-file", "-")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "cause: the first line of stdin is empty")


def test_a_url_and_a_file_of_one_are_one_too_many(ctl: Ctl) -> None:
    ran = ctl("gateway", "--enrollment-url", URL, "--enrollment-url-file", "-")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == "error: --enrollment-url and --enrollment-url-file are both given"
    assert "canary" not in ran.err


@pytest.mark.parametrize("what", [nothing, enrolled, running, retrying, killed, expired, foreign])
def test_status_for_people(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, what: Any) -> None:
    data = what()
    monkeypatch.setattr(stored, "status", lambda _state_dir: data)
    ran = ctl("gateway-status")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == snapshot


def test_status_for_programmes(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    data = running()
    monkeypatch.setattr(stored, "status", lambda _state_dir: data)
    assert json.loads(ctl("gateway-status", "-o", "json").out) == data
    assert json.loads(ctl("gateway-status", "-o", "jsonl").out) == data
    assert yaml.safe_load(ctl("gateway-status", "-o", "yaml").out) == data
    assert ctl("gateway-status", "-o", "name").out == "edge-ab12cd34\n"


def test_status_without_a_gateway(ctl: Ctl, tmp_path: Path) -> None:
    """The real files, a state directory that does not exist: no error, and nothing is created."""
    ran = ctl("gateway-status", "-o", "json")
    assert (ran.code, json.loads(ran.out)["enrolled"]) == (0, False)
    assert ctl("gateway-status").out.splitlines()[0] == "agent          not running"
    assert not (tmp_path / "state").exists()


def test_status_says_what_is_wrong_with_the_stored_state_and_how_to_mend_it(ctl: Ctl, tmp_path: Path) -> None:
    creds = tmp_path / "state/gateway-agent/agent-creds.json"
    creds.parent.mkdir(parents=True)
    creds.write_text("{}")
    creds.chmod(0o644)
    ran = ctl("gateway-status")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-2:] == [
        f"problem: {creds} can be read by other users: its mode is 0644 and it holds this gateway's credentials",
        f"    fix: chmod 600 {creds}",
    ]


def test_credentials_that_others_may_read_stop_the_gateway(ctl: Ctl, tmp_path: Path) -> None:
    creds = tmp_path / "state/gateway-agent/agent-creds.json"
    creds.parent.mkdir(parents=True)
    creds.write_text("{}")
    creds.chmod(0o640)
    ran = ctl("gateway")
    assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (1, "", f"hint: chmod 600 {creds}")


def test_a_failure_of_status_is_an_error_of_three_lines(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_state_dir: Path) -> dict[str, Any]:
        raise errors.StateDirUnusable("credentials.json is not JSON")

    monkeypatch.setattr(stored, "status", broken)
    assert ctl("gateway-status") == (1, "", "error: credentials.json is not JSON\n")
