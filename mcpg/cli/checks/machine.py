"""Checks of this machine and this installation: Python, packages, limits, browser, proxies, the gateway program."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from mcpg.cli import programs
from mcpg.cli.browser import can_open
from mcpg.cli.checks.facts import Facts, Skip, Verdict, bad, good, note
from mcpg.errors import McpgError

PACKAGE = "mcpg-control-plane"
_FILES_LOW = 1024  # each gateway costs the server a connection or two, each viewer one
_OPENERS = ("xdg-open", "x-www-browser", "www-browser", "wslview", "firefox", "chromium", "google-chrome")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY")


def python(facts: Facts) -> Verdict:
    """Whether the interpreter is one that the package asks for."""
    ours = ".".join(map(str, sys.version_info[:3]))
    try:
        about = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        raise Skip(f"{ours}; {PACKAGE} is not installed, so nothing says what it needs") from None
    wanted = (about.get_all("Requires-Python") or [""])[0]
    if wrong := unmet(ours, wanted):
        return bad(f"{ours}, and {PACKAGE} needs {wrong}", f"pipx install --python python3.11 {PACKAGE}")
    return good(f"{ours} (needs {wanted or 'no special one'})")


def packages(facts: Facts) -> Verdict:
    """Whether every package this one requires is there, in a version it takes."""
    try:
        required = [each for each in metadata.requires(PACKAGE) or [] if ";" not in each]
    except metadata.PackageNotFoundError:
        raise Skip(f"{PACKAGE} is not installed: it runs from a folder") from None
    wrong = []
    for each in required:
        name = each[: next((at for at, char in enumerate(each) if char in "<>=!~["), len(each))].strip()
        wanted = each[len(name) :].strip()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append((f"{name} is missing", f"{name}{wanted}"))
            continue
        if reason := unmet(found, wanted):
            wrong.append((f"{name} is {found}, needs {reason}", f"{name}{wanted}"))
    if wrong:
        wants = " ".join(f"'{want}'" for _, want in wrong)
        return bad("; ".join(words for words, _ in wrong), f"{sys.executable} -m pip install {wants}")
    return good(f"all {len(required)} in versions that {PACKAGE} {metadata.version(PACKAGE)} takes")


def unmet(version: str, wanted: str) -> str:
    """The first part of *wanted* (`>=1.2,<2`) that *version* does not meet, "" when it meets all it can compare."""
    for part in filter(None, (each.strip() for each in wanted.split(","))):
        operator = part.rstrip("0123456789.*abcrdevpost ")
        have, want = _release(version), _release(part[len(operator) :])
        meets = {">=": have >= want, ">": have > want, "<": have < want, "<=": have <= want, "!=": have != want}
        if not meets.get(operator, True):
            return part
    return ""


def _release(version: str) -> tuple[int, ...]:
    """`1.85.1rc1` is (1, 85, 1): enough for the plain bounds of our own dependencies; zeros at the end say nothing."""
    found: list[int] = []
    for part in version.split("."):
        digits = part[: next((at for at, char in enumerate(part) if not char.isdecimal()), len(part))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def files(facts: Facts) -> Verdict:
    """How many files a process started here may have open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES_LOW:
        return good(f"{'no limit' if soft == resource.RLIM_INFINITY else soft}")
    able = _FILES_LOW if hard == resource.RLIM_INFINITY else min(_FILES_LOW * 4, hard)
    if able <= soft:
        return good(f"{soft}, and this user may not have more")
    return note(f"{soft}: a control plane with many gateways and viewers needs more", f"ulimit -n {able}")


def browser(facts: Facts) -> Verdict:
    """Whether quickstart and login can open a page."""
    if not can_open():
        remote = bool(os.environ.get("SSH_CONNECTION"))
        raise Skip(f"{'over SSH, and ' if remote else ''}no DISPLAY: quickstart prints the URL instead")
    if sys.platform == "darwin":
        return good("open")
    named = os.environ.get("BROWSER", "").split(os.pathsep)[0].split(" ")[0]
    found = next((name for name in (named, *_OPENERS) if name and shutil.which(name)), "")
    if not found:
        raise Skip("there is a display and no program to open a page with: quickstart prints the URL too")
    return good(found)


