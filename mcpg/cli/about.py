"""`mcpg-ctl version`: what this programme is."""

from __future__ import annotations

import sys

from mcpg import __version__
from mcpg.cli import render, resolve
from mcpg.cli.parse import Line


def version(line: Line) -> int:
    """Prints the versions of this programme and of the Python that runs it."""
    python = ".".join(map(str, sys.version_info[:3]))
    data = {"name": line.prog, "version": __version__, "python": python}
    render.emit(
        resolve.values(line).output,
        data,
        table=lambda: [f"{line.prog} {__version__}"],
        wide=lambda: [f"{line.prog} {__version__} (python {python})"],
        names=[__version__],
    )
    return 0
