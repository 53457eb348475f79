"""The requests of a load test."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from llamagen_server.bench.load import Kind, LoadOptions
from llamagen_server.bench.requests import Requests, requests_for

MIX = (Kind(share=3), Kind(share=1, n=4), Kind(share=1, n=2, partial_images=3))


def test_bodies() -> None:
    requests = Requests(({"class_id": 0}, {"class_id": 1}), (Kind(n=2),), seed=5)
    assert requests.body(3) == {"class_id": 1, "n": 2, "seed": 5003}
    stream = Requests(({"prompt": "a"},), (Kind(partial_images=2),)).body(0)
    assert stream == {"prompt": "a", "n": 1, "seed": 0, "stream": True, "partial_images": 2}


def test_kinds_have_their_shares_and_are_the_same_every_time() -> None:
    requests = Requests(({},), MIX, seed=1)
    kinds = [requests.kind(i) for i in range(5000)]
    assert [Counter(kinds)[kind] / 5000 for kind in MIX] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
    assert kinds == [requests.kind(i) for i in range(5000)]
    assert kinds != [Requests(({},), MIX, seed=2).kind(i) for i in range(5000)]


LISTED = httpx.Response(200, json={"data": [{"id": "/my models/xl"}]})
PATH = "/v1/models//my models/xl"


def requests_of(**replies: httpx.Response) -> Requests:
    """Requests for a server with these replies to the list of models and to the one model."""
    by_path = {"/v1/models": replies["listed"], PATH: replies["model"]}

    async def ask() -> Requests:
        transport = httpx.MockTransport(lambda request: by_path[request.url.path])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await requests_for(LoadOptions("http://test", prompts=("a", "b"), cfg_scale=3), client)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("model", "conditions"),
    [
        ({"condition": "text"}, ({"prompt": "a", "cfg_scale": 3}, {"prompt": "b", "cfg_scale": 3})),
        ({"condition": "class", "num_classes": 2}, ({"class_id": 0, "cfg_scale": 3}, {"class_id": 1, "cfg_scale": 3})),
    ],
)
def test_requests_suit_the_model(model: dict[str, object], conditions: tuple[dict[str, object], ...]) -> None:
    assert requests_of(listed=LISTED, model=httpx.Response(200, json=model)).conditions == conditions


@pytest.mark.parametrize(
    ("listed", "model", "message"),
    [
        (httpx.Response(401), httpx.Response(401), "does not answer as a llamagen server (Client error '401"),
        (httpx.Response(200, text="<html>"), httpx.Response(200), "does not answer as a llamagen server (Expecting"),
        (httpx.Response(200, json={"data": []}), httpx.Response(200), "/v1/models has no LlamaGen model"),
        (httpx.Response(200, json=[]), httpx.Response(200), "/v1/models has no LlamaGen model"),
        (LISTED, httpx.Response(404), "does not answer as a llamagen server (Client error '404"),  # plain vLLM
        (LISTED, httpx.Response(200, json={"id": "xl"}), "/v1/models has no LlamaGen model"),
    ],
)
def test_other_servers_are_refused_in_one_line(listed: httpx.Response, model: httpx.Response, message: str) -> None:
    with pytest.raises(ValueError, match="^http://test") as error:
        requests_of(listed=listed, model=model)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
