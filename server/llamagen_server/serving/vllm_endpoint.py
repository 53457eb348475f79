"""Image routes inside ``vllm serve``: a plugin of vLLM's entry-point group ``vllm.endpoint_plugins``.

vLLM's server owns the engine, the address and the shutdown. The image routes are an app of their own behind vLLM's,
so they keep their middleware and error replies, and no route of vLLM's changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import State
from starlette.routing import Match, Mount
from starlette.types import Scope

from llamagen_server.api.app import IMAGE_ROUTES, create_app
from llamagen_server.core import logs, metrics
from llamagen_server.engine.guidance_watch import GuidanceWatch, watch_guidance
from llamagen_server.engine.vllm_engine import VLLMEngine
from llamagen_server.pipeline.build import load_stages, open_model
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.serving.tracing import start_tracing
from vllm_llamagen.config import LlamaGenConfig

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import EngineClient


class ImageEndpoints:
    """The plugin; vLLM creates one in each process of its HTTP server if ``VLLM_PLUGINS`` names ``llamagen``."""

    name = "llamagen"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the image routes behind vLLM's own. Those outside /v1 require vLLM's keys too."""
        args = app.state.args
        logs.ignore_warnings_about_files()
        name, *aliases = args.served_model_name or [args.model]
        self.images = create_app(name, api_keys=_keys(args), routes=IMAGE_ROUTES, aliases=aliases)
        app.routes.append(_ImageRoutes("", app=self.images))

    async def init_state(self, engine_client: EngineClient, state: State, args: argparse.Namespace) -> None:
        """Loads text encoder and image tokenizer around vLLM's engine; vLLM listens afterwards.

        Raises:
            SystemExit: the model cannot be served; ends the server with one line.
        """
        try:
            start_tracing(args.otlp_traces_endpoint)
            pipeline = self.images.state.pipeline = await asyncio.to_thread(_build_pipeline, engine_client, args.model)
        except torch.OutOfMemoryError:
            raise SystemExit(
                "llamagen: the engine left too little GPU memory for text encoder and image tokenizer: "
                f"lower --gpu-memory-utilization, which is {args.gpu_memory_utilization}"
            ) from None
        except ValueError as error:
            raise SystemExit(f"llamagen: {error}") from None
        metrics.READY.set_function(lambda: pipeline.engine.is_running)
        self._counting = asyncio.create_task(watch_guidance(pipeline.engine, GuidanceWatch()))


class _ImageRoutes(Mount):
    """Matches what an app's own routes match, and nothing else: vLLM keeps its replies 404 and 405, and its /docs."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = {route.matches(scope)[0] for route in self.routes if isinstance(route, APIRoute)}
        for match in (Match.FULL, Match.PARTIAL):
            if match in found:
                return match, super().matches(scope)[1]
        return Match.NONE, {}


def _keys(args: argparse.Namespace) -> list[str]:
    """Returns the keys that vLLM requires: those of --api-key, else that of the environment."""
    return [key for key in args.api_key or [os.environ.get("VLLM_API_KEY")] if key]


def _build_pipeline(engine_client: EngineClient, path: str) -> Pipeline:
    """Builds the pipeline around an engine that runs already.

    Raises:
        ValueError: the engine's model is not a LlamaGen model, or its directory lacks something.
    """
    config = engine_client.model_config.hf_config
    if not isinstance(config, LlamaGenConfig):
        raise ValueError(f"{path} is a {config.model_type} model: leave llamagen out of VLLM_PLUGINS")
    model = open_model(path, config.cfg_branches)
    image_tokenizer, text = load_stages(model)
    return Pipeline(model, VLLMEngine(engine_client), image_tokenizer, text)
