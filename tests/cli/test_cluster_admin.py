"""`cluster register`, `drain`, `undrain` and `decommission`: what is sent, what is refused, what is asked first."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.wire.clusters import GatewayRef

from .bodies import EDGE, SELF, cluster
from .fake import Ctl, Fake, data, refusal

ADMIN = "/v1/admin/clusters"
REGISTER = ("cluster", "register", "--name", "us-1", "--region", "us-1", "--gateways-max", "50")
GONE = "cluster", "decommission", "us-1"
KUBECONFIG = """
apiVersion: v1
current-context: eu
clusters:
  - {name: eu-cluster, cluster: {server: "https://ada:c4n4ry@eu.example:6443"}}
  - {name: empty, cluster: {}}
contexts:
  - {name: eu, context: {cluster: eu-cluster, user: ada}}
  - {name: us-east, context: {cluster: nowhere, user: ada}}
  - {name: blank, context: {cluster: empty, user: ada}}
users:
  - {name: ada, user: {token: c4n4ry}}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    return path


def test_register_sends_what_was_given_and_prints_the_cluster(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion
) -> None:
    fake.says("POST", ADMIN, data(cluster("us-1")))
    more = "--isolation-tier dedicated --cpu-millicores-total 16000 --memory-bytes-total 68719476736"
    ran = acme(*REGISTER, *more.split())
    assert fake.asked[0].body == {
        "name": "us-1",
        "region": "us-1",
        "gateways_max": 50,
        "isolation_tier": "dedicated",
        "provisioner": "local",
        "cpu_millicores_total": 16000,
        "memory_bytes_total": 68719476736,
    }
    assert (ran.code, ran.out) == (0, snapshot)


