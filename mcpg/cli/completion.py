"""
Completion: `mcpg-ctl completion SHELL` prints a script; that script asks `mcpg-ctl __complete -- WORDS` at each TAB.

An answer is one candidate a line, a tab, what it is; or the one line `:path`, for which the shell completes file names.
Whatever goes wrong, nothing is said and the exit code is 0: a prompt is no place for an error. No third-party import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from mcpg.cli.commands import COMMANDS, GROUPS
from mcpg.cli.options import GLOBAL, PROG
from mcpg.cli.parse import Line, parse
from mcpg.cli.table import Option
from mcpg.cli.topics import TOPICS

PATH = ":path"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/@+")

Found = Iterable[tuple[str, str]]


def script(line: Line) -> int:
    """Prints the completion script of one shell."""
    from mcpg.cli import resolve
    from mcpg.cli.shells import SCRIPTS

    sys.stdout.write(SCRIPTS[resolve.values(line).shell])
    return 0


def answer(argv: list[str]) -> int:
    """`__complete -- WORDS`: prints what may stand in the place of the last word. Always 0, never a word of its own."""
    try:
        words = argv[1:] if argv[:1] == ["--"] else argv
        lines = [name if not about else f"{name}\t{about}" for name, about in candidates(words or [""])]
        sys.stdout.write("".join(f"{each}\n" for each in lines))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  see the module's words
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing half-written at exit
    return 0


def candidates(words: list[str]) -> list[tuple[str, str]]:
    """
    What may stand in the place of the last word, each with what it is.

    bash gives `--output=js` as three words, the other shells as one; the answer has the form of the question.
    """
    *before, word = words
    if word == "=" and before:
        word = ""
    elif before and before[-1] == "=":
        before.pop()
    elif word.startswith("--") and "=" in word:
        name, _, value = word.partition("=")
        return [(f"{name}={each}", about) for each, about in candidates([*before, name, value])]
    line = parse(PROG, before, COMMANDS)
    option = _valued(before, line)
    found = _values(option, line) if option else _words(line, before, word)
    return [(name, about) for name, about in found if name == PATH or (name.startswith(word) and set(name) <= _PLAIN)]


def _valued(before: list[str], line: Line) -> Option | None:
    """The option whose value comes next: the command's own, since two commands may spell two options alike."""
    last = before[-1] if before and "--" not in before else ""
    commands = (line.command, *COMMANDS) if line.command else COMMANDS
    options = (option for command in commands for option in command.options if option.kind != "flag")
    return next((option for option in options if last in option.spellings), None)


def _words(line: Line, before: list[str], word: str) -> Found:
    typed = [each for each in line.words if each]
    if word.startswith("-") and "--" not in before:
        return _options(line)
    if line.help and "help" in before:
        return _next_words(typed, topics=True)
    if line.command is None:
        return _next_words(typed)
    left = [field for field in line.command.positional if field not in line.flags]
    if left:
        return _values(line.command.option(left[0]), line)
    return _options(line) if not word else ()


def _next_words(typed: list[str], *, topics: bool = False) -> Found:
    """The words that may follow those typed, each once."""
    found: dict[str, str] = {}
    for command in COMMANDS:
        words = command.words
        if list(words[: len(typed)]) == typed and len(words) > len(typed):
            is_leaf = len(words) == len(typed) + 1
            found.setdefault(words[len(typed)], command.summary if is_leaf else GROUPS.get(words[0], ""))
    if not typed:
        found |= dict.fromkeys(TOPICS, "topic") if topics else {"help": "a command's page, or a topic"}
    return found.items()


def _options(line: Line) -> Found:
    """The options that the command takes and that were not typed; before the command, those of all."""
    options = line.command.options if line.command else GLOBAL
    found = [
        (spelling, option.help)
        for option in options
        if option.field not in line.flags
        for spelling in (option.name, option.negated)
        if spelling
    ]
    return [*found, ("--help", "the page of this command")]


def _values(option: Option, line: Line) -> Found:
    if option.choices:
        return [(choice, "") for choice in option.choices]
    if option.kind == "path":
        return [(PATH, "")]
    if option.names:
        from mcpg.cli import names, resolve

        found = names.known(option.names, resolve.client_line(line))
        return [(name, option.names) for name in found if not name.startswith("-") and not name.endswith(PATH)]
    return ()
