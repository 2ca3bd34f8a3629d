"""`operation`, `machine`: what was asked for, its journal, and the tables behind it."""

from mcpg.cli.options import CLIENT, CONFIRM, DRAWN, GLOBAL, ORG, OUTPUT, VIEWING, WAITING, YES
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
            Option("--kind", "only of this kind: create, update, delete, adopt, recover", metavar="KIND"),
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
        "operation explain",
        "mcpg.cli.why:explain",
        "why an operation is where it is, and what would move it on",
        about="What it waits for and what was seen of that, which moves there are and which guard says no, who drives it and"
        " when nobody does, why.",
        examples=("mcpg-ctl operation explain op-7f2e", "mcpg-ctl operation explain op-7f2e -o json"),
        options=(_ID, *CLIENT),
        required=("id",),
        positional=("id",),
        shape="Explanation",
    ),
    Command(
        "operation replay",
        "mcpg.cli.replaying:replay",
        "fold a history through its definition: does every line follow from the last",
        about="Of an operation of the control plane, or of an export in a FILE or on stdin (-), which needs none. Checks order,"
        " times, every move and guard against the facts it saw, and the chain of hashes; exit 1 at the first line that"
        " does not follow.",
        examples=(
            "mcpg-ctl operation replay op-7f2e",
            "mcpg-ctl operation replay op-7f2e.json --until 3",
            "mcpg-ctl operation export op-7f2e | mcpg-ctl operation replay - -o json",
            "mcpg-ctl operation replay op-7f2e --definition provision.json",
        ),
        options=(
            Option(
                "--id", "the operation, the beginning of its id, FILE, or -", metavar="ID|FILE|-", names="operation"
            ),
            Option(
                "--until",
                "stop after this line, and say what it was then",
                kind="int",
                metavar="N",
                default=None,
                low=1,
                high=1_000_000_000,
            ),
            Option("--definition", "judge it by the definition in this file instead", kind="path", metavar="FILE"),
            *CLIENT,
        ),
        required=("id",),
        positional=("id",),
        shape="Replay",
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
        about="-o mermaid is its diagram as text, -o svg the picture, both drawn from what this control plane runs.",
        examples=("mcpg-ctl machine show provision", "mcpg-ctl machine show provision -o svg > provision.svg"),
        options=(
            Option("--name", "the machine", metavar="NAME", names="machine"),
            DRAWN,
            *(each for each in CLIENT if each is not OUTPUT),
        ),
        required=("name",),
        positional=("name",),
        shape="Machine",
    ),
    Command(
        "machine check",
        "mcpg.cli.checker:check",
        "prove the shipped machines: every state that they can come to together",
        about="Looks at each table alone, then explores worlds of operations, gateways, room and leases in which engines are"
        " killed, outcomes arrive late or twice, and people interfere at any moment. Needs no control plane. Exit 1 when"
        " something does not hold, with the shortest way there as a timeline.",
        examples=("mcpg-ctl machine check", "mcpg-ctl machine check recovery -o json"),
        options=(
            Option("--name", "only of this machine, or this one world", metavar="NAME", names="machine"),
            OUTPUT,
            *GLOBAL,
        ),
        positional=("name",),
        shape="MachineCheck",
    ),
    Command(
        "machine diff",
        "mcpg.cli.upgrades:diff",
        "two definitions side by side, and whose rest would notice",
        about="Each is a machine's name (what runs now), name@hash or a hash (what ever ran), or a FILE. Two files need no"
        " control plane.",
        examples=(
            "mcpg-ctl machine diff provision provision.json",
            "mcpg-ctl machine diff provision@b61f0c9a21de provision",
        ),
        options=(
            Option("--before", "the definition to start from", metavar="NAME|HASH|FILE", names="machine"),
            Option("--after", "the definition to compare it with", metavar="NAME|HASH|FILE", names="machine"),
            *CLIENT,
        ),
        required=("before", "after"),
        positional=("before", "after"),
        shape="MachineDiff",
    ),
    Command(
        "machine upgrade",
        "mcpg.cli.upgrades:upgrade",
        "what another definition would make of every operation, live and recorded",
        about="Judges every history by the definition in FILE, else by each that this mcpg-ctl ships: replayable as it is,"
        " another path from some line on, or stuck in a state without a way out. Changes nothing. Exit 1 when a live"
        " operation would be stuck.",
        examples=("mcpg-ctl machine upgrade", "mcpg-ctl machine upgrade --check provision.json -o json"),
        options=(
            Option(
                "--check", "the definition to judge by; default: all of this mcpg-ctl's", kind="path", metavar="FILE"
            ),
            *CLIENT,
        ),
        positional=("check",),
        shape="UpgradeReport[]",
    ),
)
