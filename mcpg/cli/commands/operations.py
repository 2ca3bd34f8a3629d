"""`operation`, `machine`: what was asked for, its journal, and the tables behind it."""

from mcpg.cli.options import CLIENT, CONFIRM, ORG, VIEWING, WAITING, YES
from mcpg.cli.table import Command, Option

_ID = Option("--id", "the operation, or the beginning of its id", metavar="ID", names="operation")
_EXIT_STATUS = Option(
    "--exit-status",
    "exit 0 when it ended well, 1 when it did not, 8 while it runs",
    kind="flag",
    default=False,
)
_REASON = Option("--reason", "why, for its history", metavar="TEXT")
_FOLLOWING = (WAITING[0], *VIEWING)

COMMANDS: tuple[Command, ...] = (
    Command(
        "operation list",
        "mcpg.cli.operation:index",
        "operations of every org, newest first",
        about="Of one org alone where --org, MCPG_ORG or the context names it.",
        examples=(
            "mcpg-ctl operation list",
            "mcpg-ctl operation list --running -o name",
            "mcpg-ctl operation list --org acme --kind create --name edge-1 -o wide",
        ),
        options=(
            ORG,
            Option("--running", "only those that are not over", kind="flag", default=False),
            Option("--kind", "only of this kind: create, update, delete, adopt", metavar="KIND"),
            Option("--name", "only of the gateway with this name", metavar="SLUG", names="gateway"),
            Option("--limit", "how many operations", kind="int", metavar="N", default=20, low=1, high=1000),
            *CLIENT,
        ),
        shape="Operation[]",
    ),
    Command(
        "operation show",
        "mcpg.cli.operation:show",
        "one operation and every move it made",
        examples=(
            "mcpg-ctl operation show op-7f2e",
            "mcpg-ctl operation show op-7f2e --exit-status -o json",
        ),
        options=(_ID, _EXIT_STATUS, *CLIENT),
        required=("id",),
        positional=("id",),
        shape="Operation",
    ),
    Command(
        "operation attach",
        "mcpg.cli.operation:attach",
        "show an operation's ladder from its beginning, then live",
        about="As `provision create` shows it, with the same exit codes. Ctrl-C leaves it running.",
        examples=("mcpg-ctl operation attach op-7f2e", "mcpg-ctl operation attach op-7f2e --timeout 60"),
        options=(_ID, *VIEWING, *CLIENT),
        required=("id",),
        positional=("id",),
        shape="Result",
    ),
    Command(
        "operation resume",
        "mcpg.cli.steer:resume",
        "send a paused operation back to where it was",
        about="With a fresh deadline. Then its ladder, as `operation attach` shows it.",
        examples=(
            "mcpg-ctl operation resume op-7f2e",
            "mcpg-ctl operation resume op-7f2e --reason 'the disk has room again'",
        ),
        options=(_ID, _REASON, *_FOLLOWING, *CLIENT),
        required=("id",),
        positional=("id",),
        shape="Result | Accepted",
    ),
    Command(
        "operation retry",
        "mcpg.cli.steer:retry",
        "try again now; what failed is asked for anew",
        about="An attempt that was put off is made now, a paused operation is resumed, and of a failed or cancelled one"
        " the same request is made as a new operation.",
        examples=("mcpg-ctl operation retry op-7f2e", "mcpg-ctl operation retry op-7f2e --no-wait -o name"),
        options=(_ID, _REASON, *_FOLLOWING, *CLIENT),
        required=("id",),
        positional=("id",),
        shape="Result | Accepted",
    ),
    Command(
        "operation cancel",
        "mcpg.cli.steer:cancel",
        "stop an operation and take back what it did",
        about="Of a create nothing is left, an updated gateway goes back to its spec and config of before. A delete can be"
        " cancelled until the first process is stopped. --plan shows what would be taken back, in order, and changes nothing.",
        examples=(
            "mcpg-ctl operation cancel op-7f2e --plan",
            "mcpg-ctl operation cancel op-7f2e --yes --reason 'wrong config'",
        ),
        options=(
            _ID,
            Option("--plan", "only show what it would take back", kind="flag", default=False),
            _REASON,
            YES,
            CONFIRM,
            *_FOLLOWING,
            *CLIENT,
        ),
        required=("id",),
        positional=("id",),
        shape="Result | Accepted | CancelPlan",
    ),
    Command(
        "operation watch",
        "mcpg.cli.watching:watch",
        "a line for every transition as it happens",
        about="Of every operation, from now on, until Ctrl-C; with an ID every one of that operation, until it ends."
        " Goes on where it was after a cut or a restart of the control plane."
        " -o json is one object a line, as -o jsonl.",
        examples=(
            "mcpg-ctl operation watch",
            "mcpg-ctl operation watch -o jsonl",
            "mcpg-ctl operation watch op-7f2e",
        ),
        options=(_ID, *VIEWING, *CLIENT),
        positional=("id",),
        shape="FleetEvent",
    ),
    Command(
        "operation wait",
        "mcpg.cli.watching:wait",
        "wait silently until operations are over",
        about="Exit 0 when all ended well, 1 when any did not, 124 when --timeout came first.",
        examples=(
            "mcpg-ctl operation wait op-7f2e",
            "mcpg-ctl operation wait op-7f2e op-93d0 --timeout 300",
        ),
        options=(
            Option("--id", "the operations, with commas between them", metavar="ID…", names="operation"),
            *VIEWING,
            *CLIENT,
        ),
        required=("id",),
        positional=("id",),
        shape="Operation[]",
        many=True,
    ),
    Command(
        "operation export",
        "mcpg.cli.operation:export",
        "one operation, its history and its machine as one JSON document",
        about="The server's bytes, unchanged: of an operation that is over always the same.",
        examples=(
            "mcpg-ctl operation export op-7f2e",
            "mcpg-ctl operation export op-7f2e --file op-7f2e.json",
        ),
        options=(
            _ID,
            Option("--file", "write it there instead of stdout", kind="path", metavar="FILE"),
            Option("--force", "overwrite the file", kind="flag", default=False),
            *CLIENT[1:],
        ),
        required=("id",),
        positional=("id",),
    ),
    Command(
        "machine list",
        "mcpg.cli.machine:index",
        "the state machines of this control plane",
        examples=("mcpg-ctl machine list", "mcpg-ctl machine list -o name"),
        options=CLIENT,
        shape="MachineSummary[]",
    ),
    Command(
        "machine show",
        "mcpg.cli.machine:show",
        "one machine: its states, its moves, and what rests where",
        examples=("mcpg-ctl machine show provision", "mcpg-ctl machine show provision --mermaid"),
        options=(
            Option("--name", "the machine", metavar="NAME", names="machine"),
            Option("--mermaid", "the diagram's text instead", kind="flag", default=False),
            *CLIENT,
        ),
        required=("name",),
        positional=("name",),
        shape="Machine",
    ),
)
