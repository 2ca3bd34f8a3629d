"""An older or a newer control plane: said once, on stderr; and a route it does not know is not a thing that is not there."""

from __future__ import annotations

import json

import pytest

from mcpg import errors

from .bodies import clusters, instance
from .fake import GATEWAYS, HAPPY, OPERATION, UID, Ctl, Fake, data, operation, refusal, stream


@pytest.mark.parametrize(
    ("version", "age"), [("0.0.9", "older"), ("0.2.0", "newer"), ("1.0", "newer"), ("0.10.1-rc.1", "newer")]
)
@pytest.mark.parametrize("output", ["table", "json"])
def test_another_release_is_noted_once(acme: Ctl, fake: Fake, version: str, age: str, output: str) -> None:
    fake.says("GET", "/v1/clusters", data(clusters(), headers={"mcpg-version": version}))
    ran = acme("cluster", "list", "-o", output)
    note = f"note: the control plane at {fake.url} is {version}, {age} than this mcpg-ctl 0.1.0\n"
    assert (ran.code, ran.err, "note" in ran.out) == (0, note, False)


@pytest.mark.parametrize("version", ["0.1.0", "0.1.7", "", "x", "0", "0.x", "9" * 5000 + ".1"])
def test_the_same_release_or_none_is_not_worth_a_word(acme: Ctl, fake: Fake, version: str) -> None:
    fake.says("GET", "/v1/clusters", data(clusters(), headers={"mcpg-version": version}))
    assert acme("cluster", "list").err == ""


def test_several_requests_of_one_run_note_it_once(acme: Ctl, fake: Fake) -> None:
    old = {"mcpg-version": "0.0.9"}
    fake.says("POST", GATEWAYS, stream(*HAPPY)._replace(headers={**old, "x-operation-id": OPERATION}))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation(), headers=old))
    assert acme("provision", "create", "--name", "edge-1").err.count("older than this mcpg-ctl") == 1


def test_with_json_logs_the_note_is_an_object(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/clusters", data(clusters(), headers={"mcpg-version": "0.0.9"}))
    line = json.loads(acme("cluster", "list", "--json-logs").err)
    assert (line["level"], line["event"], "older than this mcpg-ctl" in line["message"]) == (
        "warning",
        "version_skew",
        True,
    )


def no_route(version: str, route: str) -> errors.McpgError:
    return errors.NotFound(f"Requested URL {route} not found", route=route)


@pytest.mark.parametrize(
    ("version", "what"),
    [
        ("0.0.9", "error: this control plane (0.0.9) is older than mcpg-ctl 0.1.0 and does not know this"),
        ("0.1.0", "error: this control plane (0.1.0) does not know this"),
        ("0.2.0", "error: this control plane (0.2.0) does not know this"),
    ],
)
def test_a_route_that_is_not_there_is_no_thing_that_is_not_there(
    acme: Ctl, fake: Fake, version: str, what: str
) -> None:
    """Exit 1, not 3: a script that asks whether a cluster exists must not read "no" out of it."""
    said = refusal(no_route(version, "/v1/clusters/x"))._replace(headers={"mcpg-version": version})
    fake.says("GET", "/v1/clusters/x", said)
    ran = acme("cluster", "show", "x")
    lines = [line for line in ran.err.splitlines() if not line.startswith("note:")]
    assert (ran.code, lines[:2], lines[2].startswith("hint:  ")) == (
        1,
        [what, "cause: it has no route /v1/clusters/x"],
        True,
    )


def test_ignore_not_found_does_not_ignore_a_missing_route(acme: Ctl, fake: Fake) -> None:
    path = f"{GATEWAYS}/{UID}"
    delete = ("provision", "delete", "--instance-uid", UID, "--yes", "--ignore-not-found")
    fake.says("GET", f"/v1/instances/{UID}", data(instance()))
    fake.says("DELETE", path, refusal(errors.NotFound("no instance")), refusal(no_route("0.1.0", path)))
    assert acme(*delete) == (0, f"{UID}  is not there\n", "")
    assert acme(*delete).code == 1


@pytest.mark.parametrize(
    ("cookie", "sent"), [("", "no credential"), ("c4n4ry", "the session cookie from MCPG_SESSION_COOKIE")]
)
def test_an_expired_session_says_what_was_sent_and_what_to_do(
    acme: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch, cookie: str, sent: str
) -> None:
    monkeypatch.setenv("MCPG_SESSION_COOKIE", cookie)
    fake.says("GET", "/v1/clusters", refusal(errors.NotSignedIn("sign in first", cause="the session has ended")))
    ran = acme("cluster", "list")
    assert (ran.code, ran.out, "c4n4ry" in ran.err) == (4, "", False)
    assert ran.err.splitlines()[0] == "error: sign in first"
    assert sent in ran.err.splitlines()[1]
    assert ran.err.splitlines()[2].startswith("hint:  mcpg-ctl login")
