"""A server may say anything: no command lets a terminal obey it, and a reader that leaves ends it quietly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mcpg import errors
from tests.bounds import BOUND_S

from . import bodies
from .fake import GATEWAYS, HAPPY, OPERATION, UID, Answer, Ctl, Fake, data, end, operation, refusal, step, stream
from .test_watch import happened

EVIL = "a\x1b[31mb\x9b2Jc\u202ed\u2066e\r\nf\x07\x1b]0;title\x07g\u200fh"
KEEP = (
    "id",
    "instance_uid",
    "org",
    "running",
    "final_phase",
    "phase",
    "operation_id",
    "at",
    "mermaid",
)  # paths and moves
ONE = f"/v1/operations/{OPERATION}"
TOKENS = "/v1/orgs/acme/workspaces/prod/environments/us/enrollment-tokens"


def evil(said: Any, key: str = "") -> Any:
    """*said* with everything that is text made hostile, but what the command itself goes by."""
    if isinstance(said, dict):
        return {name: evil(value, name) for name, value in said.items()}
    if isinstance(said, list):
        return [evil(each, key) for each in said]
    return EVIL if isinstance(said, str) and key not in KEEP else said


HISTORY = bodies.moves()
ANSWERS: dict[str, dict[tuple[str, str], Callable[[], Any]]] = {
    "cluster list": {("GET", "/v1/clusters"): bodies.clusters},
    "cluster list -o wide": {("GET", "/v1/clusters"): bodies.clusters},
    "cluster list -o name": {("GET", "/v1/clusters"): bodies.clusters},
    "cluster show x": {("GET", "/v1/clusters/x"): lambda: bodies.cluster(history=HISTORY)},
    "cluster health": {("GET", "/v1/clusters/health"): lambda: bodies.health(bodies.critical(), bodies.warning())},
    "cluster drain x": {("POST", "/v1/admin/clusters/x/drain"): bodies.cluster},
    "cluster decommission x": {("DELETE", "/v1/admin/clusters/x"): lambda: bodies.cluster(orphaned=[bodies.EDGE])},
    "instance list": {("GET", "/v1/instances"): lambda: [bodies.instance(), bodies.orphan()]},
    "instance list -o wide": {("GET", "/v1/instances"): lambda: [bodies.instance(), bodies.orphan()]},
    "instance show x": {("GET", "/v1/instances/x"): bodies.instance},
    "token list": {("GET", TOKENS): lambda: [bodies.token()]},
    "token create": {("POST", TOKENS): bodies.minted},
    "token revoke x": {("DELETE", f"{TOKENS}/x"): bodies.token},
    "operation list": {("GET", "/v1/operations"): lambda: [operation()]},
    "operation list -o wide": {("GET", "/v1/operations"): lambda: [operation()]},
    "operation show x": {("GET", "/v1/operations/x"): lambda: operation(history=HISTORY, error="e")},
    "operation show x -o wide": {("GET", "/v1/operations/x"): lambda: operation(history=HISTORY, error="e")},
    "provision history": {("GET", "/v1/orgs/acme/operations"): lambda: [operation()]},
    "provision history -v": {("GET", "/v1/orgs/acme/operations"): lambda: [operation(history=HISTORY)]},
    "provision create --name edge-1 --dry-run": {
        ("POST", f"{GATEWAYS}/validate"): lambda: bodies.plan(action="update"),
        ("GET", "/v1/orgs/acme/instances"): lambda: [bodies.instance()],
    },
    "machine list": {("GET", "/v1/machines"): bodies.machines},
    "machine show x": {("GET", "/v1/machines/x"): bodies.machine},
}


def is_harmless(text: str) -> bool:
    controls = [char for char in text if (ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0]
    return not controls and not set(text) & set("\u202e\u2066\u200f")


@pytest.mark.parametrize("words", ANSWERS)
def test_no_name_from_the_server_is_obeyed(acme: Ctl, fake: Fake, words: str) -> None:
    for (method, path), body in ANSWERS[words].items():
        fake.says(method, path, data(evil(body())))
    ran = acme(*words.split())
    assert (ran.code, is_harmless(ran.out), is_harmless(ran.err)) == (0, True, True)


@pytest.mark.parametrize("words", ANSWERS)
def test_no_refusal_from_the_server_is_obeyed(acme: Ctl, fake: Fake, words: str) -> None:
    held = [evil(bodies.EDGE.model_dump())]
    error = errors.Refused(EVIL, cause=EVIL, hint=EVIL, gateways=held, allowed=[EVIL], state=EVIL)
    error.code = "cluster_in_use"
    for method, path in ANSWERS[words]:
        fake.says(method, path, refusal(error, request_id=EVIL))
    ran = acme(*words.split())
    assert (ran.code, ran.out, is_harmless(ran.err)) == (5, "", True)


def test_no_ladder_is_obeyed(acme: Ctl, fake: Fake) -> None:
    events = (
        step(1, "allocating", message=EVIL, reason=EVIL),
        step(2, EVIL, message=EVIL, actor=EVIL),
        step(3, "ready", message=EVIL, coords={"instance_uid": EVIL, "endpoints": [EVIL]}),
    )
    said = evil(operation())
    fake.says("POST", GATEWAYS, stream(*events))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(said))
    fake.says("GET", ONE, data(said))
    fake.says("GET", f"{ONE}/events", stream(*events, end(3, "ready", ok=True)))
    lines = ("provision create --name edge-1", f"operation attach {OPERATION} -o wide", f"operation watch {OPERATION}")
    for words in lines:
        ran = acme(*words.split())
        assert (ran.code, is_harmless(ran.out), is_harmless(ran.err)) == (0, True, True)
    fake.says("GET", "/v1/events", stream(happened(1, message=EVIL, name=EVIL, kind=EVIL, actor=EVIL), then="hang"))
    for output in ("table", "wide", "name"):
        assert is_harmless(acme("operation", "watch", "--timeout", "0.3", "-o", output).out)


def test_no_diagram_is_obeyed(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/machines/x", data(bodies.machine() | {"mermaid": f"a\n  {EVIL}\n"}))
    assert is_harmless(acme("machine", "show", "x", "-o", "mermaid").out)


MANY: dict[str, tuple[str, Any]] = {
    "cluster list": ("/v1/clusters", [bodies.cluster(f"c-{number}") for number in range(3000)]),
    "instance list": ("/v1/instances", [bodies.instance()] * 3000),
    "operation list": ("/v1/operations", [operation()] * 3000),
    "token list": (TOKENS, [bodies.token()] * 3000),
    "machine list": ("/v1/machines", bodies.machines() * 3000),
}


@pytest.mark.parametrize("words", MANY)
def test_a_reader_that_leaves_ends_a_list_quietly(fake: Fake, words: str) -> None:
    path, said = MANY[words]
    fake.says("GET", path, data(said))
    command = [sys.executable, "-m", "mcpg.cli.main", *words.split(), "--org", "acme"]
    if words.startswith("token"):
        command += ["--workspace", "prod", "--env", "us"]
    if words.startswith(("cluster", "machine")):
        command = command[:-2]
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "MCPG_CP_URL": fake.url}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(BOUND_S)) == ("", 141)


BROKEN = [Answer(b"<h1>hi", content_type="text/html"), data("x"), data(None), data([1]), Answer(b"{", 200)]


@pytest.mark.parametrize("answer", BROKEN, ids=["html", "text", "null", "numbers", "half"])
@pytest.mark.parametrize("words", ANSWERS)
def test_what_is_no_answer_of_ours_is_said_to_be_none(acme: Ctl, fake: Fake, words: str, answer: Answer) -> None:
    for method, path in ANSWERS[words]:
        fake.says(method, path, answer)
    ran = acme(*words.split())
    assert (ran.code, ran.out, "is not a control plane" in ran.err) == (6, "", True)


def test_the_fixtures_are_hostile() -> None:
    """Otherwise all of the above proves nothing."""
    assert not is_harmless(evil(bodies.cluster())["name"])
    assert (UID, len(HAPPY)) == (bodies.instance()["instance_uid"], 3)
