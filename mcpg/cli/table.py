"""The two shapes of the static table in mcpg/cli/commands: `Command` and its `Option`s. Imports nothing."""


class Option:
    """
    One option. `kind` is text, path, flag, int, number or choice; `negated` is its `--no-x` form, "" for none.

    `env` are the environment names, the documented one first. `low` and `high` are inclusive. `names` says which live
    names complete it (`cluster`, `org`; see mcpg/cli/completion.py). A `secret` is never printed.
    """

    __slots__ = (
        "choices",
        "default",
        "env",
        "field",
        "help",
        "high",
        "kind",
        "low",
        "metavar",
        "name",
        "names",
        "negated",
        "secret",
        "short",
    )

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002  what the column is called
        *,
        kind: str = "text",
        metavar: str = "TEXT",
        env: tuple[str, ...] = (),
        default: "str | bool | int | float | None" = "",
        choices: tuple[str, ...] = (),
        low: "float | None" = None,
        high: "float | None" = None,
        short: str = "",
        negated: str = "",
        names: str = "",
        secret: bool = False,
    ) -> None:
        self.name = name
        self.field = name[2:].replace("-", "_")
        self.help = help
        self.kind = "choice" if choices else kind
        self.metavar = "|".join(choices) if choices else metavar
        self.env = env
        self.default = default
        self.choices = choices
        self.low = low
        self.high = high
        self.short = short
        self.negated = negated
        self.names = names
        self.secret = secret

    def shown(self) -> str:
        """How to give it and what it is, for a hint: `--org SLUG or MCPG_ORG: organisation slug`."""
        flag = self.name if self.kind == "flag" else f"{self.name} {self.metavar}"
        return f"{' or '.join((flag, *self.env[:1]))}: {self.help}"

    @property
    def spellings(self) -> tuple[str, ...]:
        return tuple(text for text in (self.short, self.name, self.negated) if text)


class Command:
    """
    One command. `run` is `module:function`, called with the parsed line and returning the exit code.

    `required` are fields that must come from somewhere. `positional` are fields that may be given without their flag,
    in this order: `operation show op-7f2e` is `operation show --id op-7f2e`; with `many` the last
    takes all that follow, joined with commas. `shape` names what `-o json` prints, as in docs/cli-schema.json: `Cluster`,
    `Cluster[]` for a list, "" for a command without data.
    """

    __slots__ = ("about", "examples", "many", "options", "positional", "required", "run", "shape", "summary", "words")

    def __init__(
        self,
        words: str,
        run: str,
        summary: str,
        *,
        about: str = "",
        examples: tuple[str, ...] = (),
        options: tuple[Option, ...] = (),
        required: tuple[str, ...] = (),
        positional: tuple[str, ...] = (),
        shape: str = "",
        many: bool = False,
    ) -> None:
        self.words = tuple(words.split())
        self.run = run
        self.summary = summary
        self.about = about
        self.examples = examples
        self.options = options
        self.required = required
        self.positional = positional
        self.shape = shape
        self.many = many

    def option(self, field: str) -> Option:
        return next(option for option in self.options if option.field == field)
