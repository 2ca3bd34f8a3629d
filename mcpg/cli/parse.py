"""
From argv to a `Line`: which command, and which options were typed. Imports nothing; the table says what is valid.

Options may stand anywhere, before or after the command's words: every spelling has one arity in the whole table.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mcpg.cli.table import Command, Option
    from mcpg.errors import Usage

YES = ("1", "true", "t", "yes", "y", "on")
NO = ("0", "false", "f", "no", "n", "off")
_CALLED = {  # what an update is called elsewhere
    "scale": "an update does it: mcpg-ctl provision create --name NAME --replicas N",
    "resize": "an update does it: mcpg-ctl provision create --name NAME --size SIZE",
    "update": "create does it, what is left out stays: mcpg-ctl provision create --name NAME --config FILE",
}
_OTHERS = 3  # how many other commands an error names


class Line:
    """
    What was typed. `command` is None when the words name no leaf; `flags` holds text, or True and False, by field.

    `wrong` is the first mistake as (what, cause, hint), kept rather than raised so that `--help` always answers.
    """

    __slots__ = ("command", "flags", "help", "prog", "version", "words", "wrong")

    def __init__(self, prog: str) -> None:
        self.prog = prog
        self.words: tuple[str, ...] = ()
        self.command: Command | None = None
        self.flags: dict[str, str | bool] = {}
        self.help = False
        self.version = False
        self.wrong: tuple[str, str, str] | None = None

    def mistake(self, what: str, cause: str = "", hint: str = "") -> None:
        self.wrong = self.wrong or (what, cause, hint)

    def error(self) -> "Usage | None":
        if self.wrong is None:
            return None
        from mcpg.errors import Usage

        what, cause, hint = self.wrong
        return Usage(what, cause=cause, hint=hint)


def close(word: str, known: "list[str]") -> str:
    """The known word that was probably meant, or ""."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, n=1, cutoff=0.7)), "")


def parse(prog: str, argv: list[str], commands: "tuple[Command, ...]") -> Line:
    """The line that *argv* says. Never raises: see `Line.wrong`."""
    line = Line(prog)
    spelled = {text: option for command in commands for option in command.options for text in option.spellings}
    typed: list[tuple[str, Option, str | None]] = []
    unknown: list[str] = []
    words: list[str] = []
    at = 0
    while at < len(argv):
        arg = argv[at]
        at += 1
        if arg == "--":
            words += argv[at:]
            break
        if arg in ("-h", "--help"):
            line.help = True
        elif arg in ("-V", "--version"):
            line.version = True
        elif arg == "-" or not arg.startswith("-"):
            words.append(arg)
        else:
            name, value = _split(arg)
            option = spelled.get(name)
            if option is None:
                unknown.append(name)
                continue
            if option.kind != "flag" and value is None and at < len(argv) and not _is_option(argv[at], spelled):
                value = argv[at]
                at += 1
            typed.append((name, option, value))
    if words[:1] == ["help"]:
        line.help = True
        del words[0]
    line.command = next((each for each in commands if _names(each, words)), None)
    line.words = line.command.words if line.command else tuple(words)
    own = {text: option for option in line.command.options for text in option.spellings} if line.command else {}
    for name, option, value in typed:
        _take(line, own.get(name, option), name, value)
    if line.command:
        _place(line, line.command, words[len(line.words) :])
    _check(line, commands, [name for name, _, _ in typed], unknown)
    return line


def _names(command: "Command", words: list[str]) -> bool:
    """Whether *words* begin with the command's own and leave no more than its positional options."""
    count = len(command.words)
    return tuple(words[:count]) == command.words and (command.many or len(words) - count <= len(command.positional))


def _place(line: Line, command: "Command", words: list[str]) -> None:
    if command.many and words:
        last = len(command.positional) - 1
        words = [*words[:last], ",".join(words[last:])]
    for field, word in zip(command.positional, words, strict=False):
        option = command.option(field)
        if line.flags.get(field, word) != word:
            line.mistake(f"{option.name} is given twice", f'"{line.flags[field]}" and "{word}"', option.shown())
        if not word:
            line.mistake(f"{option.metavar} needs a value", "an empty one was given", option.shown())
        line.flags[field] = word


def _split(arg: str) -> tuple[str, str | None]:
    """`--x=v` and `-x=v` and `-xv` into name and value; None where there is no value."""
    if arg.startswith("--"):
        name, given, value = arg.partition("=")
        return name, value if given else None
    value = arg[2:].removeprefix("=")
    return arg[:2], value if len(arg) > 2 else None