def test_totals_that_are_not_given_are_not_sent(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", ADMIN, data(cluster("us-1")))
    acme(*REGISTER)
    assert {"cpu_millicores_total", "memory_bytes_total", "kubeconfig"} & set(fake.asked[0].body) == set()


@pytest.mark.parametrize("context", ["", "eu"])
def test_of_a_kubeconfig_only_metadata_is_sent(acme: Ctl, fake: Fake, kubeconfig: Path, context: str) -> None:
    """The path, the context, the server's URL: never a credential, not even one in that URL."""
    fake.says("POST", ADMIN, data(cluster("us-1", provisioner="kubernetes")))
    flags = ("--provisioner", "kubernetes", "--kubeconfig", os.path.relpath(kubeconfig))
    flags += ("--kube-context", context) if context else ()
    ran = acme(*REGISTER, *flags)
    sent = {key: value for key, value in fake.asked[0].body.items() if key.startswith("kube")}
    server = "https://eu.example:6443"
    assert sent == {"kubeconfig": str(kubeconfig), "kube_context": "eu", "kube_server": server}
    assert (ran.code, "c4n4ry" in str((ran, fake.asked))) == (0, False)


BAD_KUBE = {
    "no file": ("missing", "eu", None),
    "a directory": (".", "eu", None),
    "no yaml": ("bad", "eu", b"token: c4n4ry: [\n"),
    "no text": ("bad", "eu", b"\xff\xfe\x00c4n4ry"),
    "no kubeconfig": ("bad", "eu", b"a: 1\n"),
    "nothing": ("bad", "eu", b""),
    "no contexts in it": ("bad", "eu", b"contexts: []\n"),
    "no current one": ("bad", "", b"contexts: [{name: eu, context: {}}]\n"),
    "a close one": ("good", "us-eats", KUBECONFIG.encode()),
    "none like it": ("good", "mars", KUBECONFIG.encode()),
    "its cluster is not there": ("good", "us-east", KUBECONFIG.encode()),
    "its cluster has no server": ("good", "blank", KUBECONFIG.encode()),
}


@pytest.mark.parametrize("case", BAD_KUBE)
def test_a_kubeconfig_that_will_not_do_is_refused_before_anything_is_sent(
    acme: Ctl, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, case: str
) -> None:
    """And its text is never repeated: it holds credentials."""
    monkeypatch.chdir(tmp_path)
    where, context, text = BAD_KUBE[case]
    if text is not None:
        Path(where).write_bytes(text)
    flags = ("--provisioner", "kubernetes", "--kubeconfig", where, *(("--kube-context", context) if context else ()))
    ran = acme(*REGISTER, *flags)
    assert (ran.code, ran.out, fake.asked, "c4n4ry" in ran.err) == (2, "", [], False)
    assert ran.err == snapshot


_LEVELS = "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 9))
HOSTILE_KUBE = {
    "a tag": b"a: !!int c4n4ry\n",
    "a time that is none": b"a: 2001-99-99c4n4ry\nb: 2001-99-99\n",
    "an alias bomb as a name": f"a0: &a0 [x]\n{_LEVELS}contexts: [{{name: *a8, context: {{}}}}]\n".encode(),
    "an alias bomb of merges": b"a: &a {x: 1}\nb: {<<: [*a, *a]}\ncontexts: []\n",
    "bottomless": b"[" * 20_000,
    "a date as the current one": b"current-context: 2001-01-01\ncontexts: [{name: eu, context: {}}]\n",
    "a structure as the current one": b"current-context: {a: [1]}\ncontexts: [{name: [eu], context: {}}]\n",
    "too large": b"#" * 1_048_577,
}


@pytest.mark.parametrize("case", HOSTILE_KUBE)
def test_a_hostile_kubeconfig_is_refused_in_few_words(acme: Ctl, fake: Fake, tmp_path: Path, case: str) -> None:
    (tmp_path / "bad").write_bytes(HOSTILE_KUBE[case])
    ran = acme(*REGISTER, "--provisioner", "kubernetes", "--kubeconfig", str(tmp_path / "bad"))
    assert (ran.code, ran.out, fake.asked, "c4n4ry" in ran.err) == (2, "", [], False)
    why = {"too large": "it is larger than 1024 KiB"}
    why |= dict.fromkeys(
        (f"a {kind} as the current one" for kind in ("date", "structure")), "it has no current-context"
    )
    assert ran.err.splitlines()[1] == f"cause: {why.get(case, 'it is not YAML')}"


def test_a_kubeconfig_of_nobody_and_one_that_would_wait_are_refused(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for where in ("~nobody-here/x", str(tmp_path / "fifo"), "/dev/zero"):
        ran = acme(*REGISTER, "--provisioner", "kubernetes", "--kubeconfig", where)
        assert (ran.code, ran.out, fake.asked) == (2, "", [])
        assert ran.err.splitlines()[0] == f"error: --kubeconfig {where} cannot be used"


BAD = [
    ("--name", "Us_1"),
    ("--gateways-max", "0"),
    ("--gateways-max", "many"),
    ("--gateways-max", "1.5"),
    ("--cpu-millicores-total", "-1"),
    ("--memory-bytes-total", "64GiB"),
    ("--provisioner", "kubernets"),
    ("--provisioner", "kubernetes"),
    ("--kubeconfig", "x"),
    ("--kube-context", "x"),
]


@pytest.mark.parametrize("argv", BAD, ids=" ".join)
def test_bad_input_is_refused_before_anything_is_sent(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, argv: tuple[str, str]
) -> None:
    ran = acme(*REGISTER, *argv)
    assert (ran.code, ran.out, fake.asked, ran.err) == (2, "", [], snapshot)


def test_what_register_needs(acme: Ctl, fake: Fake) -> None:
    ran = acme("cluster", "register")
    assert (ran.code, ran.err.splitlines()[0]) == (
        2,
        "error: cluster register needs --name, --region and --gateways-max",
    )


@pytest.mark.parametrize("move", ["drain", "undrain"])
def test_drain_and_undrain_send_why(acme: Ctl, fake: Fake, move: str) -> None:
    fake.says("POST", f"{ADMIN}/us-1/{move}", data(cluster("us-1", state="draining")))
    ran = acme("cluster", move, "us-1", "--reason", "hardware")
    assert (ran.code, fake.asked[0].body) == (0, {"reason": "hardware"})
    assert ran.out.startswith("us-1  draining  ")


def test_a_move_that_the_machine_has_not_is_refused_with_those_it_has(acme: Ctl, fake: Fake) -> None:
    no = errors.NoSuchMove("us-1 cannot be drained", cause="it is draining (allowed now: undrain)", allowed=["undrain"])
    fake.says("POST", f"{ADMIN}/us-1/drain", refusal(no))
    ran = acme("cluster", "drain", "us-1", "-o", "json")
    assert (ran.code, ran.error["code"], ran.error["details"]) == (5, "no_such_move", {"allowed": ["undrain"]})


def in_use(*held: Any) -> errors.McpgError:
    found = [each.model_dump() for each in held]
    error = errors.Refused("us-1 still runs 2 gateways", gateways=found, allowed=["undrain"], state="draining")
    error.code = "cluster_in_use"
    return error


def test_drain_protection_names_the_gateways_and_the_two_ways_on(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion
) -> None:
    fake.says("DELETE", f"{ADMIN}/us-1", refusal(in_use(EDGE, SELF)))
    ran = acme(*GONE)
    assert (ran.code, ran.out, ran.err) == (5, "", snapshot)
    said = acme(*GONE, "-o", "json").error
    assert (said["code"], [each["name"] for each in said["details"]["gateways"]]) == ("cluster_in_use", ["edge-3", ""])
    assert said["request_id"] == "req-1"


@pytest.mark.parametrize(
    ("one", "named"), [(EDGE, "prod --env us --name edge-3"), (SELF, "dev --env us --instance-uid host-ab12cd")]
)
def test_one_gateway_in_the_way_is_named_in_the_way_on(acme: Ctl, fake: Fake, one: GatewayRef, named: str) -> None:
    fake.says("DELETE", f"{ADMIN}/us-1", refusal(in_use(one)))
    assert acme(*GONE).err.splitlines()[-2] == (
        f"hint:  delete it: mcpg-ctl provision delete --org acme --workspace {named}"
        "      or orphan it: mcpg-ctl cluster decommission --id us-1 --force"
    )


def test_one_orphan_is_named_in_what_can_be_done_with_it(acme: Ctl, fake: Fake) -> None:
    said = cluster("us-1", state="decommissioned", orphaned=[EDGE])
    for ref in ("us-1", said["id"]):
        fake.says("DELETE", f"{ADMIN}/{ref}", data(said))
    words = "take it back: mcpg-ctl instance adopt edge-3      or end it: mcpg-ctl instance reap edge-3"
    assert acme(*GONE, "--force", "--confirm", "us-1").err.splitlines()[-1] == f"hint:  {words}"


def forced(fake: Fake) -> dict[str, Any]:
    said = cluster("us-1", state="decommissioned", orphaned=[EDGE, SELF])
    for ref in ("us-1", said["id"]):
        fake.says("DELETE", f"{ADMIN}/{ref}", data(said))
    return said


def test_force_lists_what_it_orphans_and_asks_for_the_name(
    acme: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """What is asked about is read with dry_run, and what is then taken out is that very cluster, by its id."""
    said = forced(fake)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("us-1\n"))
    monkeypatch.setattr(sys, "stderr", screen)
    ran = acme(*GONE, "--force")
    assert (ran.code, ran.out) == (0, snapshot(name="result"))
    assert screen.getvalue().replace(fake.url, "URL") == snapshot(name="question")
    assert [(asked.path, asked.query) for asked in fake.asked] == [
        (f"{ADMIN}/us-1", "dry_run=true&force=true"),
        (f"{ADMIN}/{said['id']}", "force=true"),
    ]


@pytest.mark.parametrize("answer", ["", "y\n", "us-2\n", "US-1\n"])
def test_anything_but_the_name_changes_nothing(
    acme: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    forced(fake)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert (acme(*GONE, "--force").code, [asked.query for asked in fake.asked]) == (1, ["dry_run=true&force=true"])


@pytest.mark.parametrize(
    ("argv", "code", "count"), [((), 2, 1), (("--confirm", "us-2"), 2, 1), (("--confirm", "us-1"), 0, 2)]
)
def test_a_script_confirms_by_name(acme: Ctl, fake: Fake, argv: tuple[str, ...], code: int, count: int) -> None:
    forced(fake)
    assert (acme(*GONE, "--force", *argv).code, len(fake.asked)) == (code, count)


def test_a_dry_run_says_what_it_would_orphan_and_writes_nothing(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion
) -> None:
    forced(fake)
    ran = acme(*GONE, "--force", "--dry-run")
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert [asked.query for asked in fake.asked] == ["dry_run=true&force=true"]
