"""FastAPI dependencies of the routes: the loaded pipeline, the model's public names, the request's id, the client.

They are coroutines because FastAPI calls plain functions in threads, which is slow where threads compete for the cores.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from llamagen_server.api.errors import unavailable
from llamagen_server.core.options import RequestPolicy
from llamagen_server.pipeline.pipeline import Pipeline


async def _pipeline(request: Request) -> Pipeline:
    pipeline: Pipeline | None = request.app.state.pipeline
    if pipeline is None:
        raise unavailable("the model is still loading")
    if request.app.state.draining:
        raise unavailable("the server is stopping")
    return pipeline


async def _model_names(request: Request) -> tuple[str, ...]:
    names: tuple[str, ...] = request.app.state.model_names
    return names


async def _policy(request: Request) -> RequestPolicy:
    policy: RequestPolicy = request.app.state.policy
    return policy


async def _request_id(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


async def _client(request: Request) -> str:
    client: str = request.state.client
    return client


LoadedPipeline = Annotated[Pipeline, Depends(_pipeline)]
"""Raises 503 while the model loads and while the server stops."""
ModelNames = Annotated[tuple[str, ...], Depends(_model_names)]
"""Names of the model; replies have the first."""
ClientPolicy = Annotated[RequestPolicy, Depends(_policy)]
RequestId = Annotated[str, Depends(_request_id)]
Client = Annotated[str, Depends(_client)]
"""Name of the client, by which the server shares its work; empty without keys."""
