"""Every help page, from the table: examples first, then options, at most 80 columns. Imports nothing but the table."""

from mcpg.cli.commands import COMMANDS, GROUPS
from mcpg.cli.options import GLOBAL, PROG
from mcpg.cli.table import Command, Option
from mcpg.cli.topics import TOPICS

WIDTH = 80
_INDENT = 26
_NO_BREAK = "\0"
_STORED = ("org", "workspace", "env")  # what a context may say: `context add`, and quickstart stores one
_FIRST = ("quickstart", "provision create --name edge-1", "provision history --verbose", "config explain")


def wrapped(text: str, width: int) -> list[str]:
    """*text* in lines of at most *width*, broken at spaces but not inside `[…]` where that fits a line."""
    lines = [""]
    for phrase in text.split(" "):
        for word in phrase.split(_NO_BREAK) if len(phrase) > width else [phrase]:
            if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return [line.replace(_NO_BREAK, " ") for line in lines]


def root() -> str:
    """`mcpg-ctl --help`: every command, the global options, the topics."""
    rows: dict[str, str] = {}
    for command in COMMANDS:
        first = command.words[0]
        rows.setdefault(first, GROUPS.get(first, command.summary))
    return "".join(
        (
            f"{PROG}: a control plane for MCPG gateways\n\n",
            "Examples:\n",
            *(f"  {PROG} {each}\n" for each in _FIRST),
            "\n",
            f"Usage: {PROG} COMMAND [options]\n\nCommands:\n",
            *(_row(*row) for row in [*rows.items(), ("help", "this page, a command's page, or a topic")]),
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
            "\n".join(wrapped(f"{PROG} {name}: {GROUPS.get(words[0], '')}", WIDTH)) + "\n\n",
            f"Usage: {PROG} {name} COMMAND [options]\n\nCommands:\n",
            *(_row(*row) for row in rows),
            f"\nOptions of a command: {PROG} {name} COMMAND --help\n",
        )
    )


def leaf(command: Command, prog: str = PROG) -> str:
    """One command's page."""
    name = " ".join((prog, *command.words))
    needed = [option for option in command.options if option.field in command.required]
    stored = [option for option in needed if option.field in _STORED]
    common = [option for option in command.options if option.field in ("state_dir", "json_logs")]
    other = [option for option in command.options if option not in needed and option not in common]
    usage = " ".join((name, *(_asked(option, command) for option in needed), "[options]"))
    about = wrapped(command.about, WIDTH)
    page = [*wrapped(f"{name}: {command.summary}", WIDTH), *(about if command.about else []), ""]
    page += ["Examples:", *(text for example in command.examples for text in _example(_as(prog, example))), ""]
    first, *more = wrapped(usage, WIDTH - 11)
    page += [f"Usage: {first}", *(f"           {text}" for text in more)]
    text = "\n".join(page) + "\n"
    asked = [option for option in needed if option not in stored]
    where = ("Required, where neither the environment nor a stored context says it", stored)
    for title, options in (("Required", asked), where, ("Options", other), ("Global options", common)):
        if options:
            text += f"\n{title}:\n" + "".join(_row(*row) for row in _described(tuple(options)))
    return text + _row("-h, --help", "this page")


def _example(text: str) -> list[str]:
    """A command as it can be pasted: broken before an option where it is too long."""
    lines = [""]
    for part in f"  {text}".replace(" --", "\0--").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > WIDTH:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] = f"{lines[-1]} {part}" if lines[-1] else part
    return lines


def _asked(option: Option, command: Command) -> str:
    if option.field in _STORED:
        return f"[{option.name}{_NO_BREAK}{option.metavar}]"
    return option.metavar if option.field in command.positional else f"{option.name} {option.metavar}"


def _as(prog: str, example: str) -> str:
    return example if prog == PROG else example.replace(PROG, prog)


def _described(options: tuple[Option, ...]) -> list[tuple[str, str]]:
    return [(spelled(option), explained(option)) for option in options]


def spelled(option: Option) -> str:
    """`-o, --output FORMAT`, `--wait, --no-wait`."""
    name = f"{option.short}, {option.name}" if option.short else option.name
    if option.negated:
        name = f"{name}, {option.negated}"
    return name if option.kind == "flag" else f"{name} {option.metavar}"


def explained(option: Option, *, env: bool = True, default: bool = True) -> str:
    """What it is, and with *env* and *default* where else it comes from."""
    text = option.help
    if env and option.env:
        text += f" [env:{_NO_BREAK}{option.env[0]}]"
    if default and option.default is True:
        text += f" [default:{_NO_BREAK}{option.name}]"
    elif default and option.default not in ("", None, False):
        shown = f"{option.default:g}" if isinstance(option.default, float) else option.default
        text += f" [default:{_NO_BREAK}{shown}]"
    return text


def _row(left: str, right: str) -> str:
    """`left` in the first column, *right* wrapped in the second; a long left stands on its own line."""
    lines = wrapped(right, WIDTH - _INDENT)
    head = f"  {left}"
    if len(head) > _INDENT - 2:
        return "\n".join((head, *(" " * _INDENT + text for text in lines))) + "\n"
    return "\n".join((head.ljust(_INDENT) + lines[0], *(" " * _INDENT + text for text in lines[1:]))) + "\n"