def proxy(facts: Facts) -> Verdict:
    """Whether a proxy of the environment stands between this machine and its own loopback."""
    wanted = {name: os.environ.get(name) or os.environ.get(name.lower(), "") for name in _PROXIES}
    found = {name: value for name, value in wanted.items() if value}
    if not found:
        return good("none in the environment")
    exempt = (os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")).replace(" ", "").split(",")
    missing = [host for host in ("127.0.0.1", "localhost") if host not in exempt and "*" not in exempt]
    shown = ", ".join(f"{name} ({_host(value)})" for name, value in found.items())
    if missing:
        keep = ",".join(filter(None, (*exempt, *missing)))
        words = (
            f"{shown} also takes {' and '.join(missing)}: gateways reach this machine's gRPC through it, or not at all"
        )
        return note(words, f"export NO_PROXY='{keep}' no_proxy='{keep}'")
    return good(f"{shown}, not for loopback")


def _host(url: str) -> str:
    """Host and port of a proxy: its URL may hold a password."""
    try:
        return urlsplit(url if "://" in url else f"//{url}").netloc.rpartition("@")[2] or "not a URL"
    except ValueError:
        return "not a URL"


def gateway(facts: Facts) -> Verdict:
    """Which program a gateway would be, and whether it answers: the one that a control plane here chose when it started."""
    from mcpg.host.binary import find_gateway, project_caches

    record = facts.local.record if facts.local.state == "running" and not facts.values.gateway_bin else {}
    if record.get("gateway") and record.get("gateway_path") is not None:
        return _chosen(facts, str(record["gateway_path"]), str(record["gateway"]))
    setting = facts.values.gateway_bin
    try:
        found = find_gateway(setting, project_caches(), answer_s=1.5)
    except McpgError as exc:
        path, source = Path(setting).expanduser().absolute(), facts.values.source("gateway_bin")
        without = "mcpg-ctl doctor" if source.startswith("--") else f"unset {source}"
        fix = f"chmod +x {shlex.quote(str(path))}" if path.is_file() else without
        return bad(f"{path}, named by {source}, cannot be run: {exc.cause.partition(';')[0]}", fix)
    if found.kind == "own":
        return good("our own agent: there is no `mcpg` on PATH")
    if not found.version:
        return bad(f"{found.path} does not say its version", f"{found.path} --version")
    return good(f"{found.version}, {found.path}")


def _chosen(facts: Facts, path: str, version: str) -> Verdict:
    """Whether what the control plane here chose can still be started, and whether its gateways run that."""
    from mcpg.host.binary import find_gateway

    words = f"{version}, our own agent"
    if path:
        try:
            version = find_gateway(path, answer_s=1.5).version
        except McpgError as exc:
            why = exc.cause.partition(";")[0]
            words = (
                f"{path}, chosen by the control plane here when it started, cannot be run: {why}; gateways wait for it"
            )
            return bad(words, "mcpg-ctl cluster health")
        words = f"{version}, {path}"
    words += ", chosen by the control plane here when it started"
    if path and not version:
        return bad(f"{path} does not say its version", f"{shlex.quote(path)} --version")
    found = programs.others(facts.ask("v1", "instances"), version) if _is_asked(facts) else []
    if found:
        named = ", ".join(f"{each.name} runs {each.version}" for each in found[:3])
        more = f" and {len(found) - 3} more do not" if len(found) > 3 else ""
        return note(f"{words}; {named}{more}", f"mcpg-ctl instance show {shlex.quote(found[0].instance_uid)}")
    return good(words)


def _is_asked(facts: Facts) -> bool:
    """Whether the control plane here is the one that answers."""
    return facts.answers and facts.server.meta.get("replica") == facts.local.record.get("replica")
