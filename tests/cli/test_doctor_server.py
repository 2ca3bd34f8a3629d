"""`doctor` on ports and on the control plane at the URL: each check made to fail for real, and to pass."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from mcpg.cli import ports
from tests.ports import free_port

from .doctoring import *  # noqa: F403  fixtures
from .doctoring import META, NOBODY, Examine, Said, stored
from .fake import SILENT, Answer, Ctl, Fake, data, stream

COMM = Path("/proc/self/comm").read_text().strip()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port on which nobody listens."""
    return free_port()


Card = Callable[..., None]


@pytest.fixture
def card(state: Path, fake: Fake, taken: int) -> Card:
    """Writes server.json for a control plane that is this process: HTTP on the fake's port, gRPC on `taken`."""
    fake.says("GET", "/v1/meta", data(META))
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])

    def write(**more: object) -> None:
        state.mkdir(exist_ok=True, mode=0o700)
        facts = {"pid": os.getpid(), "start_ticks": ticks, "http_url": fake.url, "replica": "r-1", "auth_mode": "none"}
        facts |= {"grpc_url": f"http://127.0.0.1:{taken}"}
        (state / "server.json").write_text(json.dumps(facts | more))

    return write


# ---- ports


@pytest.mark.parametrize(("check", "flag"), [("port-http", "--bind-http"), ("port-grpc", "--bind-grpc")])
def test_a_port_that_is_free(examine: Examine, free: int, check: str, flag: str) -> None:
    assert examine(check, flag, f"127.0.0.1:{free}") == Said("pass", f"127.0.0.1:{free} is free", "")
    assert examine(check, flag, "127.0.0.1:0") == Said("pass", "127.0.0.1:0: each start takes a free one", "")


@pytest.mark.parametrize(("check", "flag"), [("port-http", "--bind-http"), ("port-grpc", "--bind-grpc")])
def test_a_port_that_somebody_holds(examine: Examine, taken: int, check: str, flag: str) -> None:
    said = examine(check, flag, f"127.0.0.1:{taken}")
    assert said[:2] == ("fail", f"port {taken} on 127.0.0.1 is taken: held by pid {os.getpid()} ({COMM})")
    assert said.fix.startswith(f"mcpg-ctl serve {flag} 127.0.0.1:")


def test_a_port_that_does_not_matter_while_another_control_plane_is_used(
    examine: Examine, taken: int, answering: Fake
) -> None:
    said = examine("port-http", "--bind-http", f"127.0.0.1:{taken}")
    words = f"port {taken} on 127.0.0.1 is taken, and the control plane in use is at {answering.url}"
    assert said == Said("skip", words, "")


def test_a_port_of_a_control_plane_of_another_directory(examine: Examine, taken: int, answering: Fake) -> None:
    answering.says("GET", "/v1/meta", data(META | {"pid": os.getpid()}))
    words = f"{taken} is held by the control plane of another state directory, pid {os.getpid()}"
    said = examine("port-grpc", "--bind-grpc", f"127.0.0.1:{taken}")
    assert said == Said("warn", words, "mcpg-ctl status --state-dir /srv/other")


def test_a_port_of_our_own(examine: Examine, card: Card, taken: int) -> None:
    card()
    words = f"{taken} is held by the control plane here, pid {os.getpid()} ({COMM})"
    assert examine("port-grpc") == Said("pass", words, "")


def test_a_port_of_ours_that_another_process_has(examine: Examine, card: Card, taken: int) -> None:
    """The control plane of the record is this process's parent: it lives, and does not hold the port."""
    parent = os.getppid()
    ticks = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19])
    card(pid=parent, start_ticks=ticks)
    words = f"{taken} is held by pid {os.getpid()} ({COMM}), not by the control plane, pid {parent}"
    assert examine("port-grpc") == Said("fail", words, f"kill {parent} && mcpg-ctl serve")


