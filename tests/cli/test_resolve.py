"""Flag, environment, context, default, in this order; and the static resolver says exactly what pydantic-settings says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import resolve
from mcpg.cli.commands import COMMANDS
from mcpg.cli.contexts import FIELDS
from mcpg.cli.options import CONNECTION, GLOBAL, OUTPUT, PLACE
from mcpg.cli.parse import Line, parse
from mcpg.cli.table import Command, Option
from mcpg.errors import McpgError, Usage
from mcpg.settings import Agent, Client, Server

from .fake import Ctl

CLIENT = Command("client", "", "", options=(*PLACE, *CONNECTION, OUTPUT, *GLOBAL))
SPECIAL = {
    "json_logs": st.sampled_from(["true", "TRUE", "t", "On", "1", "0", "No", "OFF", " true", "maybe", "", "2"]),
    "output": st.sampled_from([*OUTPUT.choices, "", "JSON", " json", "xml"]),
    "state_dir": st.sampled_from(["", ".", "~", "~/.mcpg", "~/x", "../x", "/a/./b", "a b", "~nobody-here/x", "é"]),
    "context": st.sampled_from(["prod", "dev", "none", "nobody", ""]),
    "cp_url": st.sampled_from(["http://a", "http://b", ""]),
}
ANYTHING = st.text(st.characters(exclude_characters="\0"), max_size=8)
PRINTABLE = st.text(max_size=8).filter(str.isprintable)
environments = st.fixed_dictionaries(
    {}, optional={name: SPECIAL.get(option.field, PRINTABLE) for option in CLIENT.options for name in option.env}
)
typed = st.fixed_dictionaries(
    {},
    optional={
        option.field: st.booleans() if option.kind == "flag" else SPECIAL.get(option.field, ANYTHING)
        for option in CLIENT.options
        if option.env
    },
)


value_of = {"output": SPECIAL["output"], "cp_url": SPECIAL["cp_url"], "protected": st.booleans()}
context = st.fixed_dictionaries({}, optional={field: value_of.get(field, ANYTHING) for field in (*FIELDS, "protected")})
contexts = st.fixed_dictionaries(
    {
        "current": st.sampled_from(["", "prod", "gone"]),
        "contexts": st.fixed_dictionaries({"prod": context, "dev": context}),
    }
)


SESSION = {"current": "prod", "contexts": {"prod": {"cp_url": "http://a", "session_cookie_file": "/a"}}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a state directory, made once: hypothesis runs many examples in one test."""
    home = tmp_path_factory.mktemp("home")
    (home / ".mcpg").mkdir()
    (home / ".mcpg/contexts.json").touch(0o600)
    return home


def line_of(flags: dict[str, Any]) -> Line:
    line = Line("mcpg-ctl")
    line.command, line.flags = CLIENT, flags
    return line


def by_settings(flags: dict[str, Any]) -> dict[str, Any] | None:
    """What pydantic-settings makes of it; None when it refuses."""
    try:
        return Client.resolve(flags).model_dump()
    except (ValueError, RuntimeError, McpgError):  # RuntimeError: ~nobody/ has no home
        return None


def by_table(flags: dict[str, Any]) -> dict[str, Any] | None:
    try:
        values = resolve.values(line_of(flags))
    except McpgError:
        return None
    return {field: getattr(values, field) for field in Client.model_fields}


