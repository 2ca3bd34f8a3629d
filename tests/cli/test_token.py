"""`token create|list|revoke`: the secret is on stdout once, and nowhere else."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from .bodies import SECRET, before, masked, minted, token
from .fake import Ctl, Fake, data

TOKENS = "/v1/orgs/acme/workspaces/prod/environments/us/enrollment-tokens"


@pytest.mark.parametrize("output", ["table", "wide", "name"])
def test_create_prints_the_url_alone_and_says_that_it_is_a_secret(acme: Ctl, fake: Fake, output: str) -> None:
    fake.says("POST", TOKENS, data(minted(), status=201))
    ran = acme("token", "create", "-o", output)
    note = "note: the URL is a secret and is shown this once; it enrols once until 2026-11-22T10:21:07.000Z\n"
    assert ran == (0, f"{SECRET}\n", note)


def test_create_in_json_is_the_servers_answer(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", TOKENS, data(minted(), status=201))
    assert acme("token", "create", "-o", "json").json == minted()


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        ("", {"ttl_ms": 3600, "max_uses": 1, "one_shot": True}),
        ("--ttl 15m --max-uses 20", {"ttl_ms": 900, "max_uses": 20, "one_shot": False}),
        ("--ttl 90", {"ttl_ms": 90, "max_uses": 1, "one_shot": True}),
        (
            "--ttl 30d --instance-uid h1",
            {"ttl_ms": 2592000, "max_uses": 1, "one_shot": True, "expected_instance_uid": "h1"},
        ),
    ],
)
def test_what_is_sent(acme: Ctl, fake: Fake, argv: str, body: dict[str, object]) -> None:
    """`ttl_ms` is in seconds, whatever its name says."""
    fake.says("POST", TOKENS, data(minted(), status=201))
    acme("token", "create", *argv.split())
    assert fake.asked[0].body == body


@pytest.mark.parametrize("ttl", ["0", "0s", "31d", "-1m", "1w", "m", "1.5h", "١m", "s", "9" * 30, "9" * 5000])
def test_a_time_that_cannot_be_is_refused_before_anything_is_sent(acme: Ctl, fake: Fake, ttl: str) -> None:
    ran = acme("token", "create", f"--ttl={ttl}")
    assert (ran.code, ran.out, fake.asked) == (2, "", [])
    assert ran.err.splitlines()[1:] == ["cause: a time from 1s to 30d", "hint:  --ttl 15m, 1h or 7d"]


def test_the_list_and_what_is_left_of_each(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    used = token(id="tok-93d0", state="used", use_count=1, instance_uid="host-ab12cd", expires_at=before(hours=1))
    said = [token(), used, token(id="tok-81aa", expected_instance_uid="host-2", max_uses=20, use_count=3)]
    fake.says("GET", TOKENS, data(said))
    ran = acme("token", "list")
    assert (ran.code, ran.err, masked(ran.out)) == (0, "", snapshot)
    assert acme("token", "list", "-o", "json").json == said
    assert acme("token", "list", "-o", "name").out == "tok-7f2e\ntok-93d0\ntok-81aa\n"


def test_an_environment_without_tokens_says_so(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", TOKENS, data([]))
    assert acme("token", "list").out == "no enrolment tokens in acme/prod/us\n"


def test_revoke(acme: Ctl, fake: Fake) -> None:
    fake.says("DELETE", f"{TOKENS}/tok-7f2e", data(token(state="revoked")))
    assert acme("token", "revoke", "tok-7f2e") == (0, "tok-7f2e  revoked\n", "")


def test_a_place_is_needed(ctl: Ctl) -> None:
    ran = ctl("token", "create")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: token create needs --org, --workspace and --env")
