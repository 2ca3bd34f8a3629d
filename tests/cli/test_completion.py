"""Completion: what is offered for which words, live names from a cache, silence whatever goes wrong; real shells."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import names
from mcpg.cli.commands import COMMANDS
from mcpg.cli.completion import candidates
from mcpg.cli.names import LISTS
from mcpg.cli.parse import parse
from mcpg.cli.shells import SCRIPTS
from tests.bounds import BOUND_S

from .fake import SILENT, Answer, Ctl, Fake, data


def offered(typed: str) -> list[str]:
    """The candidates for a line; its last word, empty after a space, is the one being typed."""
    return [name for name, _ in candidates(typed.split(" "))]


def test_a_command_word_by_word() -> None:
    assert offered("qui") == ["quickstart"]
    assert offered("context ") == ["list", "show", "use", "add", "rm"]
    assert offered("provision cre") == ["create"]
    assert offered("--state-dir x context sh") == ["show"]
    assert set(offered("")) == {command.words[0] for command in COMMANDS} | {"help"}


def test_the_options_of_a_command_that_were_not_typed() -> None:
    before = offered("provision history -")
    after = offered("provision history --org acme -v --")
    assert set(before) - set(after) == {"--org", "--verbose"}
    assert {"--limit", "--cp-url", "--json-logs", "--help"} <= set(after)
    assert offered("provision create --no-w") == ["--no-wait"]
    assert offered("provision create --no-wait --wai") == []
    assert offered("provision history --lim") == ["--limit"]


def test_the_values_of_a_choice_in_each_form_that_a_shell_gives() -> None:
    assert offered("provision history -o j") == ["json", "jsonl"]
    assert offered("provision history --output=y") == ["--output=yaml"]
    assert offered("provision history --output =") == offered("version --output ")
    assert offered("provision history --output = y") == ["yaml"]
    assert offered("completion ") == ["bash", "zsh", "fish"]
    assert offered("provision create --size ") == ["s", "m", "l", "xl"]


def test_files_are_the_shells_own_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_CP_URL", "http://127.0.0.1:9")  # else one that runs on the usual port says its names
    assert offered("provision create --config gate") == [":path"]
    assert offered("--state-dir=/x") == ["--state-dir=:path"]
    assert offered("provision history --org ") == []
    assert offered("provision history --limit ") == []


def test_help_offers_pages_and_topics() -> None:
    assert {"provision", "quickstart", "exit-codes", "output"} <= set(offered("help "))
    assert offered("help provision h") == ["history"]


def test_after_two_dashes_nothing_is_an_option() -> None:
    assert offered("provision history -- -") == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_what_is_offered_for_a_command_is_a_line_that_parses(command: Any) -> None:
    typed = " ".join(command.words)
    for option in candidates([*command.words, "-"]):
        line = parse("mcpg-ctl", [*typed.split(), option[0]], COMMANDS)
        assert line.wrong is None or line.wrong[0] == f"{option[0]} needs a value"


def test_every_kind_of_name_can_be_listed() -> None:
    kinds = {option.names for command in COMMANDS for option in command.options if option.names}
    assert kinds <= {*LISTS, "context"}


@pytest.fixture
def state(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory that exists, and the fake control plane in the environment."""
    monkeypatch.setenv("MCPG_CP_URL", fake.url)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def cached(state: Path) -> dict[str, Any]:
    (file,) = (state / "cache").iterdir()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_names_come_from_the_control_plane_once_in_thirty_seconds(
    state: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]), data([{"slug": "acme"}, {"slug": "umbrella"}]))
    found = [offered("provision history --org "), offered("provision history --org ")]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 30.5)
    found.append(offered("provision history --org "))
    assert found == [["acme"], ["acme"], ["acme", "umbrella"]]
    assert fake.paths() == ["GET /v1/orgs"] * 2