@settings(max_examples=300)
@given(flags=typed, environ=environments, stored=contexts)
@example(flags={}, environ={"MCPG_JSON_LOGS": "", "MCPG_CP_JSON_LOGS": "yes"}, stored={})
@example(flags={"org": ""}, environ={"MCPG_ORG": "acme"}, stored={})
@example(flags={"output": "json"}, environ={"MCPG_OUTPUT": "nonsense"}, stored={})
@example(flags={"org": "\ud800"}, environ={}, stored={})
@example(flags={}, environ={"MCPG_STATE_DIR": "~nobody-here/x"}, stored={})
@example(flags={}, environ={}, stored={"current": "prod", "contexts": {"prod": {"org": "acme", "env": ""}}})
@example(flags={}, environ={"MCPG_ENV": "us"}, stored={"current": "prod", "contexts": {"prod": {"env": "eu"}}})
@example(flags={"context": "none"}, environ={}, stored={"current": "prod", "contexts": {"prod": {"org": "acme"}}})
@example(flags={}, environ={}, stored={"current": "prod", "contexts": {"prod": {"org": 7}}})
@example(flags={}, environ={}, stored={"current": "prod", "contexts": {"prod": {"output": "xml"}}})
@example(flags={"cp_url": "http://b"}, environ={}, stored=SESSION)
@example(flags={}, environ={"MCPG_CP_URL": "http://a"}, stored=SESSION)
def test_the_table_resolves_as_the_settings_do(
    home: Path, flags: dict[str, Any], environ: dict[str, str], stored: dict[str, Any]
) -> None:
    (home / ".mcpg/contexts.json").write_text(json.dumps(stored))
    with patch.dict(os.environ, {"HOME": str(home), **environ}, clear=True):
        assert by_table(flags) == by_settings(flags)


def test_without_a_home_the_state_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MCPG_STATE_DIR")
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert resolve.values(line_of({})).state_dir == Path("mcpg-state").absolute()


def test_a_value_knows_where_it_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    stored = {"current": "prod", "contexts": {"prod": {"cp_url": "http://p", "org": "p", "workspace": "w"}}}
    (tmp_path / "state/contexts.json").write_text(json.dumps(stored))
    (tmp_path / "state/contexts.json").chmod(0o600)
    monkeypatch.setenv("MCPG_ORG", "acme")
    monkeypatch.setenv("MCPG_ENV", "")
    values = resolve.values(line_of({"cp_url": "http://h"}))
    found = [(values.source(field), values.rank(field)) for field in ("cp_url", "org", "workspace", "env", "context")]
    assert found == [("--cp-url", 0), ("MCPG_ORG", 1), ("context prod", 2), ("default", 3), ("context prod", 2)]


WRONG = [
    ("provision create --replicas two", {}),
    ("provision create --replicas 0", {}),
    ("provision create --replicas 101", {}),
    ("provision create --replicas 1_0", {}),
    ("provision create --replicas ٣", {}),
    ("provision create --size xxl", {}),
    ("provision create --timeout soon", {}),
    ("provision create --timeout nan", {}),
    ("provision create --timeout -1", {}),
    ("provision history --org acme -o jsno", {}),
    ("provision history --org acme", {"MCPG_OUTPUT": "xml"}),
    ("provision history --org acme", {"MCPG_JSON_LOGS": "perhaps"}),
    ("provision history", {}),
    ("provision create", {"MCPG_ENV": "us"}),
    ("provision delete --org acme --workspace prod --env us", {}),
    ("provision history --org=", {"MCPG_ORG": "acme"}),
    ("status --state-dir ~nobody-here/x", {}),
    ("serve --local-gateways-max many", {}),
    ("serve --local-gateways-max -1", {}),
    ("serve", {"MCPG_CONTROL_PLANE_APPLY_TIMEOUT_S": "0"}),
    ("serve --auth-mode oidc", {}),
    ("serve", {"MCPG_CP_PROVISIONER": "locl"}),
    ("serve --state-dir ~nobody-here/x", {}),
    ("gateway", {"MCPG_CP_JSON_LOGS": "perhaps"}),
]


