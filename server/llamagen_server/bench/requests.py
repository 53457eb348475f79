"""The requests of a load test: for each its prompt or class, its kind and its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from llamagen_server.bench.load import Kind, LoadOptions

Body = dict[str, Any]
"""JSON body of a request to ``POST /generate``."""


@dataclass(frozen=True)
class Requests:
    """Requests by number. A request of the same number and seed is the same request."""

    conditions: tuple[Body, ...]
    """Fields that select the image, such as ``prompt`` or ``class_id``; used in turn."""
    mix: tuple[Kind, ...] = (Kind(),)
    seed: int = 0

    def kind(self, number: int) -> Kind:
        """Returns the kind of one request, chosen at random by the shares."""
        if len(self.mix) == 1:
            return self.mix[0]
        [kind] = random.Random(f"{self.seed} {number}").choices(self.mix, [kind.share for kind in self.mix])
        return kind

    def body(self, number: int) -> Body:
        kind = self.kind(number)
        body = {**self.conditions[number % len(self.conditions)], "n": kind.n, "seed": abs(number) + 1000 * self.seed}
        return body | ({"stream": True, "partial_images": kind.partial_images} if kind.partial_images else {})


async def requests_for(options: LoadOptions, client: httpx.AsyncClient) -> Requests:
    """Returns the requests that suit the server's model: one per class of a class model, else one per prompt.

    Raises:
        ValueError: the server does not answer, or serves no LlamaGen model.
    """
    try:
        num_classes = await _num_classes(client)
    except (httpx.HTTPError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{options.base_url} does not answer as a llamagen server ({reason})") from None
    except (LookupError, TypeError):
        raise ValueError(f"{options.base_url}/v1/models has no LlamaGen model") from None
    common: Body = {} if options.cfg_scale is None else {"cfg_scale": options.cfg_scale}
    prompts = [{"prompt": prompt, **common} for prompt in options.prompts]
    classes = [{"class_id": i, **common} for i in range(num_classes)]
    return Requests(tuple(classes or prompts), options.mix, options.seed)


async def _num_classes(client: httpx.AsyncClient) -> int:
    """Returns the number of classes of the server's model; 0 for a text model."""
    name = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
    # In `vllm serve` the list is vLLM's own and has no such fields; the route of one model is ours.
    model = (await client.get(f"/v1/models/{quote(name)}")).raise_for_status().json()
    return int(model["num_classes"]) if model["condition"] == "class" else 0