def test_a_bind_that_is_no_address(examine: Examine) -> None:
    assert examine("port-http", "--bind-http", "7843")[:2] == (
        "fail",
        "--bind-http 7843 is not HOST:PORT: PORT is 0 to 65535; 0 takes a free one",
    )


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")]
)
def test_the_kernel_says_where_a_port_is_open(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as sock:
        assert ports.held(sock.getsockname()[1]) == ports.Holder(os.getpid(), COMM, (host,))


# ---- who answers


def test_no_control_plane_at_the_default_is_no_fault(examine: Examine) -> None:
    words = f"none runs at {NOBODY} (the default): mcpg-ctl quickstart starts one"
    assert examine("control-plane") == Said("skip", words, "")
    for check in ("version", "ready"):
        assert examine(check) == Said("skip", "no control plane answers", "")


def test_no_control_plane_where_one_was_asked_for(examine: Examine, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_CP_URL", f"http://127.0.0.1:{free}")
    words = f"no control plane answers at http://127.0.0.1:{free}: connection refused (the URL is from MCPG_CP_URL)"
    assert examine("control-plane") == Said("fail", words, "unset MCPG_CP_URL")


def test_the_control_plane_here_is_at_another_url(examine: Examine, card: Card, fake: Fake, free: int) -> None:
    card()
    said = examine("control-plane", "--cp-url", f"http://127.0.0.1:{free}")
    assert (said.status, said.detail.endswith(f"; the one here is at {fake.url}")) == ("warn", True)
    assert said.fix == f"export MCPG_CP_URL={fake.url}"


def test_a_control_plane_that_answers(examine: Examine, answering: Fake) -> None:
    said = examine("control-plane")
    assert said.status == "pass"
    assert said.detail.startswith(f"{answering.url} (MCPG_CP_URL) answers in ")
    assert said.detail.endswith(", version 0.1.0")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (data({"hello": "world"}), "is not a control plane: its /v1/meta has no version"),
        (Answer(b"<html>", 200, "text/html"), "is not a control plane: it said 200 with text/html"),
        (Answer(b"", 302, "text/html", {"location": "https://sso.test"}), "redirecting to https://sso.test"),
    ],
    ids=["JSON", "HTML", "redirect"],
)
def test_something_else_behind_the_port(examine: Examine, answering: Fake, answer: Answer, words: str) -> None:
    answering.says("GET", "/v1/meta", answer)
    said = examine("control-plane")
    assert (said.status, words in said.detail, answering.url in said.detail) == ("fail", True, True)


def test_a_server_that_hangs(examine: Examine, taken: int, impatient: None) -> None:
    said = examine("control-plane", "--cp-url", f"http://127.0.0.1:{taken}")
    words = f"the control plane at http://127.0.0.1:{taken} does not answer: timed out (the URL is from --cp-url)"
    assert said == Said("fail", words, "mcpg-ctl config explain")


def test_a_control_plane_here_that_has_stopped(
    examine: Examine, free: int, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free}"
    stored(state, json.dumps({"current": "local", "contexts": {"local": {"cp_url": url}}}))
    words = f"no control plane answers at {url}: connection refused (the URL is from context local)"
    assert examine("control-plane") == Said("fail", words, "mcpg-ctl quickstart")


@pytest.mark.parametrize("theirs", ["0.1.0", "0.1.9"])
def test_a_control_plane_of_our_release(examine: Examine, answering: Fake, theirs: str) -> None:
    answering.says("GET", "/v1/meta", data(META | {"version": theirs}))
    assert examine("version").status == "pass"


@pytest.mark.parametrize("theirs", ["0.2.0", "0.0.9", "1.1.0"])
def test_a_control_plane_of_another_release(examine: Examine, answering: Fake, theirs: str) -> None:
    answering.says("GET", "/v1/meta", data(META | {"version": theirs}))
    words = f"the control plane is {theirs}, this program 0.1.0"
    assert examine("version") == Said("warn", words, f"pip install 'mcpg-control-plane=={theirs}'")


# ---- whether it can do its work


def refused(**checks: object) -> Answer:
    """What /readyz says with PostgreSQL down: it is alive, and can do nothing."""
    return data({"ready": False, "checks": {"stopping": False, "writes": "ok"} | checks}, status=503)


AWAY = "the database does not answer: ConnectionRefusedError: connection refused"


def test_a_control_plane_that_can_do_its_work(examine: Examine, answering: Fake) -> None:
    assert examine("ready") == Said("pass", "it is ready: its database answers and can be written to", "")


