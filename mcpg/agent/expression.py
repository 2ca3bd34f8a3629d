"""
The part of the gateway's expression language that our data plane runs: JSON with `arguments` in it.

    {"echo": arguments, "text": arguments.text, "n": [1, arguments["a b"].c]}

JSON literals, objects and lists, and `arguments` followed by any number of `.name` and `["name"]`. Everything else that
CEL has (operators, functions, other variables) is refused when the config is compiled, never when a tool is called.
Called by mcpg/agent/dataplane_config.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

Expression = Callable[[dict[str, Any]], Any]

MAX_DEPTH: Final = 32
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?(?![\w.])")
_CONSTANTS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
_decoder: Final = json.JSONDecoder()


class Unsupported(Exception):
    """The expression is outside the subset; the text says where (1-based column) and what was expected."""


class NoSuchMember(Exception):
    """At call time: the arguments have no such member. The text names it."""


def compile_expression(text: str) -> Expression:
    """A function from a call's arguments to the result. Raises Unsupported."""
    return _Parser(text).whole()


class _Parser:
    """One pass, no backtracking; every method leaves `_at` behind what it read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Expression:
        value = self._value(0)
        if self._peek():
            raise self._unsupported("the end")
        return value

    def _value(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise Unsupported(f"nested deeper than {MAX_DEPTH}")
        match self._peek():
            case "{":
                return self._object(depth)
            case "[":
                return self._list(depth)
            case '"':
                return _constant(self._string())
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return _constant(json.loads(number[0]))
        name = _NAME.match(self._text, self._at)
        if name and name[0] in _CONSTANTS:
            self._at = name.end()
            return _constant(_CONSTANTS[name[0]])
        if name and name[0] == "arguments":
            self._at = name.end()
            return self._members()
        raise self._unsupported("a JSON value or `arguments`")

    def _members(self) -> Expression:
        path: list[str] = []
        while (sign := self._peek()) in {".", "["}:
            self._at += 1
            if sign == ".":
                self._peek()
                name = _NAME.match(self._text, self._at)
                if not name:
                    raise self._unsupported("a member's name")
                self._at = name.end()
                path.append(name[0])
            else:
                if self._peek() != '"':
                    raise self._unsupported('a name in quotes, as in arguments["name"]')
                path.append(self._string())
                self._expect("]")
        return _reference(path)

    def _object(self, depth: int) -> Expression:
        self._expect("{")
        fields: dict[str, Expression] = {}
        while self._peek() != "}":
            if fields:
                self._expect(",")
            if self._peek() != '"':
                raise self._unsupported("a key in quotes")
            key = self._string()
            if key in fields:
                raise Unsupported(f"the key {json.dumps(key)} stands twice in one object")
            self._expect(":")
            fields[key] = self._value(depth + 1)
        self._expect("}")
        return lambda arguments: {key: value(arguments) for key, value in fields.items()}

    def _list(self, depth: int) -> Expression:
        self._expect("[")
        items: list[Expression] = []
        while self._peek() != "]":
            if items:
                self._expect(",")
            items.append(self._value(depth + 1))
        self._expect("]")
        return lambda arguments: [item(arguments) for item in items]

    def _string(self) -> str:
        try:
            value, self._at = _decoder.raw_decode(self._text, self._at)
        except ValueError:
            raise self._unsupported("a JSON string") from None
        return str(value)

    def _peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._unsupported(f"`{sign}`")
        self._at += 1

    def _unsupported(self, expected: str) -> Unsupported:
        return Unsupported(f"at column {self._at + 1}: expected {expected}")


def _constant(value: Any) -> Expression:
    return lambda _arguments: value


def _reference(path: list[str]) -> Expression:
    def look_up(arguments: dict[str, Any]) -> Any:
        value: Any = arguments
        walked = "arguments"
        for name in path:
            walked += f"[{json.dumps(name)}]"
            if not isinstance(value, dict) or name not in value:
                raise NoSuchMember(f"{walked} does not exist")
            value = value[name]
        return value

    return look_up
