"""
Every command and example of the command line, as plain data: the one table, a module a group.

Read by mcpg/cli/parse.py (what is valid), resolve.py (flag > environment > default) and helptext.py (every help page).
To add a command: write its function, append one `Command` to its group here; help, did-you-mean and parsing follow.
Nothing but the shapes of table.py is imported, because `--help` and `--version` must cost no more than Python itself.
"""

from mcpg.cli.commands import audit, fleet, here, local, operations, provision, session
from mcpg.cli.table import Command

COMMANDS: tuple[Command, ...] = (
    *local.COMMANDS,
    *provision.COMMANDS,
    *operations.COMMANDS,
    *audit.COMMANDS,
    *fleet.COMMANDS,
    *session.COMMANDS,
    *here.COMMANDS,
)

GROUPS = {
    "provision": "managed gateways: create, delete, and their histories",
    "operation": "what was asked for: follow it, wait for it, read its journal",
    "instance": "gateways of the fleet, orphans among them",
    "cluster": "where gateways run: capacity, health, drain",
    "token": "enrolment tokens of an environment",
    "machine": "the state machines that everything moves by",
    "audit": "the past held against the present",
    "auth": "who this machine is signed in as",
    "context": "stored sets of defaults: which control plane, which place in it",
    "config": "settings, and where each value comes from",
}