@pytest.mark.parametrize(("typed", "environ"), WRONG, ids=[f"{typed} {environ or ''}" for typed, environ in WRONG])
def test_wrong_value(
    ctl: Ctl, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch, typed: str, environ: dict[str, str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ran = ctl(*typed.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == snapshot


def test_what_is_not_utf8_is_refused(ctl: Ctl) -> None:
    """Python keeps such bytes of the command line as lone surrogates."""
    ran = ctl("provision", "history", "--org", os.fsdecode(b"ac\xffme"))
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: --org ac�me cannot be used")


@pytest.mark.parametrize(
    ("words", "tree", "flags", "field", "expected"),
    [
        ("serve", Server, "--local-gateways-max 7 --stop-grace-s=1.5", "local_gateways_max", 7),
        ("serve", Server, "--insecure-no-auth", "insecure_no_auth", True),
        ("serve", Server, "--json-logs=false", "json_logs", False),
        ("quickstart", Server, "--no-browser -o json", "bind_http", "127.0.0.1:7843"),
        ("gateway", Agent, "--instance-uid here", "instance_uid", "here"),
    ],
)
def test_commands_that_start_something_use_the_settings_themselves(
    words: str, tree: type[Server | Agent], flags: str, field: str, expected: object
) -> None:
    line = parse("mcpg-ctl", [words, *flags.split()], COMMANDS)
    assert getattr(resolve.tree(tree, line), field) == expected


def test_the_short_environment_name_of_a_server_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_CONTROL_PLANE_BIND_HTTP", "127.0.0.1:1")
    long_only = resolve.tree(Server, parse("mcpg-ctl", ["serve"], COMMANDS)).bind_http
    monkeypatch.setenv("MCPG_CP_BIND_HTTP", "127.0.0.1:2")
    both = resolve.tree(Server, parse("mcpg-ctl", ["serve"], COMMANDS)).bind_http
    assert (long_only, both) == ("127.0.0.1:1", "127.0.0.1:2")


@pytest.mark.parametrize("how", ["environment", "flag"])
def test_a_secret_that_cannot_be_is_not_shown(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    secret = os.fsdecode(b"c4n4ry\xff")
    if how == "environment":
        monkeypatch.setenv("MCPG_SESSION_COOKIE", secret)
    ran = ctl("cluster", "list", *(("--session-cookie", secret) if how == "flag" else ()))
    assert (ran.code, ran.out, "c4n4ry" in ran.err) == (2, "", False)


@pytest.mark.parametrize("command", ["serve", "status"])
def test_a_relative_directory_below_one_that_is_gone_is_refused(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = ctl(command, "--state-dir", "x")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "cause: the working directory is gone: No such file or directory")


def test_a_server_needs_a_directory_whose_name_is_text(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPG_STATE_DIR", os.fsdecode(b"\xff"))
    ran = ctl("serve")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "cause: it is not UTF-8")


@pytest.mark.parametrize("text", ["١٢", "1_0", "1" * 5000])
def test_a_number_is_digits_and_of_a_sensible_length(ctl: Ctl, text: str) -> None:
    ran = ctl("provision", "create", "--timeout", text)
    assert (ran.code, ran.err.splitlines()[1]) == (2, "cause: it is not a number")


@pytest.mark.parametrize(
    ("low", "high", "beyond", "words"),
    [
        (1, None, "0", "it is not 1 or more"),
        (0, None, "-1", "it is not 0 or more"),
        (None, 86400, "86401", "it is not 86400 or less"),
        (None, 0, "1", "it is not 0 or less"),
        (0, 9, "10", "it is not in 0 to 9"),
        (0, 9, "-1", "it is not in 0 to 9"),
        (-9, 0, "1", "it is not in -9 to 0"),
        (0.5, 2**53 - 1, "0", "it is not in 0.5 to 9007199254740991"),
        (0.5, 2**53 - 1, str(2**53), "it is not in 0.5 to 9007199254740991"),
    ],
)
@pytest.mark.parametrize("kind", ["int", "number"])
def test_a_number_beyond_its_bounds_is_told_the_bounds_there_are(
    kind: str, low: float | None, high: float | None, beyond: str, words: str
) -> None:
    option = Option("--many", "how many", env=("MANY",), kind=kind, low=low, high=high)
    line = Line("mcpg-ctl")
    with pytest.raises(Usage) as refused:
        resolve.one(option, line, {"MANY": beyond}, None)
    assert (refused.value.what, refused.value.cause) == (f"MANY={beyond} cannot be used", words)
    for bound in (low, high):  # is in them
        if bound is not None and (kind == "number" or bound == int(bound)):
            assert resolve.one(option, line, {"MANY": str(bound)}, None)[0] == bound
