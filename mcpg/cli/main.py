"""
Where the programmes start: `mcpg-ctl`, and `mcpg-control-plane` (which the real gateway's `mcpg --cp` starts).

argv → parse.py → the command's function, named in mcpg/cli/commands and imported only then → exit code. Help and version are
answered here without importing anything but the table. Every error, wherever it is raised, becomes an exit code here.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

    from mcpg.cli.parse import Line
    from mcpg.cli.table import Command


def main() -> int:
    """`mcpg-ctl`. Returns the exit code; see `mcpg-ctl help exit-codes`."""
    return _guarded(sys.argv[1:], _mcpg_ctl)


def _mcpg_ctl(argv: list[str]) -> int:
    if argv[:1] == ["__complete"]:
        from mcpg.cli import completion

        return completion.answer(argv[1:])
    from mcpg.cli.commands import COMMANDS  # here and not above: Ctrl-C may come while it is loaded
    from mcpg.cli.options import PROG
    from mcpg.cli.parse import parse

    return _run(parse(PROG, argv, COMMANDS), COMMANDS)


def control_plane() -> int:
    """`mcpg-control-plane [serve] …`: the server alone, with every server flag; the verb may be left out."""

    def run(argv: list[str]) -> int:
        from mcpg.cli.commands import COMMANDS
        from mcpg.cli.parse import parse

        prog = os.path.basename(sys.argv[0]) or "mcpg-control-plane"
        commands = tuple(command for command in COMMANDS if command.words == ("serve",))
        line = parse(prog, argv, commands)
        if not line.words and not line.help:
            line = parse(prog, ["serve", *argv], commands)
        return _run(line, commands)

    return _guarded(sys.argv[1:], run)


def _guarded(argv: list[str], run: "Callable[[list[str]], int]") -> int:
    """*run* with every way to end it turned into an exit code."""
    try:
        _never_fail_to_print()
        code = run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()  # the reader went away: `… | head`
        return 141
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        return 130
    except Exception as exc:  # noqa: BLE001  the one place where an error ends; MCPG_DEBUG=1 shows the traceback
        from mcpg.cli.failure import manner, show

        if isinstance(exc, OSError):
            _drop_stdout()
        return show(exc, manner(argv))
    return code


def _never_fail_to_print() -> None:
    """
    A name that the terminal's encoding cannot show prints as `?`, a closed stream (`>&-`) takes everything, and words that
    stderr cannot take are lost: nothing of that may turn a result into a failure.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  `<&-` is nothing to read, and no terminal
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  until the end
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    if not isinstance(sys.stderr, _Talk):
        sys.stderr = _Talk(sys.stderr)


class _Talk:
    """A stderr that never fails. Once it did, what is said goes nowhere: Python would try again at exit, and complain."""

    def __init__(self, stream: "TextIO") -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _drop_stdout() -> None:
    """What is still in the buffer cannot be written; Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(line: "Line", commands: "tuple[Command, ...]") -> int:
    if line.version:
        from mcpg import __version__

        return _say(f"{line.prog} {__version__}\n")
    if line.help or not (line.words or line.wrong):
        return _help(line, commands)
    _raise(line)
    command = line.command
    if command is None:
        raise AssertionError(line.words)
    module, _, function = command.run.partition(":")
    from importlib import import_module

    code: int = getattr(import_module(module), function)(line)
    return code


def _help(line: "Line", commands: "tuple[Command, ...]") -> int:
    from mcpg.cli import helptext
    from mcpg.cli.commands import GROUPS
    from mcpg.cli.options import PROG
    from mcpg.cli.parse import no_command
    from mcpg.cli.topics import TOPICS

    if line.command is not None:
        return _say(helptext.leaf(line.command, line.prog))
    if not line.words:
        return _say(helptext.root() if line.prog == PROG else helptext.leaf(commands[0], line.prog))
    if line.words[0] in TOPICS:
        return _say(TOPICS[line.words[0]])
    if line.words[0] in GROUPS and len(line.words) == 1:
        return _say(helptext.group(line.words, commands))
    line.wrong = None
    no_command(line, commands)
    _raise(line)
    return 0


def _raise(line: "Line") -> None:
    mistake = line.error()
    if mistake is not None:
        raise mistake


def _say(text: str) -> int:
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":  # how mcpg/provisioners starts our own gateway: the same Python, whatever is on PATH
    sys.exit(main())
