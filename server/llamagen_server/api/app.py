"""The FastAPI application: routes, errors and middleware put together."""

from __future__ import annotations

from fastapi import FastAPI

from llamagen_server import __version__
from llamagen_server.api import errors, generate, openai, system
from llamagen_server.api.access_log import AccessLog
from llamagen_server.pipeline import Pipeline


def create_app(model_name: str, pipeline: Pipeline | None = None) -> FastAPI:
    """Builds the app.

    Args:
        model_name: the name that clients see.
        pipeline: the loaded model; may be set later as ``app.state.pipeline``. Until then replies are 503.
    """
    app = FastAPI(title="llamagen-serve", version=__version__, description="LlamaGen behind OpenAI's images API.")
    app.state.model_name = model_name
    app.state.pipeline = pipeline
    app.include_router(system.router)
    app.include_router(generate.router)
    app.include_router(openai.router)
    app.add_middleware(AccessLog)
    errors.install(app)
    return app
