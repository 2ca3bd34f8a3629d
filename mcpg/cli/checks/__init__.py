"""
The checks of `mcpg-ctl doctor`, a module a subject: machine.py, state.py, server.py, client.py, fleet.py.

Each is a function from facts.py's `Facts` to a `Verdict`; mcpg/cli/doctor.py lists them all and runs them side by side.
"""
