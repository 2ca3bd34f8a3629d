"""docs/cli.md and docs/cli-schema.json are what `make docs` makes of the command table today."""

from __future__ import annotations

import re

import pytest

from mcpg.cli.commands import COMMANDS
from mcpg.cli.table import Command
from tools import cli_docs

PAGE = cli_docs.page()


@pytest.mark.parametrize(("name", "made"), [("cli.md", cli_docs.page), ("cli-schema.json", cli_docs.schema)])
def test_a_generated_page_is_up_to_date(name: str, made: cli_docs.Maker) -> None:
    assert (cli_docs.DOCS / name).read_text() == made(), "run: make docs"


def anchors() -> set[str]:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    found = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(found) == len(set(found)), "two headings with one anchor"
    return set(found)


def test_every_link_leads_somewhere() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) - anchors() == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_a_command_is_there_with_all_its_options_and_examples(command: Command) -> None:
    section = re.split(
        r"^#{2,3} ", PAGE.partition(f"# mcpg-ctl {' '.join(command.words)}\n")[2], maxsplit=1, flags=re.MULTILINE
    )[0]
    links = re.findall(r"\]\(#([a-z]+-options?)\)", section)
    shared = "".join(
        PAGE.partition(f"### {link.replace('-', ' ').capitalize()}\n")[2].partition("\n#")[0] for link in links
    )
    assert [option.name for option in command.options if option.name not in section + shared] == []
    assert [example for example in command.examples if example not in section] == []


def test_a_table_cell_holds_no_bar_and_no_tag() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 5}
    assert [row for row in rows if re.search(r"<\w", row)] == []
