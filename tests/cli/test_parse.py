"""From argv to a line: positions, spellings, and what a mistake says."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse
from tests.bounds import BOUND_S

from .fake import Ctl

OPTIONS = (["--org", "acme"], ["--cp-url=http://h"], ["-o", "json"], ["--json-logs"])


@pytest.mark.parametrize("cuts", list(itertools.product(range(3), repeat=3)), ids=str)
def test_options_may_stand_anywhere(cuts: tuple[int, int, int]) -> None:
    """The words of the command keep their order; every option may be before, between or after them."""
    words = ["provision", "history"]
    argv: list[str] = []
    for at in range(3):
        argv += [text for option, cut in zip(OPTIONS[:3], cuts, strict=True) if cut == at for text in option]
        argv += words[at : at + 1]
    line = parse("mcpg-ctl", [*argv, *OPTIONS[3]], COMMANDS)
    assert line.wrong is None
    assert line.command is not None
    assert (line.command.words, line.flags) == (
        ("provision", "history"),
        {"org": "acme", "cp_url": "http://h", "output": "json", "json_logs": True},
    )


@pytest.mark.parametrize("argv", [["-o", "json"], ["-ojson"], ["-o=json"], ["--output", "json"], ["--output=json"]])
def test_a_value_can_be_written_in_every_usual_way(argv: list[str]) -> None:
    assert parse("mcpg-ctl", ["status", *argv], COMMANDS).flags == {"output": "json"}


@pytest.mark.parametrize(
    ("argv", "wait"), [(["--wait"], True), (["--no-wait"], False), (["--wait=no"], False), (["--no-wait=false"], True)]
)
def test_a_flag_and_its_opposite(argv: list[str], wait: bool) -> None:
    assert parse("mcpg-ctl", ["provision", "create", *argv], COMMANDS).flags == {"wait": wait}


def test_the_last_value_counts_and_may_contain_an_equals_sign() -> None:
    argv = ["provision", "create", "--name", "a", "--name=b", "--region", "x", "--region=a=b", "--config", "-"]
    assert parse("mcpg-ctl", argv, COMMANDS).flags == {"name": "b", "region": "a=b", "config": "-"}


@pytest.mark.parametrize(
    "argv", [("status", "--state-dir", ""), ("cluster", "list", "--state-dir="), ("instance", "list", "--org", "")]
)
def test_an_empty_value_is_refused_and_never_means_something_else(ctl: Ctl, argv: tuple[str, ...]) -> None:
    """`--state-dir "$UNSET"` would be the current directory."""
    ran = ctl(*argv)
    assert (ran.code, ran.out, ran.err.splitlines()[1]) == (2, "", "cause: an empty one was given")


def test_an_empty_word_is_refused(ctl: Ctl) -> None:
    assert ctl("cluster", "show", "").err.splitlines()[:2] == [
        "error: ID needs a value",
        "cause: an empty one was given",
    ]


MISTAKES = [
    "provison history",
    "provision histroy",
    "history",
    "statsu --help",
    "frobnicate",
    "provision",
    "--bogus",
    "-x",
    "provision create --nmae edge-1",
    "--verbos provision history",
    "provision history --title edge-1",
    "provision history acme",
    "provision history -- --org",
    "provision create --name",
    "provision create --name --region eu",
    "provision delete --yes=perhaps",
    "help frobnicate",
]


MEANT = {  # what people try first, and the hint
    "provision scale edge-1 3": "an update does it: mcpg-ctl provision create --name NAME --replicas N",
    "op list": "did you mean: mcpg-ctl operation list",
    "cluster decommission --name X": "mcpg-ctl cluster decommission ID      options: mcpg-ctl cluster decommission --help",
    "cluster decommission X --yes": "mcpg-ctl cluster decommission ID --confirm NAME"
    "      options: mcpg-ctl cluster decommission --help",
    "operation show --name X": "mcpg-ctl operation show ID      options: mcpg-ctl operation show --help",
}


@pytest.mark.parametrize("typed", MEANT)
def test_what_people_try_first_is_answered_with_what_does_it(ctl: Ctl, typed: str) -> None:
    ran = ctl(*typed.split())
    assert (ran.code, ran.err.splitlines()[-1]) == (2, f"hint:  {MEANT[typed]}")


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistake(ctl: Ctl, snapshot: SnapshotAssertion, typed: str) -> None:
    ran = ctl(*typed.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == snapshot


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_json_object_when_json_was_asked_for(ctl: Ctl, typed: str) -> None:
    ran = ctl("-o", "json", *typed.split())
    assert (ran.code, ran.out, ran.error["code"]) == (2, "", "invalid_argument")


def test_the_server_programme_refuses_what_it_does_not_know(ctl: Ctl, snapshot: SnapshotAssertion) -> None:
    """The real gateway passes `--cp-x` on as `--x`; one that we would ignore must not look as if it worked."""
    ran = ctl("serve", "--kube-provider", "on", prog="mcpg-control-plane")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == snapshot


def test_the_server_programme_has_no_other_command(ctl: Ctl) -> None:
    assert ctl("status", prog="mcpg-control-plane").code == 2


INTERRUPTED = """
import sys
class Loading:
    def find_spec(self, name, path=None, target=None):
        if name == "mcpg.cli.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Loading())
from mcpg.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("argv", [("cluster", "list"), ("__complete", "--", "clu")])
def test_ctrl_c_while_the_commands_are_loaded_is_130_and_no_traceback(argv: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", INTERRUPTED, *argv]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
