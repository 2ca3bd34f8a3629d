"""How an error ends: three lines or one object on stderr, its exit code, no traceback that nobody asked for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import failure
from mcpg.cli.talk import tell
from mcpg.errors import MAPPING, McpgError

from .fake import AT, GATEWAYS, HAPPY, OPERATION, Answer, Ctl, Fake, data, operation, refusal, step, stream

OPERATIONS = "/v1/orgs/acme/operations"
HISTORY = ("provision", "history", "--org", "acme")
START = "import sys; from mcpg.cli.main import main; sys.exit(main())"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can: it is bound."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("code", sorted(MAPPING))
def test_the_servers_code_decides_the_exit_code(acme: Ctl, fake: Fake, code: str) -> None:
    body = f'{{"code": "{code}", "title": "no", "details": []}}'.encode()
    fake.says("GET", OPERATIONS, Answer(body, 499, "application/problem+json"))
    assert acme(*HISTORY).code == MAPPING[code].exit


def test_nobody_there(ctl: Ctl, closed_port: int, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    by_flag = ctl(*HISTORY, "--cp-url", url)
    monkeypatch.setenv("MCPG_CP_URL", url)
    by_environment = ctl(*HISTORY)
    assert (by_flag.code, by_flag.out, by_environment.code) == (6, "", 6)
    assert (by_flag.err + by_environment.err).replace(url, "URL") == snapshot


def test_nobody_there_for_a_create(ctl: Ctl, closed_port: int) -> None:
    """At once, without trying again: nothing was sent."""
    where = ("--org", "acme", "--workspace", "prod", "--env", "us", "--name", "edge-1")
    ran = ctl("provision", "create", *where, "--cp-url", f"http://127.0.0.1:{closed_port}", "-o", "json")
    assert (ran.code, ran.out, ran.error["code"]) == (6, "", "unreachable")
    assert ran.error["message"] == f"no control plane answers at http://127.0.0.1:{closed_port}"


def test_a_host_that_does_not_exist(ctl: Ctl) -> None:
    ran = ctl(*HISTORY, "--cp-url", "http://nobody.invalid:1")
    assert (ran.code, ran.err.splitlines()[-1]) == (6, "hint:  --cp-url URL or MCPG_CP_URL")


STRANGERS = {
    "html": Answer(b"<h1>It works</h1>", 200, "text/html", {"server": "nginx/1.27"}),
    "404": Answer(b"not found", 404, "text/plain"),
    "redirect": Answer(b"", 302, "text/html", {"location": "https://sso.test/login"}),
    "json without a code": data({"detail": "no"}, status=500),
    "no JSON": Answer(b"{", 200, "application/json"),
    "empty": Answer(b"", 204),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_answers_is_not_a_control_plane(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, stranger: str) -> None:
    fake.says("GET", OPERATIONS, STRANGERS[stranger])
    ran = acme(*HISTORY)
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.replace(fake.url, "URL") == snapshot


def test_what_answers_does_not_speak_http(ctl: Ctl) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.sendall(b"\x00\x00\x12\x04\x00not http\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        ran = ctl(*HISTORY, "--cp-url", f"http://127.0.0.1:{sock.getsockname()[1]}")
        thread.join()
    assert (ran.code, ran.err.startswith("error: no control plane answers at")) == (6, True)


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "ALL_PROXY", "http_proxy"])
def test_a_proxy_is_not_asked_for_what_is_on_this_machine(
    acme: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    fake.says("GET", OPERATIONS, data([]))
    assert acme(*HISTORY).code == 0


def test_an_error_as_lines_and_as_json(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    error = McpgError("what", cause="why", hint="mcpg-ctl help", allowed=["undrain"])
    fake.says("GET", OPERATIONS, refusal(error))
    assert acme(*HISTORY).err == snapshot(name="lines")
    assert acme(*HISTORY, "-o", "json").err == snapshot(name="json")


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        (["-o", "json"], "", True),
        (["-ojson"], "", True),
        (["-o=jsonl"], "", True),
        (["--output=json"], "", True),
        (["--output", "yaml"], "json", False),
        ([], "json", True),
        (["--", "-o", "json"], "", False),
        (["-o"], "", False),
    ],
)
def test_when_an_error_is_json(monkeypatch: pytest.MonkeyPatch, argv: list[str], environ: str, expected: bool) -> None:
    monkeypatch.setenv("MCPG_OUTPUT", environ)
    assert failure.manner(["status", *argv]).as_json == expected


def test_what_a_context_says_of_output_holds_for_errors_too(ctl: Ctl, tmp_path: Path) -> None:
    ctl("context", "add", "prod", "--stored-output", "json", "--use")
    assert ctl(*HISTORY, "--limit", "0").error["code"] == "invalid_argument"
    assert ctl(*HISTORY, "--limit", "0", "--context", "none").err.startswith("error:")
    assert ctl(*HISTORY, "--limit", "0", "-o", "table").err.startswith("error:")
    assert ctl("version", "--limit", "0").err.startswith("error:"), "it takes nothing from a context"
    (tmp_path / "state/contexts.json").write_text("{")
    assert ctl(*HISTORY).err.startswith("error:")
    assert ctl(*HISTORY, "-o", "json").error["code"] == "state_dir_unusable"


@pytest.mark.parametrize("output", ["table", "json"])
def test_with_json_logs_an_error_is_a_log_line_that_holds_the_object(acme: Ctl, fake: Fake, output: str) -> None:
    fake.says("GET", OPERATIONS, refusal(McpgError("what", cause="why", hint="mcpg-ctl help", allowed=["undrain"])))
    ran = acme(*HISTORY, "--json-logs", "-o", output)
    (line,) = ran.err.splitlines()
    said = json.loads(line)
    at = datetime.fromisoformat(said.pop("at"))
    assert (ran.code, ran.out, at.utcoffset()) == (1, "", timedelta())
    assert said == {
        "level": "error",
        "event": "error",
        "message": "what",
        "error": {
            "code": "error",
            "message": "what",
            "cause": "why",
            "hint": "mcpg-ctl help",
            "request_id": "req-1",
            "details": {"allowed": ["undrain"]},
        },
    }


def test_json_logs_from_the_environment_and_with_a_traceback(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_JSON_LOGS", "1")
    monkeypatch.setenv("MCPG_DEBUG", "1")
    (line,) = ctl("no", "such").err.splitlines()
    assert json.loads(line)["traceback"].startswith("Traceback")


def test_a_note_is_a_line_or_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell("resumed", as_logs=False, event="resumed")
    tell("resumed", as_logs=True, event="resumed", level="warning", after=3)
    text, log = capsys.readouterr().err.splitlines()
    said = json.loads(log)
    assert (text, list(said)) == ("resumed", ["at", "level", "event", "message", "after"])
    assert (said["level"], said["event"], said["message"], said["after"]) == ("warning", "resumed", "resumed", 3)


def test_a_bug_is_one_line_and_its_traceback_is_for_who_asks(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    from mcpg.cli import about

    monkeypatch.setattr(about.resolve, "values", lambda _line: 1 / 0)
    ran = ctl("version")
    assert (ran.code, ran.out, ran.err) == (1, "", snapshot)
    monkeypatch.setenv("MCPG_DEBUG", "1")
    assert "Traceback" in ctl("version").err


def test_a_reader_that_goes_away_is_no_error(fake: Fake) -> None:
    """`mcpg-ctl provision history | head -1`, with more than a pipe holds."""
    fake.says("GET", OPERATIONS, data([operation()] * 1000))
    command = [sys.executable, "-c", START, *HISTORY, "--cp-url", fake.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"HOME": "/nonexistent"})
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (141, b"")


def test_a_full_disk_is_an_error_and_not_a_bug(fake: Fake) -> None:
    fake.says("GET", OPERATIONS, data([operation()]))
    command = [sys.executable, "-c", START, *HISTORY, "--cp-url", fake.url]
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env={"HOME": "/nonexistent"}, check=False)
    assert (ran.returncode, ran.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    command = f'"{sys.executable}" -c "{START}" version {closed}'
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 0


CREATE = "provision create --org acme --workspace prod --env us --name edge-1 -o json"


@pytest.mark.parametrize("lost", ["2>/dev/full", "2>&-", "2</dev/null", "2> >(exit 0)"])
@pytest.mark.parametrize("words", [CREATE, f"{CREATE} --json-logs", "bogus"], ids=["create", "logs", "bogus"])
def test_a_stderr_that_takes_nothing_changes_no_result(fake: Fake, words: str, lost: str) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY)._replace(headers={"mcpg-version": "9.0", "x-operation-id": OPERATION}))
    fake.says("GET", f"{OPERATIONS}/{OPERATION}", data(operation()))
    command = f'"{sys.executable}" -c "{START}" {words} {lost}'
    environ = {"HOME": "/nonexistent", "MCPG_CP_URL": fake.url}
    ran = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, env=environ, check=False)
    said = json.loads(ran.stdout)["phase"] if ran.stdout else ""
    assert (ran.returncode, said) == ((2, "") if words == "bogus" else (0, "ready"))


def test_a_reader_of_stderr_that_leaves_changes_no_result(fake: Fake, tmp_path: Path) -> None:
    many = [step(seq, "applying", message="x" * 1000, at=AT.format(1)) for seq in range(1, 400)]
    fake.says("POST", GATEWAYS, stream(*many, step(400, "ready", at=AT.format(2))))
    fake.says("GET", f"{OPERATIONS}/{OPERATION}", data(operation()))
    out = tmp_path / "out"
    command = f'"{sys.executable}" -c "{START}" {CREATE} 2>&1 >{out} | head -1; exit ${{PIPESTATUS[0]}}'
    environ = {"HOME": "/nonexistent", "MCPG_CP_URL": fake.url, "PATH": os.environ["PATH"]}
    ran = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, env=environ, check=False)
    assert (ran.returncode, json.loads(out.read_text())["phase"]) == (0, "ready")


def test_a_name_that_the_terminal_cannot_show_is_no_error(fake: Fake) -> None:
    fake.says("GET", OPERATIONS, data([operation(name="é")]))
    command = [sys.executable, "-c", START, *HISTORY, "--cp-url", fake.url, "-v"]
    environ = {"HOME": "/nonexistent", "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, capture_output=True, env=environ, check=False)
    assert (ran.returncode, ran.stderr, b"create  ?  prod/us" in ran.stdout) == (0, b"", True)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
    ],
    ids=str,
)
def test_colour_where_there_is_no_terminal(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: bool
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[31merror:\x1b[0m" in ctl("frobnicate").err) == expected


@pytest.mark.parametrize("typed", ["status", "version", "gateway-status", "provision history --org acme", "quickstart"])
@pytest.mark.parametrize("environ", ["MCPG_OUTPUT", ""])
def test_with_json_stdout_is_json_whatever_happens(
    ctl: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch, typed: str, environ: str
) -> None:
    """Where it fails stdout is empty; where it works it parses."""
    if environ:
        monkeypatch.setenv(environ, "json")
    argv = [*typed.split(), "--cp-url", fake.url] if "provision" in typed else typed.split()
    argv += [] if environ else ["-o", "json"]
    fake.says("GET", OPERATIONS, data([operation()]))
    if typed == "quickstart":
        argv += ["--bind-http", "nonsense"]
    ran = ctl(*argv)
    assert (ran.json is not None) if ran.code == 0 else (ran.out == "" and ran.error["code"])
