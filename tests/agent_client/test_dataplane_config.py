from __future__ import annotations

from pathlib import Path

import pytest

from mcpg import errors
from mcpg.agent.dataplane_config import compile_config

from .fake_cp import echo_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "echo.yaml"


def test_the_example_is_served() -> None:
    config = compile_config(EXAMPLE.read_bytes())
    tool = config.tools["demo.echo"]
    assert tool.input_schema == {"type": "object", "properties": {"text": {"type": "string"}}}
    assert tool.evaluate({"text": "x"}) == {"echo": {"text": "x"}, "from": "edge"}
    assert (config.warnings, config.sets_listener) == ((), False)


def test_where_it_listens() -> None:
    assert compile_config(b"{}").listener.port == 8787
    server = b'gateway: {control_plane: {url: x}, server: {bind_address: "[::1]:9", mcp_path: /m, health_path: /h}}'
    listener = compile_config(server).listener
    assert (listener.host, listener.port, listener.mcp_path, listener.health_path) == ("::1", 9, "/m", "/h")
    assert compile_config(server).has_tools_section is False


def test_json_is_yaml() -> None:
    assert compile_config(b'{"mcp": {"capabilities": {"tools": []}}}').has_tools_section is True


def test_a_config_that_is_silent_on_audit_is_served_with_a_warning() -> None:
    config = compile_config(echo_config().replace(b"governance: {audit: {enabled: false}}", b""))
    assert "audit" in config.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "plugins: []\n", "the config: the key `plugins` is not supported"),
        ("", "gateway: {admin: {enabled: true}}\n", "gateway: the key `admin`"),
        ("", "gateway: {server: {tls: {}}}\n", "gateway.server: the key `tls`"),
        ("", "gateway: {server: {bind_address: nowhere}}\n", "gateway.server.bind_address: must be HOST:PORT"),
        ("", 'gateway: {server: {bind_address: "h:70000"}}\n', "gateway.server.bind_address: must be HOST:PORT"),
        ("", "gateway: {server: {mcp_path: mcp}}\n", "gateway.server.mcp_path: must be a path"),
        ("", "gateway: {server: {mcp_path: /x, health_path: /x}}\n", "are the same"),
        ("enabled: false", "enabled: true", "governance.audit.enabled: this gateway keeps no audit log"),
        ("{audit: {enabled: false}}", "{minimum_trust: unauthenticated}", "governance: the key `minimum_trust`"),
        ("minimum_trust: unauthenticated", "minimum_trust: verified", "needs trust verified, and this gateway"),
        ("governance: {minimum_trust: unauthenticated}", "title: x", "needs trust header_asserted (the default)"),
        ("{minimum_trust: unauthenticated}", "{allow_if: x}", "the key `allow_if` is not supported"),
        ("kind: pipeline", "kind: http", "tools[0].backend: kind 'http' is not supported by this gateway"),
        ("kind: transform", "kind: call", "steps[0]: kind 'call' is not supported"),
        ("arguments", "original_args", "unsupported expression at column 10: expected a JSON value or `arguments`"),
        (
            "- {id: out,",
            "- {id: a, kind: transform, expression: '1'}\n            - {id: out,",
            "a pipeline of 2 steps",
        ),
        ("name: demo.echo", "name: [1]", "tools[0].name: must be text"),
        ("description: Echo the arguments back", "title: x", "`description` is missing"),
        ("description: Echo", "retry: {}\n        description: Echo", "the key `retry` is not supported"),
        ("type: object,", "type: array,", "input_schema: must be a JSON schema of type object"),
        ("type: object,", "default: 2026-01-01,", "input_schema.default: a date like this"),
        ("type: object,", "default: .nan,", "a float like this has no exact form in JSON"),
        ("type: object,", f"default: 0x{'f' * 6000},", "a int like this has no exact form"),
        ("type: object,", "1: 2,", "every key must be text"),
        ("Echo the", "${env.SECRET} the", "are not supported by this gateway"),
        ("capabilities:", "capabilities: [1]\n  x:", "mcp: the key `x`"),
    ],
)
def test_what_it_cannot_do_it_refuses_in_a_sentence_that_begins_with_the_place(old: str, new: str, words: str) -> None:
    text = echo_config().decode()
    changed = text.replace(old, new) if old else new + text
    assert changed != text
    with pytest.raises(errors.BadConfig) as caught:
        compile_config(changed.encode())
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\xff", "not utf8"),
        (b"a: [", "failed to parse YAML config at line 1, column 5"),
        (b"a: !!python/object/apply:os.system [x]", "failed to parse YAML config"),
        (b"a: 1\n---\nb: 2", "failed to parse YAML config"),
        (b"[title]\nx = 1", "failed to parse YAML config"),
        (b"- 1", "the config: must be a mapping"),
        (b"", "the config: must be a mapping"),
        (b"[" * 1000, "failed to parse YAML config"),
        (b"a: &x [*x]", "nested too deeply or too large"),
        (
            b"a: &a [1,1,1,1,1,1,1,1,1]\n"
            + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 108)),
            "nested too deeply or too large",
        ),
    ],
)
def test_hostile_yaml(raw: bytes, words: str) -> None:
    with pytest.raises(errors.BadConfig) as caught:
        compile_config(raw)
    assert words in caught.value.what


def test_a_parse_error_does_not_quote_the_config() -> None:
    with pytest.raises(errors.BadConfig) as caught:
        compile_config(b"password: s3cret: x")
    assert "s3cret" not in f"{caught.value.what}{caught.value.cause}"


def test_two_tools_of_one_name_are_refused() -> None:
    text = echo_config()
    _, marker, tool = text.partition(b"      - name:")
    with pytest.raises(errors.BadConfig, match=r"a second tool named demo\.echo"):
        compile_config(text + marker + tool)
