"""The generated code is what protos/ says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_generated_code_is_current(tmp_path: Path) -> None:
    """tools/proto.sh makes exactly the files that are in mcpg/agent/pb."""
    subprocess.run(
        [ROOT / "tools/proto.sh", str(tmp_path)],
        check=True,
        capture_output=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    made = {p.name: p.read_text() for p in tmp_path.iterdir()}
    kept = {p.name: p.read_text() for p in (ROOT / "mcpg/agent/pb").iterdir() if p.is_file()}
    assert kept == made
