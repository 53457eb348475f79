"""Assembles the FastAPI application: routes, middleware, error replies, OpenAPI schema."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from fastapi import FastAPI

from llamagen_server import __version__
from llamagen_server.api import errors, openapi
from llamagen_server.api.middleware.access_log import AccessLog
from llamagen_server.api.middleware.api_key import ApiKeys, Keyring
from llamagen_server.api.middleware.body_limit import BodyLimit
from llamagen_server.api.middleware.cors import Cors, install_cors
from llamagen_server.api.middleware.forwarded import Forwarded
from llamagen_server.api.middleware.lenient_requests import LenientRequests
from llamagen_server.api.middleware.security_headers import SecurityHeaders
from llamagen_server.api.middleware.tracing import Tracing
from llamagen_server.api.middleware.unread_body import UnreadBody
from llamagen_server.api.routes import (
    api_page,
    generate,
    health,
    image_codec,
    image_store,
    models,
    openai_images,
    playground,
)
from llamagen_server.core.options import RequestPolicy
from llamagen_server.pipeline.pipeline import Pipeline

IMAGE_ROUTES = (openai_images, generate, image_codec, image_store, models, playground)
ROUTES = (*IMAGE_ROUTES, health, api_page)


def create_app(
    model_name: str,
    pipeline: Pipeline | None = None,
    api_keys: Keyring | Sequence[str] = (),
    routes: Sequence[ModuleType] = ROUTES,
    *,
    cors: Cors = Cors(),
    aliases: Sequence[str] = (),
    policy: RequestPolicy = RequestPolicy(),
    root_path: str = "",
    trusted_proxies: Sequence[str] = (),
) -> FastAPI:
    """Builds the app.

    Args:
        model_name: the name that replies have.
        pipeline: the loaded model; may be set later as ``app.state.pipeline``. Until then replies are 503, as they are
            when ``app.state.draining`` is set.
        api_keys: if there are any, each request must carry one of them.
        routes: modules of `api.routes`; another server that includes this app has its own `health`.
        cors: what pages of other origins may do.
        aliases: more names by which requests may call the model.
        policy: what is done for clients that cannot send what the server needs.
        root_path: path prefix below which a proxy serves this server, such as "/images-api".
        trusted_proxies: addresses whose X-Forwarded headers are believed, as `forwarded.check_trusted` returns them.
    """
    keyring = api_keys if isinstance(api_keys, Keyring) else Keyring(api_keys)
    app = FastAPI(
        title="llamagen-serve",
        version=__version__,
        description="LlamaGen behind OpenAI's images API.",
        root_path=root_path,
        docs_url=None,  # api_page has it
        redoc_url=None,
    )
    app.state.model_names = (model_name, *aliases)
    app.state.policy = policy
    app.state.pipeline = pipeline
    app.state.draining = False
    app.state.images = image_store.ImageStore()
    for module in routes:
        app.include_router(module.router)
    app.add_middleware(BodyLimit)
    app.add_middleware(ApiKeys, keyring=keyring)
    app.add_middleware(LenientRequests)
    app.add_middleware(Tracing)
    app.add_middleware(AccessLog)
    app.add_middleware(UnreadBody)
    install_cors(app, cors)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Forwarded, trusted_hosts=list(trusted_proxies))  # the last one is the outermost
    errors.install(app)
    openapi.install(app, needs_key=bool(keyring))
    return app
