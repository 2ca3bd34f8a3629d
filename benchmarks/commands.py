"""
What each command costs to start, and what it imports: CPU beside the bare interpreter of its environment.

Every command of the table runs against one small server (one gateway), `--runs` times, all of them in turn; the figure is
the median of CPU seconds from wait4, children included. Those that start something (serve, quickstart, gateway, login) are
given what they refuse once everything is loaded; those that need an answer of the server get one, or its refusal. The
third-party packages are read off sys.modules in one more run. A table on stderr, one JSON line a command on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess

from benchmarks.measure import CTL, PYTHON, Load, bounded, clean_environment, emit, median, run, say, scratch
from benchmarks.serving import serve
from mcpg.cli.commands import COMMANDS

BARE = "python(venv) -c pass"
IMPORTS = """
import json, os, sys
before = set(sys.modules)
from mcpg.cli.main import main
code = main()
new = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"mcpg"}
os.write(3, json.dumps(sorted(name for name in new if not name.startswith("_"))).encode())
"""
ARGUMENTS = {  # what a command needs to come as far as its work; the rest runs as it is
    "quickstart": "--bind-http 0.0.0.0:1",
    "serve": "--bind-http 0.0.0.0:1",
    "login": "--issuer http://127.0.0.1:1 --no-browser",
    "provision create": "--name bench-0 --dry-run",
    "provision delete": "--instance-uid {uid}",
    "operation show": "{op}",
    "operation attach": "{op}",
    "operation resume": "{op}",
    "operation retry": "{op}",
    "operation cancel": "{op} --yes",
    "operation watch": "{op}",
    "operation wait": "{op}",
    "operation export": "{op}",
    "operation explain": "{op}",
    "operation replay": "{op}",
    "instance show": "{uid}",
    "instance adopt": "{uid}",
    "instance reap": "{uid} --yes",
    "machine show": "provision",
    "machine check": "agent",
    "machine diff": "provision teardown",
    "cluster show": "local",
    "cluster register": "--name local --region local --gateways-max 1",
    "cluster drain": "none",
    "cluster undrain": "local",
    "cluster decommission": "local",
    "token revoke": "tok-none",
    "context add": "bench --replace",
    "context use": "none",
    "context rm": "none",
    "completion": "bash",
}


def lines(env: dict[str, str]) -> dict[str, list[str]]:
    """Every command with its arguments, after one gateway was made for them to look at."""
    made = run((str(CTL), "provision", "create", "--name", "bench-0", "-o", "json"), env)
    found = json.loads(made.out)
    ids = {"uid": found["instance_uid"], "op": found["operation_id"]}
    names = [" ".join(command.words) for command in COMMANDS]
    return {name: [*name.split(), *ARGUMENTS.get(name, "").format(**ids).split()] for name in names}


def imports(argv: list[str], env: dict[str, str]) -> list[str]:
    """The third-party packages that the command loads."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [str(PYTHON), "-c", f"import os; os.dup2({write}, 3)\n{IMPORTS}", *argv], env=env, pass_fds=(write,),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as report:
        text = report.read()
    process.wait()
    found: list[str] = json.loads(text)
    return found


def measure(runs: int) -> None:
    with scratch() as directory, serve(directory, "--provisioner", "noop") as server:
        place = {"MCPG_ORG": "default", "MCPG_WORKSPACE": "default", "MCPG_ENV": "default", "MCPG_CP_URL": server.url}
        state = directory / "client"
        env = clean_environment(**place, MCPG_STATE_DIR=str(state))
        typed = {BARE: [str(PYTHON), "-c", "pass"]}
        typed |= {name: [str(CTL), *argv] for name, argv in lines(env).items()}
        loaded = {name: imports(argv[1:], env) for name, argv in typed.items() if name != BARE}
        taken: dict[str, list[float]] = {name: [] for name in typed}
        codes: dict[str, int] = {}
        with Load() as load:
            for _ in range(runs):
                for name, argv in typed.items():
                    ran = run(argv, env, may_fail=True)  # a refusal is an answer
                    taken[name].append(ran.cpu_s)
                    codes[name] = ran.code
        server.stop()
    base = median(taken[BARE])
    say(f"{'command':<22} {'CPU ms':>7} {'x bare':>7}  third party")
    for name, seconds in taken.items():
        cpu, packages = median(seconds), " ".join(loaded.get(name, []))
        say(f"{name:<22} {cpu * 1e3:>7.0f} {cpu / base:>7.2f}  {packages or '-'}")
        emit(
            "commands", name, cpu_ms=cpu * 1e3, cpu_x=cpu / base, imports=packages, rc=codes[name],
            other_cpu=load.other_cpu, runs=runs,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="of every command, at least 5")
    runs = max(5, parser.parse_args().runs)
    bounded(120 + 30 * runs, lambda: measure(runs))


if __name__ == "__main__":
    main()
