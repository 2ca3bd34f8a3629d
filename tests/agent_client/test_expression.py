from __future__ import annotations

from typing import Any

import pytest

from mcpg.agent.expression import NoSuchMember, Unsupported, compile_expression

ARGUMENTS = {"text": "hi", "a b": {"c": [1, 2]}, "none": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("arguments", ARGUMENTS),
        (' { "echo" : arguments , "from": "edge" } ', {"echo": ARGUMENTS, "from": "edge"}),
        ("arguments.text", "hi"),
        ('arguments["a b"].c', [1, 2]),
        ("arguments . none", None),
        (
            '[1, -2.5, 1e3, true, false, null, "a\\u00e9\\n", [], {}]',
            [1, -2.5, 1000.0, True, False, None, "aé\n", [], {}],
        ),
        ('{"a": {"b": [arguments.text]}}', {"a": {"b": ["hi"]}}),
    ],
)
def test_the_subset(text: str, value: Any) -> None:
    assert compile_expression(text)(ARGUMENTS) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "original_args",
        "argumentsx",
        "truex",
        "1 + 1",
        "01",
        "1.",
        "1u",
        "arguments.text + 'x'",
        "arguments.size()",
        "arguments[0]",
        "arguments[arguments.text]",
        "arguments.",
        'arguments["a"',
        "'single'",
        '{"a": 1,}',
        "[1,]",
        "{,}",
        '{"a" 1}',
        "{a: 1}",
        '{"a": 1, "a": 2}',
        '{"a": 1',
        '"open',
        "arguments arguments",
        "size(arguments)",
        "NaN",
        "1e999",
        "9" * 5000,
        "[" * 500 + "]" * 500,
    ],
)
def test_everything_else_is_refused_when_compiled(text: str) -> None:
    with pytest.raises(Unsupported):
        compile_expression(text)


def test_the_refusal_says_where() -> None:
    with pytest.raises(Unsupported, match="at column 11: expected the end"):
        compile_expression("arguments + 1")


@pytest.mark.parametrize("text", ["arguments.missing", "arguments.text.x", "arguments.none.x", 'arguments["a b"].d'])
def test_a_missing_member_is_told_at_call_time(text: str) -> None:
    with pytest.raises(NoSuchMember, match="does not exist"):
        compile_expression(text)(ARGUMENTS)
