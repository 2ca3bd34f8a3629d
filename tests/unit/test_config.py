"""Gateway configs: what is accepted, what is pushed, what a replica boots from, what the real gateway says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpg.engine.config import DEFAULT_CONFIG, MAX_BYTES, MAX_DEPTH, MAX_NODES, _Loader, boot, booted, render
from mcpg.errors import BadConfig
from tests.bounds import BOUND_S

ROOT = Path(__file__).resolve().parents[2]
ECHO = (ROOT / "examples" / "echo.yaml").read_text()
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


def test_the_digests_are_of_what_is_pushed_and_of_what_was_written() -> None:
    rendered = render(ECHO)
    assert rendered.sha256 == hashlib.sha256(rendered.text.encode()).hexdigest()
    assert rendered.raw_sha256 == hashlib.sha256(ECHO.encode()).hexdigest()
    assert rendered == render(ECHO)
    assert render(rendered.text).text == rendered.text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("a: 1\nb: 2", "b: 2 # two\na: 1", id="order and comments"),
        pytest.param("a: &x {b: 1}\nc: *x", "a: {b: 1}\nc: {b: 1}", id="anchors"),
        pytest.param("a: &x {b: 1}\nc: {<<: *x, d: 2}", "a: {b: 1}\nc: {b: 1, d: 2}", id="merges"),
        pytest.param("a: {b: text}", '[a]\nb = "text"', id="toml"),
        pytest.param('{"a": [1, true, null, 1.5]}', "a: [1, true, ~, 1.5]", id="json"),
        pytest.param("\ufeffa: 1\r\n", "a: 1", id="bom and crlf"),
        pytest.param("\ufeffa = 1\r\n", "a: 1", id="bom and crlf in toml"),
        pytest.param("200: ok", "'200': ok", id="keys are text"),
        pytest.param(
            "gateway: {server: {bind_address: '0.0.0.0:1', mcp_path: /x, health_path: /y}}", "{}", id="provisioner's"
        ),
        pytest.param("gateway:\nmcp: {}", "mcp: {}", id="empty section"),
        pytest.param(
            "gateway: {server: {bind_address: x, access_log: false}}",
            "gateway: {server: {access_log: false}}",
            id="rest",
        ),
    ],
)
def test_equal_configs_have_equal_hashes(one: str, other: str) -> None:
    assert render(one).sha256 == render(other).sha256


@pytest.mark.parametrize("text", ["yes", "off", "22:22", "1_000", "010", "2026-01-01", "=", "NO"])
def test_scalars_are_read_as_the_gateway_reads_them(text: str) -> None:
    """YAML 1.2: PyYAML alone would make `yes` a boolean and `22:22` the number 1342."""
    assert render(f"a: {text}").text == render(f"a: '{text}'").text


@pytest.mark.parametrize(("text", "value"), [("0o17", 15), ("0x1F", 31), ("1e5", 100000.0), ("-7", -7), ("TRUE", True)])
def test_numbers_are_numbers_and_quoted_ones_are_text(text: str, value: object) -> None:
    assert render(f"a: {text}").text == render(f"a: {value}").text
    assert render(f"a: '{text}'").text in {f"a: '{text}'\n", f'a: "{text}"\n'}


# What JSON may hold unescaped and YAML reads as it stands: no controls, no line or paragraph separators; and new lines.
text = st.text(st.characters(exclude_categories=["Cc", "Cn", "Cs", "Zl", "Zp"]) | st.sampled_from("\n\t"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(text.filter(lambda key: key != "gateway"), values, max_size=4))
def test_what_is_pushed_says_what_was_written(document: dict[str, object]) -> None:
    """Written as JSON, which is YAML; read back by YAML 1.2's rules and by 1.1's, so that no reader is surprised."""
    pushed = render(json.dumps(document, ensure_ascii=False)).text
    assert render(pushed).text == pushed
    assert document == yaml.load(pushed, Loader=_Loader)  # noqa: S506
    assert document == yaml.safe_load(pushed)


@pytest.mark.parametrize(
    ("raw", "what", "cause"),
    [
        ("a: [1\nb: 2", "does not parse", "line 2 column 2: did not find expected ',' or ']'"),
        ("a:\n\tb: 1", "does not parse", "line 2 column 1: found character that cannot start any token"),
        ("a = \n", "does not parse", "as TOML: Invalid value (at line 1, column 5)"),
        ("- a", "does not parse", "it is a list, not a mapping"),
        ("hello", "does not parse", "it is text, not a mapping"),
        ("", "is empty", ""),
        ("# only this", "is empty", ""),
        ("--- {}\n--- {}", "does not parse", "another document"),
        ("a: 1\nb: 2\na: 3", "does not parse", "line 3 column 1: the key 'a' stands twice"),
        ("1: a\n'1': b", "the key '1' stands twice", "in the document"),
        ("[a]: b", "does not parse", "unhashable key"),
        ("~: b", "is nothing, not text", ""),
        ("a: !!python/object:os.system x", "does not parse", "could not determine a constructor"),
        ("a: !!binary aGk=", "a is binary data", ""),
        ("d = 2026-01-01", "d is a date", ""),
        ("a: *b", "does not parse", "undefined alias"),
        ("a: &a [*a]", "the anchor &a contains itself", "line 1 column 8"),
        ("gateway: []", "gateway is a list, not a mapping", ""),
        ("gateway: {server: x}", "gateway.server is text, not a mapping", ""),
        ("gateway: {control_plane: {url: 'http://x'}}", "sets gateway.control_plane", "attaches its gateways itself"),
        ("a: 1\nb: \0", "control character (U+0000) at line 2 column 4", ""),
        ("a: \x1b[31m", "control character (U+001B)", ""),
        ("a: \ud800", "control character (U+D800)", ""),
        ("a: " + "9" * 5000, "does not parse", "5000 digits"),
        pytest.param("a: " + "é" * (MAX_BYTES // 2), "larger than 3 MiB", "at most 4 MiB a message", id="bytes"),
        pytest.param("{}" + " " * MAX_BYTES, "larger than 3 MiB", "", id="spaces"),
        pytest.param(BOMB, f"more than {MAX_NODES} values", "aliases", id="billion laughs"),
        pytest.param(f"a: &a {'x' * 99999}\nb: [{'*a,' * 99}]", "aliases written out", "", id="long alias"),
        pytest.param("a = [" + "1," * MAX_NODES + "1]", f"more than {MAX_NODES} values", "", id="many in toml"),
        pytest.param("[" * 100_000, f"deeper than {MAX_DEPTH} levels", "line 1 column 101", id="deep"),
        pytest.param("- " * 2000 + "a", f"deeper than {MAX_DEPTH} levels", "", id="deep block"),
        pytest.param("a = " + "[" * 5000 + "]" * 5000, "nested too deeply", "", id="deep toml"),
        pytest.param("a = " + "[" * 150 + "]" * 150, f"deeper than {MAX_DEPTH} levels", "at a[0][0]", id="150 in toml"),
        pytest.param("a." * 500_000 + "b = 1", f"deeper than {MAX_DEPTH} levels", "dotted key", id="deep toml key"),
    ],
)
def test_a_config_that_cannot_be_delivered_is_refused_with_its_reason(raw: str, what: str, cause: str) -> None:
    with pytest.raises(BadConfig) as caught:
        render(raw)
    assert what in caught.value.what
    assert cause in caught.value.cause


def test_nested_aliases_do_not_get_deeper_than_the_limit() -> None:
    """Depth adds up through aliases: each level here is written at depth 2 and stands at depth i."""
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 150))
    with pytest.raises(BadConfig, match="nested deeper"):
        render(chain)


def test_a_replica_boots_from_the_config_with_its_place_and_its_control_plane() -> None:
    attach = {"url": "http://127.0.0.1:7844", "enrollment_url": "http://x/#token=ENROL-1"}
    text = boot(render(ECHO).text, bind="127.0.0.1:4711", control_plane=attach)
    assert yaml.safe_load(text)["gateway"] == {
        "control_plane": attach,
        "server": {"bind_address": "127.0.0.1:4711", "mcp_path": "/mcp", "health_path": "/health"},
    }
    assert booted(text) == ("127.0.0.1:4711", attach)
    assert "control_plane" not in boot(text, bind="127.0.0.1:1", control_plane={})


@pytest.mark.peer
@pytest.mark.parametrize(
    "text",
    [
        DEFAULT_CONFIG,
        render(ECHO).text,
        boot(
            render(ECHO).text,
            bind="127.0.0.1:4711",
            control_plane={
                "url": "http://x",
                "enrollment_url": "http://x#token=y",
                "instance_uid": "u",
                "state_dir": "s",
            },
        ),
    ],
    ids=["default", "echo", "boot file"],
)
def test_the_real_gateway_accepts_what_we_write(text: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(text)
    done = subprocess.run(
        [_checker(), "check", str(tmp_path / "gateway.yaml")],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid" in done.stdout


def _checker() -> str:
    package = "node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg"
    named = os.environ.get("MCPG_TEST_GATEWAY")
    candidates = [Path(named)] if named else [ROOT / ".cache" / "gateway" / package]
    for path in candidates:
        if os.access(path.with_name("mcpg-config"), os.X_OK):
            return str(path.with_name("mcpg-config"))
    pytest.fail("the real gateway's mcpg-config is not here: `make gateway` fetches it")
