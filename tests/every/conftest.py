"""The story is told once a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .story import PLACE, Ctl, Story, serving

STORY = (  # every command that changes something, in an order in which each finds what it needs
    "context add prod --cp-url https://cp.example --org acme --workspace prod --env us --protected",
    "context add dev --cp-url http://127.0.0.1:7843 --org default -o json",
    "context use prod",
    "context use none -o json",
    "context rm dev",
    "cluster register --name us-east-1a --region us-east-1 --gateways-max 4 --cpu-millicores-total 2000"
    " --memory-bytes-total 4294967296",
    "cluster register --name eu-old --region eu-1 --gateways-max 2 --isolation-tier dedicated -o json",
    "cluster drain eu-old --reason hardware",
    "cluster undrain eu-old -o json",
    "provision create --name edge-1 --region us-east-1 --replicas 2 --dry-run",
    "provision create --name edge-1 --region us-east-1 --replicas 2 --dry-run -o json",
    "provision create --name edge-1 --region us-east-1 --replicas 2",
    "provision create --name edge-2 --region us-east-1 --size m -o json",
    "provision create --name edge-3 --region eu-1 --isolation-tier dedicated -o wide",
    "provision create --name edge-4 --region eu-1 --isolation-tier dedicated --no-wait",
    "operation wait {op:edge-4}",
    "provision create --name edge-4 --replicas 1 --no-wait -o json",
    "operation wait {op:edge-4} -o json",
    "provision create --name edge-5 --region mars-1",
    "provision create --name edge-5 --region mars-1 -o json",
    "operation retry {op:edge-5}",
    "operation retry {op:edge-5} --reason again --no-wait -o json",
    "operation wait {op:edge-5}",
    "operation retry {op:edge-1} -o json",
    "operation resume {op:edge-1}",
    "operation resume {op:edge-1} -o json",
    "operation cancel {op:edge-1}",
    "operation cancel {op:edge-1} --yes -o json",
    "operation cancel {op:edge-1} --plan",
    "cluster decommission eu-old",
    "cluster decommission eu-old -o json",
    "cluster decommission eu-old --force",
    "cluster decommission eu-old --force --dry-run",
    "cluster decommission eu-old --force --confirm eu-old",
    "instance adopt {uid:edge-3}",
    "cluster register --name eu-new --region eu-1 --gateways-max 1 --isolation-tier dedicated",
    "instance adopt {uid:edge-3} --cluster eu-new -o json",
    "instance reap {uid:edge-4}",
    "instance reap {uid:edge-4} --yes",
    "instance reap {uid:edge-2} --yes",
    "provision delete --instance-uid {uid:edge-2}",
    "provision delete --instance-uid {uid:edge-2} --yes -o json",
    "cluster register --name spare --region us-west-1 --gateways-max 10",
    "cluster decommission spare -o json",
    "token create --ttl 12h --max-uses 3 --instance-uid host-1",
    "token create -o json",
    "token revoke {token}",
)


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home: Path = tmp_path_factory.mktemp("home")
    with serving(home) as url:
        told = Story(Ctl(home, MCPG_CP_URL=url, **PLACE), url)
        for typed in STORY:
            told.tell(typed)
        yield told
