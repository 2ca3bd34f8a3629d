"""
Gateway configs as data: `render` makes what is stored and pushed, `boot` makes the file a replica starts from.

Pure: text in, text out. The engine calls `render` when somebody publishes, provisioners call `boot` when they start a
gateway or when a pushed config was acknowledged. What the gateway itself thinks of a config (unknown keys, bindings) is
the gateway's to say: it acknowledges every push with `active` or with its own words.

YAML is read as the gateway reads it, YAML 1.2: `yes` and `22:22` are text here, not a boolean and a number of seconds.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import yaml

from mcpg.errors import BadConfig

MAX_BYTES: Final = 3 * 1024 * 1024  # the agent receives at most 4 MiB a message and loops on a larger one (agent.md §1)
MAX_DEPTH: Final = 100  # levels of nesting; far above any real config, far below Python's recursion limit
MAX_NODES: Final = 100_000  # values in a document; a tool has some 40, and reading and writing 100 000 takes 2 s of CPU

DEFAULT_CONFIG: Final = "{}\n"
"""The smallest config the real gateway accepts: every default, no tools (`mcpg-config check`: valid, 0 bindings)."""

PROVISIONER_DECIDES: Final = ("bind_address", "mcp_path", "health_path")

# C0 controls except tab, line feed and carriage return; DEL; surrogates, which are no characters and cannot be encoded.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_LOOKS_LIKE_TOML: Final = re.compile(r"^\s*(\[\[?[\w.\"' -]+\]\]?\s*(#.*)?$|[\w.\"'-]+\s*=)", re.MULTILINE)
_DEEP_KEY: Final = re.compile(rf"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH + 1}}}")
_HINT: Final = "`mcpg-config check FILE`, which comes with the gateway, shows what it would say"

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, slots=True)
class Rendered:
    """`text` is what gateways get and `sha256` its digest (hex); `raw_sha256` is the digest of what the user wrote."""

    text: str
    sha256: str
    raw_sha256: str


class _Size(NamedTuple):
    nodes: int
    characters: int


def render(raw: str) -> Rendered:
    """
    The user's document as it is pushed; equal documents give equal text, whatever their order, comments or anchors.

    `gateway.server.bind_address`, `.mcp_path` and `.health_path` are taken out in silence: a config that was tried by
    hand with a plain `mcpg` has them, it must work here unchanged, and a pushed value would be acknowledged and not
    applied anyway (agent.md §7, restart-only keys). Raises BadConfig.
    """
    document = parse(raw)
    gateway = _section(document, "gateway", "gateway")
    server = _section(gateway, "server", "gateway.server")
    if gateway.pop("control_plane", None) is not None:
        raise BadConfig(
            "the config sets gateway.control_plane",
            cause="the control plane attaches its gateways itself, and a gateway told twice refuses to start",
            hint="remove gateway.control_plane and publish again",
        )
    for key in PROVISIONER_DECIDES:
        server.pop(key, None)
    _prune(document, gateway, server)
    text = _dump(document)
    return Rendered(text=text, sha256=_digest(text), raw_sha256=_digest(raw))


def boot(
    config_text: str,
    *,
    bind: str,
    control_plane: dict[str, Any],
    mcp_path: str = "/mcp",
    health_path: str = "/health",
) -> str:
    """
    The file a gateway boots from: *config_text* (rendered), bound to *bind* (HOST:PORT), attached by *control_plane*.

    An empty *control_plane* leaves the block out: our own agent is told by its environment. The result may hold the
    enrolment URL, a secret: write it 0600. Raises BadConfig when *config_text* does not parse.
    """
    document = parse(config_text)
    gateway = _section(document, "gateway", "gateway")
    server = _section(gateway, "server", "gateway.server")
    server.update(bind_address=bind, mcp_path=mcp_path, health_path=health_path)
    gateway["server"] = server
    gateway.pop("control_plane", None)
    if control_plane:
        gateway["control_plane"] = dict(control_plane)
    document["gateway"] = gateway
    return _dump(document)


def booted(boot_text: str) -> tuple[str, dict[str, Any]]:
    """What `boot` put into a file: *bind* and *control_plane*. Raises BadConfig when the file is none of ours."""
    gateway = _section(parse(boot_text), "gateway", "gateway")
    server = _section(gateway, "server", "gateway.server")
    return str(server.get("bind_address", "")), _section(gateway, "control_plane", "gateway.control_plane")


def server_keys(config_text: str) -> dict[str, Any]:
    """`gateway.server` of a config, {} where it has none: where it says to listen. Raises BadConfig."""
    return _section(_section(parse(config_text), "gateway", "gateway"), "server", "gateway.server")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _section(parent: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    """The mapping at *key*; an absent or null one is a new empty mapping that is not yet in *parent*."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadConfig(f"{path} is {_kind(value)}, not a mapping", hint=_HINT)
    return value