def test_a_control_plane_whose_database_is_down_is_a_problem(ctl: Ctl, examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/readyz", refused(database=AWAY, leases="no heartbeat"))
    words = f"the control plane at {answering.url} cannot do its work: database: {AWAY}; leases: no heartbeat"
    assert examine("ready") == Said("fail", words, f"curl -sS {answering.url}/readyz")
    assert ctl("doctor").code == 1
    answering.says("GET", "/readyz", data({"ready": False, "checks": {"stopping": True, "database": "ok"}}, status=503))
    assert examine("ready").detail == f"the control plane at {answering.url} cannot do its work: it is stopping"
    answering.says("GET", "/readyz", data({"ready": False}, status=503))
    assert examine("ready").detail.endswith(" cannot do its work: it does not say why")


def test_the_remedy_names_the_database_of_the_control_plane_here(
    examine: Examine, card: Card, fake: Fake, answering: Fake, state: Path
) -> None:
    answering.says("GET", "/readyz", refused(database=AWAY))
    card(db_path="postgres://cp:secret@127.0.0.1:5432/mcpg")
    assert examine("ready").fix == "pg_isready -d postgres://127.0.0.1:5432/mcpg"
    card(db_path=str(state / "cp-state.db"))
    assert examine("ready").fix == f"df -h {state / 'cp-state.db'}"


def test_a_control_plane_that_does_not_say_in_time_whether_it_is_ready(
    examine: Examine, answering: Fake, impatient: None
) -> None:
    """Its database may be frozen: it accepts connections and answers nothing."""
    answering.says("GET", "/readyz", SILENT)
    said = examine("ready")
    assert said.status == "fail"
    assert said.detail.startswith(f"{answering.url}/readyz does not answer (")
    assert said.detail.endswith("): its database may hang")


def test_a_url_that_cannot_be_read_is_for_another_check(examine: Examine) -> None:
    assert examine("ready", "--cp-url", "http://[::1") == Said("skip", "no control plane answers", "")


def test_a_control_plane_that_knows_no_readyz(examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/readyz", Answer(b'{"code": "not_found", "title": "x"}', 404))
    assert examine("ready") == Said("skip", "the control plane does not say whether it is ready", "")


# ---- who may connect


def test_loopback_without_credentials(examine: Examine, card: Card) -> None:
    assert examine("auth") == Said("pass", "none, this machine only", "")
    card()
    assert examine("auth") == Said("pass", "none, this machine only", "")


def test_a_setting_that_would_let_everybody_in(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_CP_BIND_HTTP", "0.0.0.0:7843")
    words = "0.0.0.0:7843, 127.0.0.1:7844 with auth mode none would let everybody in: serve refuses that"
    assert examine("auth") == Said("fail", words, "unset MCPG_CP_BIND_HTTP MCPG_CP_BIND_GRPC")
    assert examine("auth", "--insecure-no-auth") == Said("pass", "none, open on purpose", "")


def test_a_server_that_lets_everybody_in(examine: Examine, card: Card) -> None:
    """What it listens on is asked of the kernel: its record names an address for clients."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        card(grpc_url=f"http://127.0.0.1:{sock.getsockname()[1]}")
        said = examine("auth")
    words = "auth mode none, and it listens on 0.0.0.0: whoever can connect is an admin"
    assert said == Said("warn", words, "mcpg-ctl serve --bind-http 127.0.0.1:7843 --bind-grpc 127.0.0.1:7844")


def test_a_server_that_asks_for_credentials(examine: Examine, card: Card) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        card(grpc_url=f"http://127.0.0.1:{sock.getsockname()[1]}", auth_mode="oidc")
        assert examine("auth") == Said("pass", "oidc", "")


# ---- clocks and streams


@pytest.mark.parametrize(
    ("ahead_s", "status", "words"),
    [
        (0, "pass", "as the control plane's"),
        (120, "warn", "behind the control plane"),
        (-120, "warn", "ahead of the control plane"),
        (3600, "fail", "behind the control plane: tokens are refused"),
    ],
)
def test_the_clock_of_the_server(examine: Examine, answering: Fake, ahead_s: int, status: str, words: str) -> None:
    date = format_datetime(datetime.fromtimestamp(int(time.time()) + ahead_s, UTC), usegmt=True)
    answering.says("GET", "/v1/meta", data(META, headers={"date": date}))
    said = examine("clock")
    assert (said.status, said.detail.endswith(words)) == (status, True)
    assert said.fix == ("" if status == "pass" else "timedatectl set-ntp true")


def test_a_server_without_a_date(examine: Examine, answering: Fake) -> None:
    assert examine("clock") == Said("skip", "the control plane does not say what time it has", "")


def test_events_that_come_at_once(examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/v1/events", stream(b": hello\n\n", then="hang"))
    said = examine("sse")
    assert (said.status, said.detail.startswith("first byte in ")) == ("pass", True)


@pytest.mark.parametrize("answer", [stream(then="hang"), stream(then="end")], ids=["kept back", "ended"])
def test_events_that_something_keeps_back(examine: Examine, answering: Fake, answer: Answer) -> None:
    answering.says("GET", "/v1/events", answer)
    words = f"no byte of {answering.url}/v1/events within 1 s: something on the way buffers it"
    expected = Said("fail", f"{words} (nginx: proxy_buffering off)", f"curl -N --max-time 5 {answering.url}/v1/events")
    assert examine("sse") == expected


def test_events_without_a_heartbeat(examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/v1/events", stream(b": hello\n\n", then="end"))
    words = "no heartbeat within 20 s: a cut stream would go unnoticed"
    expected = Said("fail", words, f"curl -N --max-time 40 {answering.url}/v1/events")
    assert examine("sse", "--slow") == expected


def test_events_that_we_may_not_see(examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/v1/events", Answer(b'{"code": "unauthenticated", "title": "sign in"}', 401))
    assert examine("sse") == Said("skip", "the control plane does not give its events: sign in", "")
