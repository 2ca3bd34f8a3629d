"""
Every command and example of the command line, as plain data: the one table, a module a group.

Read by mcpg/cli/parse.py (what is valid), resolve.py (flag > environment > default) and helptext.py (every help page).
To add a command: write its function, append one `Command` to its group here; help, did-you-mean and parsing follow.
Nothing but the shapes of table.py is imported, because `--help` and `--version` must cost no more than Python itself.
"""

from mcpg.cli.commands import local, provision
from mcpg.cli.table import Command

COMMANDS: tuple[Command, ...] = (*local.COMMANDS, *provision.COMMANDS)

GROUPS = {"provision": "managed gateways: create, delete, and their histories"}