def _prune(document: dict[str, Any], gateway: dict[str, Any], server: dict[str, Any]) -> None:
    """Take out sections with nothing left: a config that only said where to listen equals the empty one."""
    if not server:
        gateway.pop("server", None)
    if not gateway:
        document.pop("gateway", None)


def parse(raw: str) -> dict[str, Any]:
    """The document, of plain values only: str-keyed dicts, lists, str, int, float, bool, None. Raises BadConfig."""
    _check_characters(raw)
    raw = raw.removeprefix("\ufeff")
    try:
        document = _from_yaml(raw)
        words = "" if document is None else f"as YAML it is {_kind(document)}, not a mapping"
    except BadConfig:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more than 4300 digits
        document, words = None, _words(error)
    if document is None and not words:
        raise BadConfig("the config is empty", hint="`{}` is the smallest config: every default and no tools")
    if not isinstance(document, dict):
        document = _from_toml(raw, words)
        _count(document)
    plain = _plain(document, "", 0)
    assert isinstance(plain, dict)  # noqa: S101 - _plain keeps the type; this tells mypy
    return plain


def _check_characters(raw: str) -> None:
    if len(raw) > MAX_BYTES or len(raw.encode(errors="surrogatepass")) > MAX_BYTES:
        raise _too_large("the config")
    if found := _FORBIDDEN.search(raw):
        line = raw.count("\n", 0, found.start()) + 1
        column = found.start() - (raw.rfind("\n", 0, found.start()) + 1) + 1
        raise BadConfig(
            f"the config holds a control character (U+{ord(found[0]):04X}) at line {line} column {column}",
            hint="save it as UTF-8 text",
        )


def _too_large(what: str) -> BadConfig:
    return BadConfig(
        f"{what} is larger than {MAX_BYTES // 1024 // 1024} MiB",
        cause="gateways receive at most 4 MiB a message",
        hint="split the tools over several gateways",
    )


def _too_many() -> BadConfig:
    return BadConfig(
        f"the config has more than {MAX_NODES} values",
        cause="counted with its aliases written out",
        hint="split the tools over several gateways",
    )


def _from_yaml(raw: str) -> object:
    _check_shape(raw)
    return yaml.load(raw, Loader=_Loader)  # noqa: S506 - a SafeLoader with YAML 1.2's scalars


def _check_shape(raw: str) -> None:
    """
    Refuse deep nesting, and documents or aliases that grow too large, before anything is built.

    It counts parser events, not objects: composing is recursive (in C, where depth ends in a crash), and nine lines of
    nested aliases stand for 10**9 nodes. What counts is the document with its aliases written out, as it is sent.
    """
    anchors: dict[str, _Size] = {}
    open_nodes: list[tuple[str | None, _Size]] = [(None, _Size(0, 0))]
    for event in yaml.parse(raw, Loader=_BaseLoader):
        anchor: str | None = None
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) > MAX_DEPTH:
                raise BadConfig(f"the config is nested deeper than {MAX_DEPTH} levels", cause=_place(event.start_mark))
            open_nodes.append((event.anchor, _Size(1, 0)))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, _Size(1, len(event.value))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors and any(event.anchor == name for name, _ in open_nodes):
                raise BadConfig(f"the anchor &{event.anchor} contains itself", cause=_place(event.start_mark))
            size = anchors.get(event.anchor or "", _Size(0, 0))  # undefined: the composer says so, with its own words
        else:
            continue
        if anchor:
            anchors[anchor] = size
        outer, total = open_nodes[-1]
        total = _Size(total.nodes + size.nodes, total.characters + size.characters)
        if total.characters > MAX_BYTES:
            raise _too_large("the config, with its aliases written out,")
        if total.nodes > MAX_NODES:
            raise _too_many()
        open_nodes[-1] = (outer, total)


