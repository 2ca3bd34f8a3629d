"""
docs/cli.md and docs/cli-schema.json, from the command table and the wire types: `make docs` writes both, and
tests/cli/test_docs.py fails when they are not what this makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mcpg.cli.commands import COMMANDS, GROUPS
from mcpg.cli.helptext import explained, spelled
from mcpg.cli.options import CONNECTION, GLOBAL, OUTPUT, PLACE, PROG, SERVER
from mcpg.cli.table import Command, Option
from mcpg.cli.topics import TOPICS
from mcpg.wire import shapes

Maker = Callable[[], str]
DOCS = Path(__file__).parents[1] / "docs"
_COMMON = {
    "output option": (OUTPUT,),
    "connection options": CONNECTION,
    "place options": PLACE,
    "server options": SERVER,
    "global options": GLOBAL,
}
_INTRO = f"""\
# {PROG}

The command line of the control plane. This page is made from the command table (`mcpg/cli/commands/`) by `make docs`; every
command says the same with `--help`, and what `-o json` prints is in [cli-schema.json](cli-schema.json) as JSON Schema 2020-12.
"""


def page() -> str:
    """docs/cli.md."""
    return "\n".join((_INTRO, *_contents(), *_commands(), *_common(), *_topics(), *_types())).rstrip() + "\n"


def schema() -> str:
    """docs/cli-schema.json: `commands` says which of `$defs` each prints, `error` what stderr then holds."""
    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What {PROG} prints with -o json",
        "commands": {" ".join(each.words): shapes.schema_of(each.shape) for each in COMMANDS if each.shape},
        "error": shapes.schema_of("ErrorReport"),
        "$defs": shapes.definitions(),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _contents() -> Iterable[str]:
    yield "| command | does |\n|---|---|"
    for command in COMMANDS:
        name = " ".join(command.words)
        yield f"| [{name}](#{_anchor(f'{PROG} {name}')}) | {_cell(command.summary)} |"
    yield ""
    yield f"Then: {_links(['Common options', *map(_title, TOPICS), 'JSON types'])}."
    yield ""


def _common() -> Iterable[str]:
    yield "## Common options\n"
    yield "Options may stand anywhere, before or after the command. `MCPG_CP_X` may be called `MCPG_CONTROL_PLANE_X` too.\n"
    for title, options in _COMMON.items():
        yield f"### {title.capitalize()}\n"
        yield from _table(options)


def _topics() -> Iterable[str]:
    for name, text in TOPICS.items():
        yield f"## {_title(name)}\n"
        yield f"`{PROG} help {name}`\n"
        yield f"```\n{text.rstrip()}\n```\n"


def _commands() -> Iterable[str]:
    group = ""
    for command in COMMANDS:
        first = command.words[0]
        if first in GROUPS and first != group:
            group = first
            yield f"## {PROG} {group}\n"
            yield f"{_sentence(GROUPS[group])}\n"
        yield f"{'###' if first in GROUPS else '##'} {PROG} {' '.join(command.words)}\n"
        yield from _command(command)


def _command(command: Command) -> Iterable[str]:
    yield f"{_sentence(command.summary)} {command.about}".strip() + "\n"
    examples = "\n".join(command.examples)
    yield f"```\n{examples}\n```\n"
    taken = [title for title, options in _COMMON.items() if set(options) <= set(command.options)]
    shared = {option for title in taken for option in _COMMON[title]}
    own = [option for option in command.options if option not in shared]
    if own:
        yield from _table(own, command)
    needed = [f"`{command.option(field).name}`" for field in command.required]
    if needed:
        yield f"Needed, from wherever they come: {', '.join(needed)}.\n"
    if taken:
        yield f"Also takes: {_links(taken)}.\n"
    if command.shape:
        yield f"With `-o json`: {_linked(command.shape)}.\n"


def _table(options: Iterable[Option], command: Command | None = None) -> Iterable[str]:
    yield "| option | is | environment | default |\n|---|---|---|---|"
    for option in options:
        by_place = " (or by position)" if command and option.field in command.positional else ""
        spelling = f"`{spelled(option)}`{by_place}"
        environment = f"`{option.env[0]}`" if option.env else ""
        yield f"| {_cell(spelling)} | {_cell(explained(option, env=False, default=False))} | {environment} | {_default(option)} |"
    yield ""


def _default(option: Option) -> str:
    if option.default is True:
        return f"`{option.name}`"
    if option.default in ("", None, False):
        return ""
    return f"`{option.default:g}`" if isinstance(option.default, float) else f"`{option.default}`"


def _types() -> Iterable[str]:
    yield "## JSON types\n"
    yield "Times are RFC 3339 in UTC. Server types may gain keys; those of the command line itself hold these and no others.\n"
    for name, definition in shapes.definitions().items():
        yield f"### {name} object\n"
        if definition.get("description"):
            yield f"{definition['description'].strip()}\n"
        yield "| key | is |\n|---|---|"
        for key, about in definition.get("properties", {}).items():
            yield f"| `{key}` | {_cell(_type(about))} |"
        yield ""


def _type(about: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in about:
        return _linked(about["$ref"].rpartition("/")[2])
    if "anyOf" in about:
        return " or ".join(_type(each) for each in about["anyOf"])
    if "enum" in about or "const" in about:
        return ", ".join(f"`{each}`" for each in about.get("enum", [about.get("const")]))
    if about.get("format") == "date-time":
        return "time"
    kind = str(about.get("type", "anything"))
    if kind == "array":
        return f"list of {_type(about.get('items', {}))}"
    if kind == "object" and isinstance(about.get("additionalProperties"), dict):
        return f"object of {_type(about['additionalProperties'])}"
    return kind


def _linked(shape: str) -> str:
    parts = [part.strip() for part in shape.split("|")]
    words = [f"[`{part}`](#{part.removesuffix('[]').lower()}-object)" for part in parts]
    return " or ".join(words)


def _links(titles: Iterable[str]) -> str:
    return ", ".join(f"[{title}](#{_anchor(title)})" for title in titles)


def _title(topic: str) -> str:
    return topic.replace("-", " ").capitalize()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def main() -> int:
    (DOCS / "cli.md").write_text(page(), "utf-8")
    (DOCS / "cli-schema.json").write_text(schema(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
