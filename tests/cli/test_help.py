"""Every help page, as people see it."""

from __future__ import annotations

import shlex
import sys

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.commands import COMMANDS, GROUPS
from mcpg.cli.options import PROG
from mcpg.cli.parse import parse
from mcpg.cli.topics import TOPICS

from .fake import Ctl

LEAVES = [" ".join(command.words) for command in COMMANDS]


@pytest.mark.parametrize("words", ["", *GROUPS, *LEAVES])
def test_help_page(ctl: Ctl, snapshot: SnapshotAssertion, words: str) -> None:
    ran = ctl(*words.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert [line for line in ran.out.splitlines() if len(line) > 80] == []
    assert ran.out == snapshot


@pytest.mark.parametrize("topic", TOPICS)
def test_help_topic(ctl: Ctl, snapshot: SnapshotAssertion, topic: str) -> None:
    ran = ctl("help", topic)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == snapshot


@pytest.mark.parametrize(
    "argv",
    [
        ["provision", "create", "-h"],
        ["-h", "provision", "create"],
        ["provision", "-h", "create", "--name", "x"],
        ["help", "provision", "create"],
        ["provision", "create", "--no-such-option", "--help"],
    ],
    ids=" ".join,
)
def test_help_answers_in_any_position(ctl: Ctl, argv: list[str]) -> None:
    assert ctl(*argv) == ctl("provision", "create", "--help")


def test_no_arguments_is_the_root_page(ctl: Ctl) -> None:
    assert ctl() == ctl("--help") == ctl("help")


def test_help_does_not_read_its_options_value(ctl: Ctl) -> None:
    """`--name --help` asks for help, it does not name a gateway `--help`."""
    assert ctl("provision", "create", "--name", "--help") == ctl("provision", "create", "--help")


def test_the_server_programme_has_its_own_page(ctl: Ctl, snapshot: SnapshotAssertion) -> None:
    bare = ctl("--help", prog="/usr/bin/mcpg-control-plane")
    assert bare == ctl("serve", "--help", prog="mcpg-control-plane")
    assert bare.out.split("\nOptions:")[0] == snapshot


@pytest.mark.parametrize("example", [each for command in COMMANDS for each in command.examples])
def test_an_example_is_a_line_that_parses(example: str) -> None:
    """Pipes and redirections are the shell's: it is every `mcpg-ctl` between them that is parsed."""
    lexer = shlex.shlex(example, posix=True, punctuation_chars="|<>()")
    lexer.whitespace_split, lexer.commenters = True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|<>()"):
            commands.append([])
        else:
            commands[-1].append(word)
    ours = [words for words in commands if words[:1] == [PROG]]
    assert ours
    assert [parse(PROG, words[1:], COMMANDS).wrong for words in ours] == [None] * len(ours)


def test_the_version_command_in_every_output(ctl: Ctl) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    outs = [ctl("version", "-o", output).out for output in ("table", "wide", "name")]
    assert outs == ["mcpg-ctl 0.1.0\n", f"mcpg-ctl 0.1.0 (python {python})\n", "0.1.0\n"]
    assert ctl("version", "-o", "json").json == {"name": "mcpg-ctl", "version": "0.1.0", "python": python}


@pytest.mark.parametrize("flag", ["--version", "-V"])
@pytest.mark.parametrize("prog", ["mcpg-ctl", "mcpg-control-plane"])
def test_version_is_one_line(ctl: Ctl, prog: str, flag: str) -> None:
    assert ctl(flag, prog=prog) == (0, f"{prog} 0.1.0\n", "")