def test_the_cache_is_for_its_owner_alone_and_holds_names_only(state: Path, fake: Fake) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme", "plan_tier": "gold", "id": "o-1"}]))
    offered("provision history --org ")
    (file,) = (state / "cache").iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (state / "cache", file)]
    assert (modes, cached(state)["/v1/orgs"]["rows"]) == ([0o700, 0o600], [{"slug": "acme", "id": "o-1"}])


def test_a_place_is_asked_for_within_the_place_that_was_typed(state: Path, fake: Fake) -> None:
    fake.says("GET", "/v1/orgs/acme/workspaces", data([{"slug": "prod"}]))
    fake.says("GET", "/v1/orgs/acme/workspaces/prod/environments", data([{"slug": "us"}]))
    typed = "provision create --org acme --workspace "
    assert (offered(typed), offered(f"{typed}prod --env ")) == (["prod"], ["us"])
    with pytest.raises(LookupError):
        offered("provision create --workspace ")


def test_names_come_with_the_session_and_from_the_contexts_url(
    state: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCPG_CP_URL")
    file = state / "contexts.json"
    file.touch(0o600)
    file.write_text(json.dumps({"current": "prod", "contexts": {"prod": {"cp_url": fake.url}}}))
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "c4n4ry")
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]))
    assert (offered("provision history --org "), offered("context use ")) == (["acme"], ["prod", "none"])
    assert [asked.headers.get("cookie") for asked in fake.asked] == ["mcpg_sid=c4n4ry"]


def test_a_name_that_a_shell_would_obey_is_not_offered(state: Path, fake: Fake) -> None:
    """The shell puts it on the line as it is, and the next Enter runs it."""
    evil = ["$(reboot)", "a;b", "a b", "`id`", "x\x1b[2J", "a\nb", "ok-1"]
    fake.says("GET", "/v1/orgs", data([{"slug": each} for each in evil]))
    assert offered("provision history --org ") == ["ok-1"]


def test_a_name_that_is_an_option_or_the_mark_for_files_is_not_offered(state: Path, fake: Fake) -> None:
    names = ["--force", "-x", ":path", "acme:path", "ok-1"]
    fake.says("GET", "/v1/clusters", data([{"name": each, "id": "c-1"} for each in names]))
    assert offered("cluster show ") == ["ok-1", "c-1"]


