"""The FastAPI application: routes, errors and middleware put together."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI

from llamagen_server import __version__
from llamagen_server.api import errors, openapi
from llamagen_server.api.middleware.access_log import AccessLog
from llamagen_server.api.middleware.api_key import ApiKeys, BodyLimit
from llamagen_server.api.routes import generate, image_store, playground
from llamagen_server.api.routes import health as system
from llamagen_server.api.routes import image_codec as image_codes
from llamagen_server.api.routes import openai_images as openai
from llamagen_server.pipeline.pipeline import Pipeline


def create_app(model_name: str, pipeline: Pipeline | None = None, api_keys: Sequence[str] = ()) -> FastAPI:
    """Builds the app.

    Args:
        model_name: the name that clients see.
        pipeline: the loaded model; may be set later as ``app.state.pipeline``. Until then replies are 503, as they are
            when ``app.state.draining`` is set.
        api_keys: one of them must come with each request, if there are any.
    """
    app = FastAPI(title="llamagen-serve", version=__version__, description="LlamaGen behind OpenAI's images API.")
    app.state.model_name = model_name
    app.state.pipeline = pipeline
    app.state.draining = False
    app.state.images = image_store.ImageStore()
    for part in (openai, generate, image_codes, image_store, system, playground):
        app.include_router(part.router)
    app.add_middleware(BodyLimit)
    if api_keys:
        app.add_middleware(ApiKeys, keys=api_keys)
    app.add_middleware(AccessLog)  # the last one is the outermost
    errors.install(app)
    openapi.install(app, needs_key=bool(api_keys))
    return app