def _is_option(arg: str, spelled: "dict[str, Option]") -> bool:
    return arg.startswith("--") or arg in ("-h", "-V") or arg in spelled


def _take(line: Line, option: "Option", name: str, value: str | None) -> None:
    if option.kind == "flag":
        word = "true" if value is None else value.lower()
        if word not in YES + NO:
            line.mistake(f"{name} takes no value but true or false", f'"{value}" was given', f"{name} or {name}=false")
        line.flags[option.field] = (word in YES) != (name == option.negated)
    elif not value:
        cause = "what follows it is nothing or an option" if value is None else "an empty one was given"
        line.mistake(f"{name} needs a value", cause, option.shown())
    else:
        line.flags[option.field] = value


def _check(line: Line, commands: "tuple[Command, ...]", typed: list[str], unknown: list[str]) -> None:
    """Notes the first mistake: an option nobody knows (its value then looks like a word), the words, the options."""
    command = line.command or next((each for each in commands if line.words[: len(each.words)] == each.words), None)
    here = " ".join((line.prog, *(command.words if command else ())))
    own = {text for option in command.options for text in option.spellings} if command else set()
    for name in unknown:
        meant = close(name, sorted(own | {"--help", "--version"}))
        line.mistake(f'{here} has no option "{name}"', hint=f"did you mean: {meant}" if meant else f"{here} --help")
    if line.words and line.command is None and not line.help:
        no_command(line, commands)
    for name in typed:
        if command and name not in own:
            others = [" ".join(each.words) for each in commands if any(name in o.spellings for o in each.options)]
            more = f" and {len(others) - _OTHERS} more" if len(others) > _OTHERS else ""
            cause = f"it belongs to: {', '.join(others[:_OTHERS])}{more}"
            line.mistake(f'{here} has no option "{name}"', cause, _instead(command, here, name))


def _instead(command: "Command", here: str, name: str) -> str:
    """What does what *name* does elsewhere: a word without an option, or the typed name of what is destroyed."""
    words = " ".join(command.option(field).metavar for field in command.positional)
    fields = {option.field for option in command.options}
    if name in ("--name", "--id", "--instance-uid") and command.positional:
        return f"{here} {words}      options: {here} --help"
    if name in ("--yes", "-y") and "confirm" in fields:
        return f"{' '.join(filter(None, (here, words)))} --confirm NAME      options: {here} --help"
    return f"{here} --help"


def no_command(line: Line, commands: "tuple[Command, ...]") -> None:
    """Notes why the words are no command, and what was probably meant."""
    words = line.words
    group = [command for command in commands if command.words[: len(words)] == words]
    if group:
        choices = ", ".join(command.words[len(words)] for command in group)
        hint = " ".join((line.prog, *words, "--help"))
        line.mistake(f"{line.prog} {' '.join(words)} needs a command", f"one of: {choices}", hint)
        return
    for command in commands:
        if words[: len(command.words)] == command.words:
            rest = words[len(command.words) + len(command.positional)]
            hint = " ".join((line.prog, *command.words, "--help"))
            line.mistake(f'unexpected argument "{rest}"', _takes(command), hint)
            return
    line.mistake(f'no command "{" ".join(words)}"', hint=_meant(line, commands))


def _takes(command: "Command") -> str:
    name = " ".join(command.words)
    if not command.positional:
        return f"{name} takes options only"
    return f"{name} takes {' '.join(command.option(field).metavar for field in command.positional)} and options"


def _meant(line: Line, commands: "tuple[Command, ...]") -> str:
    """
    What was probably meant: what another tool calls otherwise (`scale`), a shortened group (`op list`), a whole command, a
    group, or a command known by its last word alone (`history`).
    """
    said = next((_CALLED[word] for word in line.words[:2] if word in _CALLED), "")
    if said and line.prog == "mcpg-ctl":
        return said
    paths = [" ".join(command.words) for command in commands]
    firsts = sorted({command.words[0] for command in commands} | {"help"})
    lasts = {path.rpartition(" ")[2]: path for path in paths}
    begun = [first for first in firsts if first.startswith(line.words[0])] if len(line.words[0]) > 1 else []
    words = (begun[0] if len(begun) == 1 else line.words[0], *line.words[1:2])
    whole = close(" ".join(words), paths) if len(line.words) > 1 else ""
    meant = whole or close(words[0], firsts) or lasts.get(close(line.words[-1], list(lasts)), "")
    return f"did you mean: {line.prog} {meant}" if meant else f"{line.prog} --help"