def test_a_fifo_in_the_place_of_a_file_keeps_no_prompt_waiting(
    ctl: Ctl, state: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache and the contexts; a session in a pipe is left to the command, which can read it once."""
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]))
    argv = ("__complete", "--", "provision", "history", "--org", "")
    ctl(*argv)
    (file,) = (state / "cache").iterdir()
    file.unlink()
    os.mkfifo(file)
    os.mkfifo(state / "session", 0o600)
    monkeypatch.setenv("MCPG_SESSION_COOKIE_FILE", str(state / "session"))
    assert ctl(*argv) == (0, "acme\torg\n", "")
    os.mkfifo(state / "contexts.json", 0o600)
    assert ctl(*argv) == (0, "", "")


STRANGE = {
    "silent": SILENT,
    "hanging": Answer(b"[", then="hang"),
    "500": data({"code": "error"}, status=500),
    "html": Answer(b"<h1>", 200, "text/html"),
    "an object": data({"a": 1}),
    "strange rows": data([1, None, {"slug": 7}]),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_what_goes_wrong_is_not_said_and_not_tried_again_at_once(
    ctl: Ctl, state: Path, fake: Fake, strange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("GET", "/v1/orgs", STRANGE[strange])
    if strange == "hanging":
        monkeypatch.setattr(names, "_BUDGET_S", 2.0)
    argv = ("__complete", "--", "provision", "history", "--org", "")
    assert ([ctl(*argv), ctl(*argv)], len(fake.asked)) == ([(0, "", "")] * 2, 1)


def test_old_names_are_better_than_none(state: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]), data({}, status=503))
    first = offered("provision history --org ")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert (first, offered("provision history --org "), len(fake.asked)) == (["acme"], ["acme"], 2)


def test_nobody_listens_and_there_is_no_state(ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MCPG_CP_URL", f"http://127.0.0.1:{sock.getsockname()[1]}")
        assert ctl("__complete", "--", "provision", "history", "--org", "") == (0, "", "")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "argv", [(), ("--",), ("--", "\ud800"), ("--", "=", "="), ("--", "--", "x"), ("--", "--output", "=")]
)
def test_nonsense_is_answered_with_silence(ctl: Ctl, argv: tuple[str, ...]) -> None:
    ran = ctl("__complete", *argv)
    assert (ran.code, ran.err) == (0, "")


def test_a_corrupt_cache_or_context_file_is_not_said(ctl: Ctl, state: Path, fake: Fake) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}]))
    argv = ("__complete", "--", "provision", "history", "--org", "")
    ctl(*argv)
    (file,) = (state / "cache").iterdir()
    for corrupt in ("[", "[]", '{"/v1/orgs": 7}', '{"/v1/orgs": {"at": 1e99}}', '{"/v1/orgs": {"at": 1.0, "rows": 7}}'):
        file.write_text(corrupt)
        assert ctl(*argv).out == "acme\torg\n"
    (state / "contexts.json").write_text("{")
    assert ctl(*argv) == (0, "", "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_of_a_shell(ctl: Ctl, snapshot: SnapshotAssertion, shell: str) -> None:
    ran = ctl("completion", shell)
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)


def test_a_shell_that_has_no_script(ctl: Ctl) -> None:
    ran = ctl("completion", "bsh")
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "hint:  did you mean: --shell bash")


# What a real shell offers for a line, without a terminal: `TYPED` in, one candidate a line out.
ASK = {
    "bash": r"""
        source <(mcpg-ctl completion bash)
        COMP_LINE=$TYPED COMP_POINT=${#TYPED} broken=${TYPED//=/ = }
        IFS=$' \t\n' read -ra COMP_WORDS <<< "${broken//:/ : }"
        [[ $TYPED == *[\ =] ]] && [[ $TYPED != *= ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        _mcpg_ctl mcpg-ctl
        printf '%s\n' "${COMPREPLY[@]}"
    """,
    "fish": r"""
        mcpg-ctl completion fish | source
        for line in (complete -C "$TYPED")
            string split -f 1 \t -- $line\t
        end
        true
    """,
}
LINES = {
    "mcpg-ctl con": ["config", "context"],
    "mcpg-ctl context ": ["add", "list", "rm", "show", "use"],
    "mcpg-ctl completion ": ["bash", "fish", "zsh"],
    "mcpg-ctl provision history --org ": ["acme", "umbrella"],
    "mcpg-ctl version -o j": ["json", "jsonl"],
    "mcpg-ctl provision create --config gate": ["gateway.yaml"],
    "mcpg-ctl nonsense nonsense ": [],
    "mcpg-ctl --cp-url http://127.0.0.1:1 clu": ["cluster"],
    "mcpg-ctl --cp-url=http://127.0.0.1:1 cluster sh": ["show"],
    "mcpg-ctl --cp-url http://127.0.0.1:1 context ": ["add", "list", "rm", "show", "use"],
    "mcpg-ctl serve --bind-http 127.0.0.1:7900 --bind-g": ["--bind-grpc"],
    "mcpg-ctl provision create --config gateway.yaml --siz": ["--size"],
}


@pytest.mark.parametrize("typed", LINES)
@pytest.mark.parametrize("shell", ASK)
def test_a_real_shell_completes(shell: str, typed: str, fake: Fake, tmp_path: Path) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}, {"slug": "umbrella"}]))
    assert shutil.which(shell), f"tools/shells.sh installs {shell}"
    assert sorted(asked(shell, typed, fake, tmp_path)) == LINES[typed]


def test_bash_completes_after_an_equals_sign_and_fish_too(fake: Fake, tmp_path: Path) -> None:
    """bash breaks the word there and wants the value alone, fish wants the whole word."""
    typed = "mcpg-ctl version --output=js"
    assert asked("bash", typed, fake, tmp_path) == ["json", "jsonl"]
    assert asked("fish", typed, fake, tmp_path) == ["--output=json", "--output=jsonl"]


TYPED = {
    "mcpg-ctl context sh": "mcpg-ctl context show",
    "mcpg-ctl provision history --org um": "mcpg-ctl provision history --org umbrella",
    "mcpg-ctl version --output=ya": "mcpg-ctl version --output=yaml",
    "mcpg-ctl provision create --config gate": "mcpg-ctl provision create --config gateway.yaml",
    "mcpg-ctl --state-dir=gate": "mcpg-ctl --state-dir=gateway.yaml",
    "mcpg-ctl --cp-url http://127.0.0.1:1 vers": "mcpg-ctl --cp-url http://127.0.0.1:1 version",
    "mcpg-ctl --cp-url=http://127.0.0.1:1 cluster sh": "mcpg-ctl --cp-url=http://127.0.0.1:1 cluster show",
    "mcpg-ctl serve --bind-http 127.0.0.1:7900 --bind-g": "mcpg-ctl serve --bind-http 127.0.0.1:7900 --bind-grpc",
}
LOAD = {
    "bash": "source <(mcpg-ctl completion bash)",
    "zsh": "autoload -U compinit; compinit -D; source <(mcpg-ctl completion zsh)",
    "zsh fpath": "mcpg-ctl completion zsh > _mcpg-ctl; fpath=($PWD $fpath); autoload -U compinit; compinit -D",
    "fish": "mcpg-ctl completion fish | source",
}


@pytest.mark.parametrize("loaded", LOAD)
def test_a_tab_in_a_real_shell_on_a_terminal(loaded: str, fake: Fake, tmp_path: Path) -> None:
    fake.says("GET", "/v1/orgs", data([{"slug": "acme"}, {"slug": "umbrella"}]))
    shell = loaded.partition(" ")[0]
    assert shutil.which(shell), f"tools/shells.sh installs {shell}"
    environ = environment(fake, tmp_path) | {"TERM": "dumb", "PS1": "", "PROMPT": "", "PROMPT_EOL_MARK": ""}
    master, slave = os.openpty()
    command = ["setsid", "--ctty", shell, *OPTIONS[shell], "-i"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ, cwd=tmp_path)
    os.close(slave)
    screen = ""
    try:

        def until(wanted: str) -> None:
            nonlocal screen
            while wanted not in screen:
                ready, _, _ = select.select([master], [], [], BOUND_S)
                assert ready, f"{wanted!r} never came: {screen!r}"
                screen += os.read(master, 65536).decode()

        os.write(master, f"{LOAD[loaded]}; echo lo''aded\n".encode())
        until("loaded\r\n")
        for typed, wanted in TYPED.items():
            screen = ""
            os.write(master, f"{typed}\t".encode())
            until(wanted)
            os.write(master, b"\x15")  # clears the line
    finally:
        process.kill()
        process.wait()
        os.close(master)


OPTIONS = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}


PATIENT = f"""#!{sys.executable}
import sys
from mcpg.cli import main, names
names._BUDGET_S = {BOUND_S}  # the control plane answers, if late
sys.exit(main.main())
"""


def environment(fake: Fake, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "gateway.yaml").touch()
    program = tmp_path / "bin/mcpg-ctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PATIENT)
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "MCPG_CP_URL": fake.url,
    }


def asked(shell: str, typed: str, fake: Fake, tmp_path: Path) -> list[str]:
    environ = environment(fake, tmp_path) | {"TYPED": typed}
    command = [shell, *OPTIONS[shell], "-c", ASK[shell]]
    ran = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return [line for line in ran.stdout.splitlines() if line]
