"""The declared machines: one file each, pure data and pure functions. No I/O, no clock, no asyncio."""

from mcpg.machines import cluster, enrolment, provision, recovery, teardown
from mcpg.machines.table import Table

TABLES: dict[str, Table] = {
    t.name: t for t in (provision.MACHINE, teardown.MACHINE, recovery.MACHINE, enrolment.MACHINE, cluster.MACHINE)
}
