"""Every help page, from the table: examples first, then options, at most 80 columns. Imports nothing but the table."""

from mcpg.cli.commands import COMMANDS, GROUPS
from mcpg.cli.options import GLOBAL, PROG
from mcpg.cli.table import Command, Option
from mcpg.cli.topics import TOPICS

WIDTH = 80
_INDENT = 26
_NO_BREAK = "\0"


def wrapped(text: str, width: int) -> list[str]:
    """*text* in lines of at most *width*, broken at spaces but not inside `[…]`."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return [line.replace(_NO_BREAK, " ") for line in lines]


def root() -> str:
    """`mcpg-ctl --help`: every command, the global options, the topics."""
    leaves = [command for command in COMMANDS if len(command.words) == 1]
    rows = [(command.words[0], command.summary) for command in leaves]
    rows[-1:-1] = list(GROUPS.items())
    return "".join(
        (
            f"{PROG}: a control plane for MCPG gateways\n\n",
            "Examples:\n  mcpg-ctl quickstart\n",
            "  mcpg-ctl provision create --org default --workspace default --env default \\\n      --name edge-1\n",
            "  mcpg-ctl provision history --org default --verbose\n\n",
            f"Usage: {PROG} COMMAND [options]\n\nCommands:\n",
            *(_row(*row) for row in [*rows, ("help", "this page, a command's page, or a topic")]),
            "\nGlobal options, before or after the command:\n",
            *(_row(*row) for row in _described(GLOBAL)),
            _row("-h, --help", "this page, or the command's"),
            _row("-V, --version", "the version"),
            f"\nTopics: {PROG} help {' | '.join(TOPICS)}\n",
        )
    )


def group(words: tuple[str, ...], commands: tuple[Command, ...]) -> str:
    """`mcpg-ctl provision --help`."""
    name = " ".join(words)
    rows = [(command.words[-1], command.summary) for command in commands if command.words[: len(words)] == words]
    return "".join(
        (
            f"{PROG} {name}: {GROUPS.get(words[0], '')}\n\n",
            f"Usage: {PROG} {name} COMMAND [options]\n\nCommands:\n",
            *(_row(*row) for row in rows),
            f"\nOptions of a command: {PROG} {name} COMMAND --help\n",
        )
    )


def leaf(command: Command, prog: str = PROG) -> str:
    """One command's page."""
    name = " ".join((prog, *command.words))
    needed = [option for option in command.options if option.field in command.required]
    common = [option for option in command.options if option.field in ("state_dir", "json_logs")]
    other = [option for option in command.options if option not in needed and option not in common]
    usage = " ".join((name, *(_asked(option, command) for option in needed), "[options]"))
    about = wrapped(command.about, WIDTH)
    page = [*wrapped(f"{name}: {command.summary}", WIDTH), *(about if command.about else []), ""]
    page += ["Examples:", *(f"  {_as(prog, example)}" for example in command.examples), ""]
    first, *more = wrapped(usage, WIDTH - 11)
    page += [f"Usage: {first}", *(f"           {text}" for text in more)]
    text = "\n".join(page) + "\n"
    for title, options in (("Required", needed), ("Options", other), ("Global options", common)):
        if options:
            text += f"\n{title}:\n" + "".join(_row(*row) for row in _described(tuple(options)))
    return text + _row("-h, --help", "this page")


def _asked(option: Option, command: Command) -> str:
    return option.metavar if option.field in command.positional else f"{option.name} {option.metavar}"


def _as(prog: str, example: str) -> str:
    return example if prog == PROG else example.replace(PROG, prog)


def _described(options: tuple[Option, ...]) -> list[tuple[str, str]]:
    return [(_spelled(option), _explained(option)) for option in options]


def _spelled(option: Option) -> str:
    name = f"{option.short}, {option.name}" if option.short else option.name
    if option.negated:
        name = f"{name}, {option.negated}"
    return name if option.kind == "flag" else f"{name} {option.metavar}"


def _explained(option: Option) -> str:
    text = option.help
    if option.env:
        text += f" [env:{_NO_BREAK}{option.env[0]}]"
    if option.default is True:
        text += f" [default:{_NO_BREAK}{option.name}]"
    elif option.default not in ("", None, False):
        default = f"{option.default:g}" if isinstance(option.default, float) else option.default
        text += f" [default:{_NO_BREAK}{default}]"
    return text


def _row(left: str, right: str) -> str:
    """`left` in the first column, *right* wrapped in the second; a long left stands on its own line."""
    lines = wrapped(right, WIDTH - _INDENT)
    head = f"  {left}"
    if len(head) > _INDENT - 2:
        return "\n".join((head, *(" " * _INDENT + text for text in lines))) + "\n"
    return "\n".join((head.ljust(_INDENT) + lines[0], *(" " * _INDENT + text for text in lines[1:]))) + "\n"
