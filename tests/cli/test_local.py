"""`serve` and `quickstart` up to the call of mcpg/server.py, for which a fake stands that keeps what it got."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import types
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.cli import ports, resolve
from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse
from mcpg.settings import Server

from .fake import Ctl, Fake, data
from .test_status import META, record, state  # noqa: F401  fixtures


class FakeServer:
    """Stands where mcpg/server.py stands: keeps the settings, says that it is ready, returns."""

    def __init__(self) -> None:
        self.settings: list[Server] = []
        self.error: errors.McpgError | None = None
        self.port = 7843

    def run(self, settings: Server, *, on_ready: Callable[[Any], None]) -> int:
        self.settings.append(settings)
        if self.error is not None:
            raise self.error
        home = Path.home()
        started = types.SimpleNamespace(
            http_url=f"http://127.0.0.1:{self.port}",
            grpc_url="http://127.0.0.1:7844",
            external_url=f"http://127.0.0.1:{self.port}",
            state_dir=home / ".mcpg",
            db_path=home / ".mcpg/cp-state.db",
            replica="r-1",
            version="0.1.0",
            auth_mode="none",
            provisioner="local",
            gateway="our own agent",
            pid=4711,
        )
        on_ready(started)
        return 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    module = types.ModuleType("mcpg.server")
    module.run = fake.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcpg.server", module)
    monkeypatch.setenv("MCPG_CP_BIND_HTTP", "127.0.0.1:0")
    monkeypatch.setenv("MCPG_CP_BIND_GRPC", "127.0.0.1:0")
    return fake


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that a browser was asked to open."""
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    return urls


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def test_serve_hands_over_the_settings_and_prints_nothing(ctl: Ctl, server: FakeServer) -> None:
    assert ctl("serve", "--log-level", "debug", "--stop-grace-s=2") == (0, "", "")
    assert [(each.log_level, each.stop_grace_s, each.bind_http) for each in server.settings] == [
        ("debug", 2.0, "127.0.0.1:0")
    ]


@pytest.mark.parametrize("verb", [[], ["serve"]])
def test_the_real_gateways_own_command_line(ctl: Ctl, server: FakeServer, verb: list[str], tmp_path: Path) -> None:
    """What `mcpg --cp` starts us with, word for word."""
    url = f"sqlite://{tmp_path}/cp-state.db?mode=rwc"
    words = f"--db-url {url} --auth-mode none --external-url http://127.0.0.1:1 --bind-http 127.0.0.1:0 --bind-grpc"
    assert ctl(*verb, *words.split(), "127.0.0.1:0", prog="mcpg-control-plane") == (0, "", "")
    assert [(each.db_url, each.external_url) for each in server.settings] == [(url, "http://127.0.0.1:1")]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_is_served_without_auth(ctl: Ctl, server: FakeServer, host: str) -> None:
    assert ctl("serve", "--bind-http", f"{host}:0").code == 0


@pytest.mark.parametrize("flag", ["--bind-http", "--bind-grpc"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "example.test"])
def test_beyond_loopback_needs_auth_or_the_flag(ctl: Ctl, server: FakeServer, flag: str, host: str) -> None:
    ran = ctl("serve", flag, f"{host}:7843")
    assert (ran.code, server.settings, "--insecure-no-auth" in ran.err) == (2, [], True)


def test_what_the_refusal_says(ctl: Ctl, server: FakeServer, snapshot: SnapshotAssertion) -> None:
    assert ctl("quickstart", "--bind-http", "0.0.0.0:7843").err == snapshot


def test_the_flag_allows_it(ctl: Ctl, server: FakeServer) -> None:
    assert ctl("serve", "--bind-http", "0.0.0.0:0", "--insecure-no-auth").code == 0


@pytest.mark.parametrize("text", ["7843", ":7843", "h:x", "h:65536", "::1:7843", "h:-1", "h:٣"])
def test_an_address_that_is_none(ctl: Ctl, server: FakeServer, text: str) -> None:
    ran = ctl("serve", "--bind-http", text)
    first = ran.err.splitlines()[0]
    assert (ran.code, first) == (2, f"error: --bind-http {text} is not HOST:PORT")


@pytest.mark.parametrize("command", ["serve", "quickstart"])
def test_a_taken_port_says_by_whom_and_what_to_do(ctl: Ctl, server: FakeServer, taken: int, command: str) -> None:
    ran = ctl(command, "--bind-http", f"127.0.0.1:{taken}")
    error, cause, hint = ran.err.splitlines()
    assert (ran.code, ran.out, server.settings) == (1, "", [])
    assert error == f"error: port {taken} on 127.0.0.1 is taken"
    assert cause == f"cause: held by pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    start, _, free = hint.rpartition(":")
    assert start == f"hint:  mcpg-ctl {command} --bind-http 127.0.0.1"
    with contextlib.closing(socket.create_server(("127.0.0.1", int(free)))):
        """The port that is proposed is free."""


