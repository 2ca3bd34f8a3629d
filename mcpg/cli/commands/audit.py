"""`audit`: the past held against the present."""

from mcpg.cli.options import CLIENT
from mcpg.cli.table import Command, Option

COMMANDS: tuple[Command, ...] = (
    Command(
        "audit verify",
        "mcpg.cli.audit:verify",
        "whether every history holds and every row is what its history says",
        about="Every chain of hashes, every move by the definition it was made by, every row against its lines, room and"
        " counters against each other. Exit 1 when anything is found. It only reads, a part at a time.",
        examples=("mcpg-ctl audit verify", "mcpg-ctl audit verify -o json"),
        options=(
            Option("--limit", "how many findings to list", kind="int", metavar="N", default=100, low=1, high=1000),
            *CLIENT,
        ),
        shape="Audit",
    ),
)
