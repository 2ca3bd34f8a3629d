"""The API is tested on both databases."""

import pytest

from tests.conftest import BOTH, Plane


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def lived(plane: Plane) -> Plane:
    """A control plane with creates, an update, a refusal, a delete, and a cluster that came and went."""
    register = {"name": "us-1", "region": "us-1", "gateways_max": 2, "cpu_millicores_total": 4000}
    await plane.client.post("/v1/admin/clusters", json=register)
    for n in (1, 2):
        assert (await plane.publish(f"edge-{n}", region="us-1"))[-1]["phase"] == "ready"
    await plane.publish("edge-1", replicas=1, region="us-1", size="m")
    await plane.publish("edge-3", region="mars-1")
    uid = (await plane.publish("edge-4"))[-1]["coords"]["instance_uid"]
    await plane.delete(uid)
    await plane.client.post("/v1/admin/clusters", json=register | {"name": "spare"})
    await plane.client.delete("/v1/admin/clusters/spare")
    return plane