def test_a_port_beside_a_waiting_connection_is_free(taken: int) -> None:
    """Only a listener holds a port; a connection that still waits to end does not."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        other, _ = sock.accept()
    other.close()
    client.close()
    ports.check_free("serve", "--bind-http", ports.Bind("127.0.0.1", port))


def test_only_a_listener_holds_a_port(taken: int) -> None:
    with socket.create_connection(("127.0.0.1", taken)) as client:
        assert ports.holder(client.getsockname()[1]) == ""


def test_an_address_of_another_machine_cannot_be_taken(ctl: Ctl, server: FakeServer) -> None:
    ran = ctl("serve", "--bind-http", "192.0.2.1:7843", "--insecure-no-auth")
    assert (ran.code, ran.err.splitlines()[1]) == (1, "cause: Cannot assign requested address")


def test_a_server_that_cannot_start_says_why(ctl: Ctl, server: FakeServer) -> None:
    server.error = errors.StateDirBusy("/x is in use", cause="by pid 7", hint="mcpg-ctl status")
    assert ctl("serve") == (5, "", "error: /x is in use\ncause: by pid 7\nhint:  mcpg-ctl status\n")


def test_quickstart_shows_where_everything_is(ctl: Ctl, server: FakeServer, snapshot: SnapshotAssertion) -> None:
    ran = ctl("quickstart", "--no-browser")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == snapshot


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_the_banner_says_who_may_connect(ctl: Ctl, server: FakeServer, host: str) -> None:
    ran = ctl("quickstart", "--bind-http", f"{host}:0", "--insecure-no-auth")
    assert "  Auth      none: everybody who can connect is an admin\n" in ran.out


def test_quickstart_as_json(ctl: Ctl, server: FakeServer, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert json.loads(ctl("quickstart", "-o", "json").out.replace(str(tmp_path), "HOME")) == snapshot


@pytest.mark.parametrize(
    ("environ", "argv", "expected"),
    [
        ({}, [], []),
        ({"DISPLAY": ":0"}, [], ["http://127.0.0.1:7843/"]),
        ({"WAYLAND_DISPLAY": "wayland-0"}, [], ["http://127.0.0.1:7843/"]),
        ({"DISPLAY": ":0"}, ["--no-browser"], []),
    ],
    ids=str,
)
def test_a_browser_is_opened_where_a_window_can_be_shown(
    *,
    ctl: Ctl,
    server: FakeServer,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    argv: list[str],
    expected: list[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ran = ctl("quickstart", *argv)
    assert (opened, "opened in the browser" in ran.out) == (expected, bool(expected))


def test_a_second_quickstart_opens_the_first_one(
    *,
    ctl: Ctl,
    fake: Fake,
    server: FakeServer,
    record: Callable[..., dict[str, Any]],  # noqa: F811
    tmp_path: Path,
    snapshot: SnapshotAssertion,
) -> None:
    record(pid=os.getpid())
    fake.says("GET", "/v1/meta", data(META))
    ran = ctl("quickstart")
    shown = ran.out.replace(str(tmp_path), "HOME").replace(f"{os.getpid()}", "PID")
    assert (ran.code, ran.err, server.settings) == (0, "", [])
    assert shown == snapshot
    assert ctl("quickstart", "-o", "json").json["state"] == "already running"


def test_a_quickstart_beside_a_record_that_is_no_longer_true_starts_one(
    ctl: Ctl,
    fake: Fake,
    server: FakeServer,
    record: Callable[..., dict[str, Any]],  # noqa: F811
) -> None:
    record(start_ticks=1)
    fake.says("GET", "/v1/meta", data(META))
    assert (ctl("quickstart").code, len(server.settings)) == (0, 1)


def stored(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "state/contexts.json").read_text())
    return found


PLACE = {"org": "default", "workspace": "default", "env": "default"}


def test_after_quickstart_nothing_needs_to_be_typed(ctl: Ctl, server: FakeServer, tmp_path: Path) -> None:
    ctl("quickstart")
    url = "http://127.0.0.1:7843"
    assert stored(tmp_path) == {
        "current": "local",
        "contexts": {"local": {**PLACE, "made_by": "quickstart", "cp_url": url}},
    }
    values = resolve.values(parse("mcpg-ctl", ["provision", "create", "--name", "edge-1"], COMMANDS))
    assert (values.cp_url, values.org, values.workspace, values.env) == (url, "default", "default", "default")
    assert values.source("cp_url") == "context local"


def test_quickstart_on_another_port_changes_the_context_that_it_made(
    ctl: Ctl, server: FakeServer, tmp_path: Path
) -> None:
    ctl("quickstart")
    ctl("context", "add", "mine", "--org", "acme", "--use")
    server.port = 7900
    out = ctl("quickstart").out
    assert stored(tmp_path)["contexts"]["local"]["cp_url"] == "http://127.0.0.1:7900"
    assert stored(tmp_path)["current"] == "mine"
    assert "  mcpg-ctl provision create --context local --name edge-1\n" in out


def test_quickstart_leaves_what_a_person_stored(ctl: Ctl, server: FakeServer, tmp_path: Path) -> None:
    ctl("context", "add", "local", "--cp-url", "http://h:1")
    before = stored(tmp_path)
    out = ctl("quickstart").out
    assert stored(tmp_path) == before
    place = "--org default --workspace default --env default"
    assert f"  mcpg-ctl provision create --cp-url http://127.0.0.1:7843 {place} --name edge-1\n" in out


def test_quickstart_runs_where_the_contexts_cannot_be_stored(
    ctl: Ctl, server: FakeServer, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/contexts.json").write_text("{")
    ran = ctl("quickstart")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.replace(str(tmp_path), "HOME") == snapshot


def test_the_next_commands_name_a_state_directory_that_was_typed(ctl: Ctl, server: FakeServer, tmp_path: Path) -> None:
    where = tmp_path / "a b"
    out = ctl("quickstart", "--state-dir", str(where)).out
    assert f"  mcpg-ctl provision create --name edge-1 --state-dir '{where}'\n" in out
    assert f"  mcpg-ctl status --state-dir '{where}'\n" in out
