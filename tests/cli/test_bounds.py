"""What a server says may be of any length, speed and shape: a command ends in bounds, in words, and never as a bug."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcpg.cli.answers import ANSWER_MAX, Unbounded, parsed, unpacked, whole
from mcpg.cli.client import Api
from mcpg.cli.ladder import Live
from mcpg.cli.render import is_size
from mcpg.errors import Unreachable

from .fake import GATEWAYS, HAPPY, OPERATION, Answer, Ctl, Fake, data, operation, step, stream
from .test_hostile import ANSWERS, HISTORY, ONE

WRONG: tuple[Any, ...] = ("text", 7, -1e300, 10**400, True, [1], ["a"], [[]], {"a": 1}, {"a": [{}]}, None)


def wrong(said: Any, value: Any, *, depth: int) -> Any:
    """*said* with every field *depth* levels down replaced by *value*."""
    if isinstance(said, list):
        return [wrong(each, value, depth=depth) for each in said]
    if isinstance(said, dict):
        return {key: value if depth == 0 else wrong(each, value, depth=depth - 1) for key, each in said.items()}
    return said


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("words", ANSWERS)
def test_no_wrong_type_is_a_bug_of_the_command(acme: Ctl, fake: Fake, words: str, depth: int) -> None:
    for value in WRONG:
        for (method, path), body in ANSWERS[words].items():
            fake.says(method, path, data(wrong(plain(body()), value, depth=depth)))
        ran = acme(*words.split())
        assert ran.code in (0, 6), (value, ran.err)
        assert "this is a bug" not in ran.err
        assert ran.code == 0 or (ran.out == "" and fake.url in ran.err), value


def plain(said: Any) -> Any:
    """Wire types as JSON has them."""
    return json.loads(json.dumps(said, default=lambda each: each.model_dump(mode="json")))


READ = ("cluster list", "cluster show x", "cluster health", "instance list", "instance show x", "operation list")


@pytest.mark.parametrize("words", [*READ, "operation show x", "provision history", "machine show x"])
def test_json_is_printed_whatever_its_fields_hold(acme: Ctl, fake: Fake, words: str) -> None:
    for value in WRONG:
        for (method, path), body in ANSWERS[words].items():
            fake.says(method, path, data(wrong(plain(body()), value, depth=0)))
        ran = acme(*words.split(), "-o", "json")
        assert (ran.code, ran.json is not None) == (0, True), (value, ran.err)


@pytest.mark.parametrize("field", ["seq", "phase", "offset_ms", "data", "coords", "message", "operation_id", "at"])
def test_no_wrong_type_in_an_event_is_a_bug_of_the_command(acme: Ctl, fake: Fake, field: str) -> None:
    for value in WRONG:
        event = {
            "operation_id": OPERATION,
            "seq": 4,
            "phase": "ready",
            "state": "ready",
            "offset_ms": 1.0,
            field: value,
        }
        last = f"id: 4\nevent: ready\ndata: {json.dumps(event)}\n\n".encode()
        fake.says("POST", GATEWAYS, stream(HAPPY[0], last, step(5, "ready")))
        fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation()))
        fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}/events", stream(step(5, "ready")))
        ran = acme("provision", "create", "--name", "edge-1")
        assert ran.code in (0, 1, 6), (value, ran.err)
        assert "this is a bug" not in ran.err, value


STRANGE = {
    "NaN": b'{"id": NaN}',
    "Infinity": b'{"id": -Infinity}',
    "too large": b'{"id": 1e999}',
    "5000 digits": b'{"id": ' + b"9" * 5000 + b"}",
    "deep": b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_json_for_others_is_none_here(acme: Ctl, fake: Fake, strange: str, output: str) -> None:
    fake.says("GET", ONE, Answer(STRANGE[strange]))
    ran = acme("operation", "show", OPERATION, "-o", output)
    assert (ran.code, ran.out, "is not a control plane" in ran.err) == (6, "", True)


@pytest.mark.parametrize("nested", range(300, 1000, 50))
def test_json_that_is_nearly_too_deep_is_no_bug(acme: Ctl, fake: Fake, nested: int) -> None:
    fake.says("GET", ONE, Answer(b'{"id": ' + b"[" * nested + b"]" * nested + b"}"))
    for output in ("json", "yaml", "table"):
        ran = acme("operation", "show", OPERATION, "-o", output)
        assert (ran.code in (0, 6), "this is a bug" in ran.err) == (True, False)


@pytest.mark.parametrize("charset", ["base64", "rot13", "utf-16", "punycode", "x" * 5000])
def test_json_is_utf_8_whatever_its_header_says(acme: Ctl, fake: Fake, charset: str) -> None:
    kind = f"application/json; charset={charset}"
    fake.says("GET", ONE, data(operation(history=HISTORY), content_type=kind))
    assert acme("operation", "show", OPERATION).code == 0
    events = stream(*HAPPY)._replace(content_type=f"text/event-stream; charset={charset}")
    fake.says("POST", GATEWAYS, events)
    assert acme("provision", "create", "--name", "edge-1").code == 0


@pytest.mark.parametrize("field", ["title", "detail", "hint", "details", "request_id"])
def test_a_refusal_of_wrong_types_is_still_a_refusal(acme: Ctl, fake: Fake, field: str) -> None:
    for value in (7, [1], {"a": 1}, None, {"gateways": 7, "allowed": {}}):
        problem = {"code": "cluster_in_use", "title": "no", field: value}
        fake.says("DELETE", "/v1/admin/clusters/x", data(problem, status=409))
        ran = acme("cluster", "decommission", "x")
        assert (ran.code in (5, 6), "this is a bug" in ran.err) == (True, False), (value, ran.err)


@pytest.mark.parametrize("said", ["²", "-5", "0", "", "9" * 5000, "٣"])
def test_a_width_that_is_no_width_is_ignored(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setenv("LINES", said)
    assert (is_size(said), is_size("132")) == (False, True)
    live = Live("create edge-1")
    live.begin(OPERATION)
    live.close()


def test_a_packed_answer_is_unpacked(acme: Ctl, fake: Fake) -> None:
    packed = Answer(gzip.compress(json.dumps(operation()).encode()), headers={"content-encoding": "gzip"})
    fake.says("GET", ONE, packed)
    assert acme("operation", "show", OPERATION, "-o", "json").json == operation()


@pytest.mark.parametrize("packing", ["gzip", "br", "gzip, gzip"])
def test_an_answer_that_swells_is_refused(acme: Ctl, fake: Fake, packing: str) -> None:
    bomb = gzip.compress(b" " * (ANSWER_MAX + 1), 9)
    assert len(bomb) < 100_000
    fake.says("GET", ONE, Answer(bomb, headers={"content-encoding": packing}))
    ran = acme("operation", "show", OPERATION)
    assert (ran.code, ran.out, "is not a control plane" in ran.err) == (6, "", True)


def test_a_packed_answer_comes_in_small_pieces() -> None:
    assert max(map(len, unpacked([gzip.compress(b" " * 10_000_000)], "gzip"))) <= 64 * 1024


def test_an_answer_is_read_as_far_as_its_bounds() -> None:
    assert whole([b"ab", b"c"], "", end=float("inf"), most=3) == b"abc"
    with pytest.raises(Unbounded):
        whole([b"ab", b"c", b"d"], "", end=float("inf"), most=3)
    with pytest.raises(Unbounded, match="does not end"):
        whole([b"a"], "", end=0.0)
    assert parsed(b"\xff") is None


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that says *head*, then a byte at a time until its client leaves."""
    stopped = threading.Event()

    def drip(sock: socket.socket) -> None:
        connection, _ = sock.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(head)
                while not stopped.wait(0.02):
                    connection.sendall(b" ")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=drip, args=(sock,))
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        stopped.set()
        thread.join()


def test_an_answer_that_drips_is_given_up() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"
    with dripping(head) as url:
        api = Api(url, answer_s=0.2)
        with pytest.raises(Unreachable, match="is not a control plane") as caught:
            api.item("v1")
        api.close()
    assert "an answer that does not end" in caught.value.cause
