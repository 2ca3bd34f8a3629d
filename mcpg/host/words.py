"""
What a gateway's log says at its end, for people: cleaned, short, without secrets.

The real gateway logs JSON lines; when it cannot start it prints `Error: ...`, `Caused by:` and perhaps a backtrace
instead, and exits 1. Those words are the ones that help, so they win over everything logged around them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 64 * 1024
MAX_LINES: Final = 3
MAX_CHARACTERS: Final = 400

_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SECRETS: Final = (
    (re.compile(r"ENROL-[\w.~+/=-]+"), "ENROL-***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),  # a JWT: base64 of `{"` begins with eyJ
    (re.compile(r"(\btoken=)[^\s&\"']+"), r"\1***"),
    (re.compile(r"(?i)(\b(?:authorization|bearer)\b[:= ]+)(?:bearer\s+)?[\w.~+/=-]+"), r"\1***"),
)
_PORT_TAKEN: Final = re.compile(r"(?i)address (?:is )?already in use|EADDRINUSE|os error 98\b|errno 98\b")


def redact(text: str) -> str:
    """*text* without enrolment tokens, instance tokens and other credentials."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def says_port_taken(text: str) -> bool:
    return _PORT_TAKEN.search(text) is not None


def last_words(log: Path, offset: int = 0) -> str:
    """The last lines that mean something in *log* from byte *offset*: at most 3 lines, 400 characters."""
    lines = _tail(log, offset)
    words = _error(lines) or _logged(lines)
    text = redact("\n".join(words))
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _tail(log: Path, offset: int) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset if offset <= size else 0, size - TAIL_BYTES))
            raw = file.read(TAIL_BYTES)
    except OSError:
        return []
    text = _ANSI.sub("", raw.decode(errors="replace"))
    return [line for line in (_CONTROL.sub("", line).rstrip() for line in text.split("\n")) if line.strip()]


def _error(lines: list[str]) -> list[str]:
    """The last `Error: ...` with its causes on one line, or the last panic; [] when there is neither."""
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith("Error:"):
            parts = [lines[index].strip()]
            for line in lines[index + 1 :]:
                if line.startswith(("Stack backtrace:", "{")):
                    break
                if line.strip() != "Caused by:":
                    parts.append(line.strip())
            return [": ".join(part.rstrip(":") for part in parts)]
        if " panicked at " in lines[index]:
            return [line.strip() for line in lines[index : index + 2]]
    return []


def _logged(lines: list[str]) -> list[str]:
    """The last errors that were logged, or the last lines of any kind."""
    read = [_line(line) for line in lines]
    errors = [text for level, text in read if level in {"ERROR", "FATAL", "CRITICAL"}]
    return (errors or [text for _, text in read])[-MAX_LINES:]


def _line(line: str) -> tuple[str, str]:
    """(level, message) of one line; a line that is no JSON is its own message."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
            fields = entry.get("fields", entry)
            message = str(fields.get("message") or fields.get("msg") or fields.get("event") or "")
            error = str(fields.get("error") or "").replace("\n", " ")
        except (ValueError, AttributeError, RecursionError):
            return "", line.strip()
        if message:
            return str(entry.get("level", "")).upper(), f"{message}: {error}" if error else message
    return "", line.strip()
