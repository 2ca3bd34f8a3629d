"""`gateway` hands settings.Agent over; `gateway-status` prints what mcpg/agent/status.py says."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.agent import status as stored

from .fake import Ctl

STATUS = {
    "enrolled": True,
    "instance_uid": "edge-ab12cd34",
    "endpoint": "http://127.0.0.1:7844",
    "registered_at": "2026-11-22T10:21:07Z",
    "lkg": {"config_hash": "9c41d2", "stored_at": None},
    "valid": True,
}


def test_the_agent_gets_flag_then_environment_then_default(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []
    module = types.ModuleType("mcpg.agent.gateway")
    module.run_gateway = lambda settings: got.append(settings) or 9  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcpg.agent.gateway", module)
    monkeypatch.setenv("MCPG_INSTANCE_UID", "from-env")
    monkeypatch.setenv("MCPG_ENROLLMENT_URL", "http://h/enroll/v1#token=ENROL-x")
    ran = ctl("gateway", "--instance-uid", "from-flag")
    assert (ran.code, ran.out) == (9, "")
    assert [(each.instance_uid, each.enrollment_url, each.cp_grpc) for each in got] == [
        ("from-flag", "http://h/enroll/v1#token=ENROL-x", "http://127.0.0.1:7844")
    ]


@pytest.mark.parametrize("output", ["table", "json", "yaml", "name", "jsonl"])
def test_status(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, output: str) -> None:
    monkeypatch.setattr(stored, "status", lambda _state_dir: STATUS)
    ran = ctl("gateway-status", "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == snapshot


def test_status_without_a_gateway(ctl: Ctl, tmp_path: Path) -> None:
    """The real credentials module, a state directory that does not exist: no error, and nothing is created."""
    ran = ctl("gateway-status", "-o", "json")
    assert (ran.code, json.loads(ran.out)["enrolled"]) == (0, False)
    assert ctl("gateway-status").out.splitlines()[0] == f"no gateway has enrolled with {tmp_path / 'state'}"
    assert not (tmp_path / "state").exists()


def test_status_says_what_is_wrong_with_the_stored_state(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_state_dir: Path) -> dict[str, Any]:
        raise errors.StateDirUnusable("credentials.json is not JSON")

    monkeypatch.setattr(stored, "status", broken)
    assert ctl("gateway-status") == (1, "", "error: credentials.json is not JSON\n")
