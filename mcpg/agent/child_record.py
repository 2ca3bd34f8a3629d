"""Where a supervised data plane is on record: for child_process.py, which starts it, and status.py, which only looks."""

from __future__ import annotations

from pathlib import Path

from mcpg.agent import credentials
from mcpg.host import processes


def directory(state_dir: Path) -> Path:
    return credentials.agent_dir(state_dir) / "dataplane"


def marker(state_dir: Path) -> str:
    """What its process, and whatever it starts, carries in the environment."""
    return f"data-plane={state_dir}"


def living(state_dir: Path) -> int | None:
    """The pid of the data plane that runs now, whether its agent does or not."""
    record = processes.read_record(directory(state_dir) / "record")
    runs = record is not None and processes.is_alive(record.identity, marker(state_dir))
    return record.identity.pid if record is not None and runs else None
