"""`provision create` and `provision delete`: what is sent, what is printed where, how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from mcpg import errors

from .bodies import instance
from .fake import GATEWAYS, HAPPY, OPERATION, UID, Asked, Ctl, Fake, data, operation, refusal, step, stream

CREATE = ("provision", "create", "--name", "edge-1")
DELETE = ("provision", "delete", "--instance-uid", UID, "--yes")
SHOWN = f"/v1/orgs/acme/operations/{OPERATION}"
SHOWN_GATEWAY = f"/v1/instances/{UID}"


@pytest.fixture
def happy(fake: Fake) -> Fake:
    fake.says("POST", GATEWAYS, stream(*HAPPY))
    fake.says("GET", SHOWN, data(operation()))
    return fake


def sent(fake: Fake) -> Asked:
    return fake.asked[0]


def test_the_ladder_goes_to_stderr_and_the_result_to_stdout(
    acme: Ctl, happy: Fake, snapshot: SnapshotAssertion
) -> None:
    ran = acme(*CREATE)
    assert ran.code == 0
    assert ran.err == snapshot(name="ladder")
    assert ran.out == snapshot(name="result")


def test_with_json_logs_each_rung_is_an_object(acme: Ctl, happy: Fake) -> None:
    said = [json.loads(line) for line in acme(*CREATE, "--json-logs").err.splitlines()]
    rungs = [(each["event"], each["operation_id"], each["seq"], each["phase"]) for each in said]
    phases = ("allocating", "applying", "ready")
    assert rungs == [("transition", OPERATION, seq, phase) for seq, phase in enumerate(phases, 1)]


@pytest.mark.parametrize("output", ["table", "wide", "name", "json", "yaml", "jsonl"])
def test_result_in_every_output(acme: Ctl, happy: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    ran = acme(*CREATE, "-o", output)
    assert ran.code == 0
    assert ran.out == snapshot


def test_yaml_and_json_say_the_same(acme: Ctl, happy: Fake) -> None:
    as_json = acme(*CREATE, "-o", "json").json
    assert as_json == yaml.safe_load(acme(*CREATE, "-o", "yaml").out) == json.loads(acme(*CREATE, "-o", "jsonl").out)
    assert as_json["duration_ms"] == 2574.0


def test_only_what_was_given_is_sent(acme: Ctl, happy: Fake) -> None:
    """An absent field keeps its old value in an update."""
    acme(*CREATE)
    assert sent(happy).body == {"name": "edge-1"}


def test_everything_that_was_given_is_sent(acme: Ctl, happy: Fake, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_bytes("a: é\r\nb: 1\n".encode())
    words = "--replicas 2 --size m --region eu --isolation-tier shared --custom-hostname a.b --image-tag v1 --config"
    assert acme(*CREATE, *words.split(), str(config)).code == 0
    assert sent(happy).body == {
        "name": "edge-1",
        "replicas": 2,
        "size": "m",
        "region": "eu",
        "isolation_tier": "shared",
        "custom_hostname": "a.b",
        "image_tag": "v1",
        "config_toml": "a: é\r\nb: 1\n",
    }


def test_each_run_has_its_own_idempotency_key(acme: Ctl, happy: Fake) -> None:
    acme(*CREATE)
    acme(*CREATE)
    acme(*CREATE, "--idempotency-key", "mine")
    keys = [asked.headers["idempotency-key"] for asked in happy.asked if asked.method == "POST"]
    assert (len(keys[0]), len(set(keys)), keys[2]) == (32, 3, "mine")


def test_the_session_is_sent_as_its_cookie_and_never_shown(acme: Ctl, happy: Fake, tmp_path: Path) -> None:
    secret = tmp_path / "sid"
    secret.write_text("c4n4ry\n")
    secret.chmod(0o600)
    by_flag = acme(*CREATE, "--session-cookie", "c4n4ry")
    by_file = acme(*CREATE, "--session-cookie-file", str(secret))
    cookies = {asked.headers.get("cookie") for asked in happy.asked}
    assert (cookies, "c4n4ry" in str((by_flag, by_file))) == ({"mcpg_sid=c4n4ry"}, False)


def test_a_session_file_that_others_can_read_is_refused(acme: Ctl, happy: Fake, tmp_path: Path) -> None:
    secret = tmp_path / "sid"
    secret.write_text("c4n4ry")
    secret.chmod(0o640)
    ran = acme(*CREATE, "--session-cookie-file", str(secret))
    assert (ran.code, f"hint:  chmod 600 {secret}" in ran.err, happy.asked) == (2, True, [])


@pytest.mark.parametrize("value", ["a;b", "a\nb", "é", "a b"])
def test_a_session_that_no_header_can_carry_is_refused_unseen(acme: Ctl, happy: Fake, value: str) -> None:
    ran = acme(*CREATE, "--session-cookie", value)
    assert (ran.code, happy.asked, value in ran.err.replace("can be", "")) == (2, [], False)


def test_every_segment_is_percent_encoded(acme: Ctl, fake: Fake) -> None:
    """Whatever a uid or environment holds, it stays in its place of the path."""
    place = "DELETE /v1/orgs/acme/workspaces/prod/environments/u%2Fs/gateways/"
    tails = {"../../x": "..%2F..%2Fx", "a/b c?x#y%2f": "a%2Fb%20c%3Fx%23y%252f", "..": "%2E%2E", "é": "%C3%A9"}
    for uid, tail in tails.items():
        fake.asked.clear()
        fake.says("GET", f"/v1/instances/{tail}", data(instance(instance_uid=uid, environment="u/s")))
        acme("provision", "delete", "--yes", "--instance-uid", uid, "--env", "u/s")
        assert fake.paths() == [f"GET /v1/instances/{tail}", place + tail]


def test_no_wait_returns_the_operation(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """It must not wait for the end of the stream, which here never comes."""
    fake.says("POST", GATEWAYS, stream(HAPPY[0], then="hang"))
    runs = [acme(*CREATE, "--no-wait", "-o", output) for output in ("table", "name", "json")]
    assert [ran.code for ran in runs] == [0, 0, 0]
    assert "".join(ran.out for ran in runs) == snapshot


def test_no_wait_reads_the_id_from_the_first_event_where_there_is_no_header(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(HAPPY[0], then="hang", operation_id=""))
    assert acme(*CREATE, "--no-wait", "-o", "name") == (0, f"{OPERATION}\n", "")


def test_delete(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    steps = (step(1, "draining"), step(2, "deleting", message="2 processes"), step(3, "deleted"))
    fake.says("GET", SHOWN_GATEWAY, data(instance()))
    fake.says("DELETE", f"{GATEWAYS}/{UID}", stream(*steps))
    gone = operation(kind="delete", state="deleted", final_phase="deleted", duration_ms=1100.0)
    fake.says("GET", SHOWN, data(gone))
    ran = acme(*DELETE)
    assert (ran.code, fake.asked[1].body) == (0, None)
    assert ran.out == snapshot(name="result")
    assert ran.err == snapshot(name="ladder")
    assert acme(*DELETE, "-o", "json").json == snapshot(name="json")


def test_delete_without_a_terminal_needs_yes(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("GET", SHOWN_GATEWAY, data(instance()))
    ran = acme(*DELETE[:-1])
    assert (ran.code, ran.out, fake.paths()) == (2, "", [f"GET {SHOWN_GATEWAY}"])
    assert ran.err == snapshot


@pytest.mark.parametrize(
    ("argv", "ref"), [(("--name", "edge-1"), "edge-1"), (("--instance-uid", UID[:8]), UID[:8])], ids=["name", "prefix"]
)
def test_delete_finds_the_gateway_by_its_name_or_by_the_beginning_of_its_uid(
    acme: Ctl, fake: Fake, argv: tuple[str, ...], ref: str
) -> None:
    fake.says("GET", f"/v1/instances/{ref}", data(instance()))
    fake.says("DELETE", f"{GATEWAYS}/{UID}", stream(step(1, "draining"), step(2, "deleted")))
    ran = acme("provision", "delete", *argv, "--yes", "-o", "json")
    assert (ran.code, ran.json["instance_uid"], ran.json["name"]) == (0, UID, "edge-1")


@pytest.mark.parametrize("argv", [(), ("--name", "edge-1", "--instance-uid", UID)], ids=["neither", "both"])
def test_delete_takes_one_of_name_and_uid(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, argv: list[str]) -> None:
    ran = acme("provision", "delete", *argv, "--yes")
    assert (ran.code, ran.out, fake.asked, ran.err) == (2, "", [], snapshot)


ELSEWHERE = {
    "nowhere": (("--instance-uid", UID), refusal(errors.NotFound(f"no gateway {UID}"))),
    "in another place": (("--name", "edge-1"), data(instance(environment="eu"))),
    "only as a uid": (("--name", "edge-1"), data(instance(name="", instance_uid="edge-1"))),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_gateway_that_is_not_there_is_not_asked_about(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, where: str
) -> None:
    """Exit 3 before any question, so also without a terminal and without --yes."""
    argv, answer = ELSEWHERE[where]
    fake.says("GET", f"/v1/instances/{argv[1]}", answer)
    ran = acme("provision", "delete", *argv)
    assert (ran.code, ran.out, len(fake.asked), ran.err) == (3, "", 1, snapshot)
    gone = acme("provision", "delete", *argv, "--ignore-not-found", "-o", "json")
    assert (gone.code, gone.json["found"], argv[1] in gone.json.values()) == (0, False, True)


def test_a_delete_asked_for_again_with_its_key_reaches_the_server_that_knows_it(acme: Ctl, fake: Fake) -> None:
    """By then the gateway may be gone."""
    fake.says("DELETE", f"{GATEWAYS}/{UID}", stream(step(1, "draining"), step(2, "deleted")))
    fake.says("GET", SHOWN_GATEWAY, refusal(errors.NotFound("no gateway")))
    assert (acme(*DELETE).code, acme(*DELETE, "--idempotency-key", "mine").code) == (3, 0)


def test_no_room_leads_on_with_what_the_server_says(acme: Ctl, fake: Fake) -> None:
    said = {"clusters": [{"name": "local", "reason": "region local ≠ eu"}], "hint": "mcpg-ctl cluster register …"}
    fake.says("POST", GATEWAYS, stream(step(1, "failed", message="no", code="no_capacity", data=said)))
    hint = f"hint:  mcpg-ctl cluster register …      history: mcpg-ctl operation show {OPERATION}"
    assert acme(*CREATE).err.splitlines()[-1] == hint


FAILED = (
    step(1, "allocating", message="create edge-1"),
    step(2, "applying", message="us-east-shared-1"),
    step(3, "rolling_back", reason="replica 1 refused config 51be07"),
    step(4, "rolling_back", message="removed 2 replicas, released 2 places"),
    step(
        5,
        "failed",
        message="the gateway refused its config",
        reason="unknown field `no_such_key` (gateway's own words, replica 1)",
        code="unparseable_config",
    ),
)


@pytest.mark.parametrize(
    ("code", "expected"), [("no_capacity", 7), ("unparseable_config", 2), ("failed", 1), ("", 1), ("from_2031", 1)]
)
def test_a_failure_exits_with_the_code_of_its_reason(acme: Ctl, fake: Fake, code: str, expected: int) -> None:
    fake.says("POST", GATEWAYS, stream(step(1, "allocating"), step(2, "failed", message="no", code=code)))
    ran = acme(*CREATE, "-o", "json")
    assert (ran.code, ran.out, ran.error["code"]) == (expected, "", code or "failed")


def test_what_a_failure_says(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("POST", GATEWAYS, stream(*FAILED))
    fake.says("GET", SHOWN, data(operation(final_phase="failed", state="failed", error="x")))
    ran = acme(*CREATE)
    assert ran.out == ""
    assert ran.err == snapshot(name="lines")
    assert acme(*CREATE, "-o", "json").error == snapshot(name="json")


def test_a_reason_that_is_the_message_is_said_once(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(step(1, "failed", message="it fell", reason="it fell")))
    assert acme(*CREATE).err.count("it fell") == 2  # the ladder's line and the error's


def test_a_paused_operation_is_still_pending(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """The stream ends there in good order: nothing comes until an operator decides, and nothing is asked again."""
    fake.says("POST", GATEWAYS, stream(step(1, "applying"), step(2, "paused", message="tried 5 times")))
    ran = acme(*CREATE)
    assert (ran.code, ran.out, ran.err) == (8, "", snapshot)
    assert fake.paths() == [f"POST {GATEWAYS}", f"GET {SHOWN}"]


def test_a_cancelled_operation_is_a_failure(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(step(1, "allocating"), step(2, "cancelled", reason="by ada")))
    ran = acme(*CREATE)
    assert (ran.code, ran.err.splitlines()[-3:-1]) == (
        1,
        ["error: edge-1 was not created: somebody cancelled it", "cause: by ada"],
    )


REFUSALS = [
    (errors.BadSpec("replicas is out of range"), 2),
    (errors.NotFound("there is no org acme"), 3),
    (errors.NotSignedIn("sign in first", cause="the session has ended", hint="mcpg-ctl login --issuer URL"), 4),
    (errors.Forbidden("not allowed"), 4),
    (errors.NameTaken("edge-1 is taken", cause="by acme/dev/us", hint="--name edge-2", holder="x"), 5),
    (errors.NoCapacity("no cluster can take edge-1", cause="local: full"), 7),
    (errors.NoProvisioner("this control plane has no provisioner"), 1),
    (errors.Unavailable("stopping"), 6),
]


@pytest.mark.parametrize(("error", "expected"), REFUSALS, ids=lambda each: getattr(each, "code", None))
def test_a_refusal_keeps_its_words_and_its_exit_code(
    acme: Ctl, fake: Fake, error: errors.McpgError, expected: int
) -> None:
    fake.says("POST", GATEWAYS, refusal(error))
    ran = acme(*CREATE, "-o", "json")
    said = ran.error
    assert (ran.code, ran.out, said["code"]) == (expected, "", error.code)
    assert (said["message"], said["hint"], said["request_id"]) == (error.what, error.hint, "req-1")
    assert (said["details"], said["cause"].startswith(error.cause)) == (error.details, True)


def test_a_success_that_is_no_stream_did_not_come_from_a_control_plane(acme: Ctl, fake: Fake) -> None:
    """And it is not tried again: something answered, it only was not ours."""
    fake.says("POST", GATEWAYS, data({"ok": True}))
    ran = acme(*CREATE)
    assert (ran.code, ran.out, "is not a control plane" in ran.err, len(fake.asked)) == (6, "", True, 1)


def test_who_is_not_signed_in_learns_what_was_tried(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("POST", GATEWAYS, refusal(errors.NotSignedIn("sign in first", cause="the session has ended")))
    nothing = acme(*CREATE).err
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "c4n4ry")
    assert nothing + acme(*CREATE).err == snapshot


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BAD = [
    ["--name", "Edge_1"],
    ["--name", "-edge"],
    ["--name", "edge-"],
    ["--name", "e"],
    ["--name", "e" * 41],
    ["--org", "../admin"],
    ["--workspace", "a b"],
    ["--cp-url", "127.0.0.1:7843"],
    ["--cp-url", "ftp://h"],
    ["--cp-url", "http://h:99999"],
    ["--cp-url", "http://h/?x=1"],
    ["--idempotency-key", "a\tb"],
    ["--idempotency-key", "k" * 201],
    ["--config", "missing.yaml"],
    ["--config", "folder"],
    ["--config", "bytes.yaml"],
    ["--config", "empty.yaml"],
    ["--config", "large.yaml"],
    ["--session-cookie-file", "missing"],
]


@pytest.mark.parametrize("argv", BAD, ids=lambda argv: f"{argv[0]} {argv[1][:20]!r}")
@pytest.mark.usefixtures("in_tmp_path")
def test_bad_input_is_refused_before_anything_is_sent(
    acme: Ctl, happy: Fake, snapshot: SnapshotAssertion, argv: list[str]
) -> None:
    Path("folder").mkdir()
    Path("bytes.yaml").write_bytes(b"a: \xff\n")
    Path("empty.yaml").write_bytes(b" \n")
    Path("large.yaml").write_bytes(b"#" * (3 * 1024 * 1024 + 1))
    ran = acme(*CREATE, *argv)
    assert (ran.code, ran.out, happy.asked) == (2, "", [])
    assert ran.err == snapshot


def test_the_config_may_come_from_stdin(acme: Ctl, happy: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: 1\n")))
    assert acme(*CREATE, "--config", "-").code == 0
    assert sent(happy).body["config_toml"] == "a: 1\n"


def test_an_unreadable_config_says_why(acme: Ctl, happy: Fake, tmp_path: Path) -> None:
    socket = tmp_path / "fifo"
    os.mkfifo(socket)
    socket.unlink()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    ran = acme(*CREATE, "--config", str(loop))
    assert (ran.code, "Too many levels of symbolic links" in ran.err) == (2, True)


def test_a_terminal_never_obeys_the_server(acme: Ctl, fake: Fake) -> None:
    """Escapes, other controls and directional overrides are gone from what people see; JSON has them escaped."""
    evil = "a\x1b[31mb\x9b2Jc\u202ed\u2066e\r\nf\x07"
    fake.says("POST", GATEWAYS, stream(step(1, "allocating", message=evil), step(2, "failed", message=evil)))
    ran = acme(*CREATE)
    assert [char for char in ran.err if ord(char) < 32 and char != "\n"] == []
    assert ("a[31mb2Jcde  f" in ran.err, set(ran.err) & set("\x9b\u202e\u2066")) == (True, set())
    assert acme(*CREATE, "-o", "json").error["message"].endswith(evil)
