"""`context`, `config`, `completion`, `version`: this side of the command line. None of them sends a request."""

from mcpg.cli.options import CLIENT, CONNECTION, GLOBAL, OUTPUT, PLACE, YES
from mcpg.cli.table import Command, Option

_NAME = Option("--name", "the context", metavar="NAME", names="context")
_CONNECTION = {option.field: option for option in CONNECTION}


def _stored(option: Option, name: str = "") -> Option:
    """*option* as something to store: from the command line alone, without a default."""
    return Option(
        name or option.name,
        option.help,
        kind=option.kind,
        metavar=option.metavar,
        choices=option.choices,
        names=option.names,
    )


COMMANDS: tuple[Command, ...] = (
    Command(
        "context list",
        "mcpg.cli.here:list_",
        "every stored context; * marks the one in use",
        examples=("mcpg-ctl context list", "mcpg-ctl context list -o name"),
        options=(OUTPUT, *GLOBAL),
        shape="Context[]",
    ),
    Command(
        "context show",
        "mcpg.cli.here:show",
        "one context; without a name the one in use",
        examples=("mcpg-ctl context show", "mcpg-ctl context show prod -o json"),
        options=(_NAME, OUTPUT, *GLOBAL),
        positional=("name",),
        shape="Context",
    ),
    Command(
        "context use",
        "mcpg.cli.here:use",
        "make a context the current one",
        about="Commands then take from it what is given neither by flag nor by environment. `none` leaves none.",
        examples=("mcpg-ctl context use prod", "mcpg-ctl context use none"),
        options=(_NAME, OUTPUT, *GLOBAL),
        required=("name",),
        positional=("name",),
        shape="Context",
    ),
    Command(
        "context add",
        "mcpg.cli.here:add",
        "store a context",
        about="Stores what is typed, and no secret: the session stays in its file."
        " The session goes to the context's own URL only, never to another --cp-url.",
        examples=(
            "mcpg-ctl context add local --cp-url http://127.0.0.1:7843 --use",
            "mcpg-ctl context add prod --cp-url https://cp.example --org acme --workspace prod --env us --protected",
        ),
        options=(
            _NAME,
            _stored(_CONNECTION["cp_url"]),
            *map(_stored, PLACE),
            _stored(OUTPUT, "--stored-output"),
            _stored(_CONNECTION["session_cookie_file"]),
            Option("--protected", "what destroys asks for a typed name here", kind="flag", default=False),
            Option("--use", "and make it the current one", kind="flag", default=False),
            Option("--replace", "put it in the place of the one with this name", kind="flag", default=False),
            OUTPUT,
            *GLOBAL,
        ),
        required=("name",),
        positional=("name",),
        shape="Context",
    ),
    Command(
        "context rm",
        "mcpg.cli.here:rm",
        "forget a context",
        about="--all removes the file, also one that cannot be read.",
        examples=("mcpg-ctl context rm prod", "mcpg-ctl context rm --all --yes"),
        options=(
            _NAME,
            Option("--all", "every one of them; asks first", kind="flag", default=False),
            YES,
            OUTPUT,
            *GLOBAL,
        ),
        positional=("name",),
        shape="Removed",
    ),
    Command(
        "config explain",
        "mcpg.cli.explain:explain",
        "every setting: its value, and where that comes from",
        about="Flag, then environment, then context, then default. Secrets are hidden; a value that cannot be used is"
        " shown with the reason.",
        examples=(
            "mcpg-ctl config explain",
            "mcpg-ctl config explain url",
            "mcpg-ctl config explain --context prod -o json",
        ),
        options=(Option("--name", "part of a setting's name", metavar="PART"), *PLACE, *CLIENT),
        positional=("name",),
        shape="Setting[]",
    ),
    Command(
        "version",
        "mcpg.cli.about:version",
        "the version of this programme",
        examples=("mcpg-ctl version", "mcpg-ctl version -o json"),
        options=(OUTPUT, *GLOBAL),
        shape="VersionInfo",
    ),
    Command(
        "completion",
        "mcpg.cli.completion:script",
        "completion for a shell, to be sourced",
        about="Completes commands, options, values and live names, which it keeps for 30 seconds.",
        examples=(
            "source <(mcpg-ctl completion bash)",
            "mcpg-ctl completion zsh > ~/.zfunc/_mcpg-ctl",
            "mcpg-ctl completion fish > ~/.config/fish/completions/mcpg-ctl.fish",
        ),
        options=(Option("--shell", "the shell", choices=("bash", "zsh", "fish")), *GLOBAL),
        required=("shell",),
        positional=("shell",),
    ),
)
