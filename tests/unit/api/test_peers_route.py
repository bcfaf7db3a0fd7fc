"""What other workers may ask: in one form, and nothing else."""

from typing import Any

import pytest


async def test_what_the_asker_has_is_handed_to_whoever_knows(api: Any) -> None:
    response = await api.client.get("/v1/cluster/admission?have=3:1b7e4d90:120&have=4::0")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert api.peers.asked == [[(3, "1b7e4d90", 120), (4, "", 0)]]
    assert response.content == api.peers.answer


async def test_who_has_nothing_to_ask_hears_that_somebody_answers(api: Any) -> None:
    assert (await api.client.get("/v1/cluster/admission?")).status_code == 200
    assert api.peers.asked == [[]]


@pytest.mark.parametrize(
    "query",
    [
        "have=", "have=3", "have=3:ab", "have=3:ab:1:1", "have=-1::0", "have=3:AB:1", "have=3:ab:-1", "have=x::0",
        "have=3::0&have=", "have=10000::0", "have=3::" + "9" * 16, "have=3:" + "a" * 33 + ":1", "have=3::0%0A",
        "have=%D9%A3::0", "&".join(["have=3::0"] * 201),
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused_by_name(api: Any, query: str) -> None:
    response = await api.client.get(f"/v1/cluster/admission?{query}")
    assert response.status_code == 422
    assert response.json()["field"].startswith("have")
    assert api.peers.asked == []
