"""The rules of the house that no linter knows, each as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.bounds import BOUND_S

ROOT = Path(__file__).parents[2]
MCPG = ROOT / "mcpg"


def test_no_file_is_longer_than_four_hundred_lines_without_saying_why() -> None:
    long = [
        str(path.relative_to(ROOT))
        for folder in ("mcpg", "tests", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if "/pb/" not in str(path) and "/migrations/" not in str(path)
        if len(path.read_text().splitlines()) > 400
        and "over 400 lines" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert long == []


def test_no_test_sleeps_to_wait() -> None:
    """A yield to the loop (`sleep(0)`) and the pause of a bounded poll are no waits for something to be true."""
    sleepers = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and float(node.args[0].value) > 0.1
    ]
    assert sleepers == []


def test_no_test_gives_up_before_the_others() -> None:
    """How long a test waits for what should come is one number, tests/bounds.py; less than a second is no wait for that."""
    hasty = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for given in (
            *(node.args if isinstance(node.func, ast.Attribute) and node.func.attr in ("timeout", "wait") else ()),
            *(node.args[1:] if isinstance(node.func, ast.Attribute) and node.func.attr == "wait_for" else ()),
            *(keyword.value for keyword in node.keywords if keyword.arg == "timeout"),
        )
        if isinstance(given, ast.Constant) and isinstance(given.value, int | float) and 1 <= given.value < BOUND_S
    ]
    assert hasty == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in MCPG.rglob("*.py")
        if "/pb/" not in str(path) and "/migrations/" not in str(path) and path.read_text().strip()
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_importing_the_server_opens_nothing_and_warns_of_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import mcpg.server"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