def _from_toml(raw: str, yaml_words: str) -> dict[str, Any]:
    """*raw* as TOML; when it is that neither, the error speaks of the language it looks like."""
    if _DEEP_KEY.search(raw):  # reading a dotted key takes tomllib the square of its parts
        raise BadConfig(f"the config is nested deeper than {MAX_DEPTH} levels", cause="by a dotted key")
    try:
        return tomllib.loads(raw.replace("\r\n", "\n"))
    except RecursionError:
        raise BadConfig("the config is nested too deeply", hint=_HINT) from None
    except (tomllib.TOMLDecodeError, ValueError) as error:
        looks_like_toml = _LOOKS_LIKE_TOML.search(raw) is not None
        cause = f"as TOML: {error}" if looks_like_toml else yaml_words
    raise BadConfig("the config does not parse", cause=cause, hint=_HINT)


def _words(error: Exception) -> str:
    """The parser's own words and where it stands: `line 2 column 2: did not find expected ',' or ']'`."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    place = _place(error.problem_mark or error.context_mark)
    words = f"{error.problem or ''}{f' ({error.context})' if error.context else ''}"
    return f"{place}: {words}" if place else words


def _place(mark: Any) -> str:
    return f"line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""


def _kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        bytes: "binary data",
    }
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _count(document: dict[str, Any]) -> None:
    """Refuse a TOML document of too many values; YAML's are counted while they are read."""
    nodes = 0
    todo: list[object] = [document]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            nodes += len(value)
            todo.extend(value.values() if isinstance(value, dict) else value)
        if nodes > MAX_NODES:
            raise _too_many()


def _plain(value: object, path: str, depth: int) -> object:
    """*value* without what only Python or TOML has; scalar keys become text, as the gateway reads them."""
    if depth > MAX_DEPTH:
        raise BadConfig(f"the config is nested deeper than {MAX_DEPTH} levels", cause=f"at {path[:200]}")
    if isinstance(value, dict):
        result: dict[str, object] = {}
        for key, inner in value.items():
            name = _key(key, path)
            if name in result:
                raise BadConfig(f"the key {name!r} stands twice", cause=f"in {path or 'the document'}")
            result[name] = _plain(inner, f"{path}.{name}".lstrip("."), depth + 1)
        return result
    if isinstance(value, list):
        return [_plain(inner, f"{path}[{index}]", depth + 1) for index, inner in enumerate(value)]
    if isinstance(value, str) and (found := _FORBIDDEN.search(value)) and "\ud800" <= found[0] <= "\udfff":
        raise BadConfig(f"{path} holds half a character (U+{ord(found[0]):04X})", hint="write it as UTF-8")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadConfig(f"{path} is {_kind(value)}, which a gateway config has no use for", hint="write it as quoted text")


def _key(key: object, path: str) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int | float):
        return str(key)
    raise BadConfig(f"a key in {path or 'the document'} is {_kind(key)}, not text", hint=_HINT)


def _dump(document: dict[str, Any]) -> str:
    """Sorted (the gateway keeps no order either), one way to write each value, no anchors (`_plain` shares nothing)."""
    try:
        text = yaml.dump(
            document, Dumper=_Dumper, sort_keys=True, allow_unicode=True, default_flow_style=False, width=120
        )
    except ValueError as error:  # a number of more than 4300 digits, written in another base than 10
        raise BadConfig("the config holds a number that is too large", cause=str(error), hint=_HINT) from error
    if len(text.encode()) > MAX_BYTES:
        raise _too_large("the config, as it is sent,")
    return str(text)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """A SafeLoader that knows YAML 1.2's scalars only, and does not let the second of two equal keys win in silence."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way to say it

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """A SafeDumper that quotes what YAML 1.1 *or* 1.2 would read as something else than text."""

    yaml_implicit_resolvers = {key: list(value) for key, value in _BaseDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


def _text(dumper: Any, value: str) -> Any:
    """Text of several lines as a block, where that says exactly the same; everything else in PyYAML's default style."""
    is_block = "\n" in value and all(line == line.strip() and line.isprintable() for line in value.split("\n"))
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if is_block and value[0] != "\n" else None)


# YAML 1.2.2 §10.3.2 (core schema), and `<<`, which 1.2 dropped but people use: we write merges out.
_CORE: Final = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
        )
_Dumper.add_representer(str, _text)
