"""Documents that lie fail the build: every file and name that ARCHITECTURE.md and docs/ point to exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mcpg.machines import provision

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def names_in(code: Path) -> set[str]:
    """Every class, function and top-level name a file defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_a_page_names_exists(page: Path) -> None:
    paths = re.findall(
        r"`((?:mcpg|tests|docs|examples|protos|benchmarks|tools|snapshots)/[\w./\[\]-]*)`", page.read_text()
    )
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_every_name_the_walk_through_points_to_is_defined_there() -> None:
    rows = re.findall(r"`(mcpg/[\w/]+\.py)` `(\w+)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(rows) > 5
    assert [(path, name) for path, name in rows if name not in names_in(ROOT / path)] == []


def test_every_make_target_a_page_names_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for page in PAGES for t in re.findall(r"`make (\w+)", page.read_text())}
    assert named <= targets


def test_the_readmes_transcript_shows_the_definition_that_ships() -> None:
    assert f"definition {provision.MACHINE.label} " in (ROOT / "README.md").read_text()


def test_the_migrations_are_in_the_package() -> None:
    assert (ROOT / "mcpg/store/migrations/0001_initial.py").exists()
