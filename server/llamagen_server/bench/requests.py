"""The requests of a load test: for each its prompt or class, its kind and its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

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
        ValueError: the server does not answer.
    """
    try:
        [model] = (await client.get("/v1/models")).raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError) as error:
        raise ValueError(f"{options.base_url} does not answer as a llamagen server ({error})") from None
    common: Body = {} if options.cfg_scale is None else {"cfg_scale": options.cfg_scale}
    if model["condition"] == "class":
        conditions = [{"class_id": i, **common} for i in range(model["num_classes"])]
    else:
        conditions = [{"prompt": prompt, **common} for prompt in options.prompts]
    return Requests(tuple(conditions), options.mix, options.seed)
