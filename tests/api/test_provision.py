"""The ladder over HTTP, with a provisioner that does nothing."""

from tests.conftest import Plane


async def test_a_create_goes_through_the_three_phases(plane: Plane) -> None:
    events = await plane.publish("edge-1")
    assert [e["_event"] for e in events] == ["allocating", "applying", "applying", "ready"]
