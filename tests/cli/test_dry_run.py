"""`provision create --dry-run`: what would be done, or the refusal; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors

from .bodies import instance, plan
from .fake import GATEWAYS, Ctl, Fake, data, refusal

VALIDATE = f"{GATEWAYS}/validate"
DRY = ("provision", "create", "--name", "edge-1", "--dry-run")


def test_a_creation(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("POST", VALIDATE, data(plan()))
    ran = acme(*DRY, "--replicas", "2", "--size", "m")
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert fake.paths() == [f"POST {VALIDATE}"]
    assert fake.asked[0].body == {"name": "edge-1", "replicas": 2, "size": "m"}


@pytest.mark.parametrize("has_config", [False, True])
def test_an_update_says_what_would_change(
    acme: Ctl, fake: Fake, tmp_path: Path, snapshot: SnapshotAssertion, has_config: bool
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("a: 1\n")
    fake.says("POST", VALIDATE, data(plan(action="update")))
    fake.says("GET", "/v1/orgs/acme/instances", data([instance(name="other"), instance()]))
    ran = acme(*DRY, *(("--config", str(config)) if has_config else ()))
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert fake.paths() == [f"POST {VALIDATE}", "GET /v1/orgs/acme/instances"]


def test_json_is_the_servers_plan(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", VALIDATE, data(plan()))
    assert acme(*DRY, "-o", "json").json == plan()


def test_an_older_server_says_nothing_of_the_room_after_it(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", VALIDATE, data({key: value for key, value in plan().items() if key != "after"}))
    assert "then" not in acme(*DRY).out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NoCapacity("no cluster can take edge-1", cause="local: full"), 7),
        (errors.NameTaken("edge-1 is taken"), 5),
    ],
    ids=["no room", "name"],
)
def test_the_refusal_that_a_creation_would_get(acme: Ctl, fake: Fake, error: errors.McpgError, code: int) -> None:
    fake.says("POST", VALIDATE, refusal(error))
    ran = acme(*DRY)
    assert (ran.code, ran.out, ran.err.splitlines()[0]) == (code, "", f"error: {error.what}")
