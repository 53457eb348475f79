"""Ray Serve: replicas of the HTTP app on the machines of a Ray cluster. Only Ray imports this module.

``llamagen_server.serving.ray_serve:build_app`` is the ``import_path`` of a Serve configuration; `deploy/ray` has some.
The machines of the replicas need this package with its extra ``ray``, and the model directory.

torch and vLLM read the environment when they are imported, so they are imported in a replica, after
`set_process_defaults`. There is no ``from __future__ import annotations``: Ray reads the annotation of ``build_app``.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.core import logs
from llamagen_server.core.errors import EngineError
from llamagen_server.core.options import EditWithoutMask, Limits, RequestPolicy, ResponseFormat, SizePolicy
from llamagen_server.engine.environment import set_process_defaults

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llamagen_server.api.middleware.api_key import Keyring
    from llamagen_server.engine.interface import Engine
    from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


SPARE_REQUESTS = 1024
"""Requests above the limit of images that reach a replica: those that it refuses, and those for other routes."""


class Arguments(BaseModel):
    """``args`` of the application in a Serve configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(None, description="Model directory on each machine; the demo model if omitted.")
    served_model_name: str | list[str] | None = Field(
        None, description="Public name, or several; the directory's name if omitted."
    )
    engine: dict[str, Any] = Field({}, description="vLLM's engine arguments by their names in Python.")
    max_in_flight: int = Field(Limits.max_in_flight, description="Unfinished images of one replica; 429 beyond it.")
    default_timeout: float = Field(
        Limits.default_timeout, description="Seconds for a request that names no timeout; 504 after it."
    )
    max_timeout: float = Field(Limits.max_timeout, description="Largest timeout that a request may name, seconds.")
    cfg_branches: Literal[1, 2] = Field(2, description="1: no image is guided, at half the work per token.")
    vq_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="dtype of decoding.")
    api_key_files: list[Path] = Field(
        [], description="Files with keys on each machine, one per line; LLAMAGEN_API_KEY adds one more."
    )

    size_policy: SizePolicy = Field(RequestPolicy.size, description="resize: other sizes than the model's too.")
    edit_without_mask: EditWithoutMask = Field(
        RequestPolicy.edit_without_mask, description="whole: edits without any mask generate the whole image anew."
    )
    default_response_format: ResponseFormat = Field(
        RequestPolicy.response_format, description="Of OpenAI's API, for requests that name none."
    )

    @property
    def policy(self) -> RequestPolicy:
        return RequestPolicy(self.size_policy, self.edit_without_mask, self.default_response_format)

    @property
    def limits(self) -> Limits:
        """Raises ValueError if one is wrong."""
        return Limits(self.max_in_flight, self.default_timeout, self.max_timeout)


def build_app(args: Arguments) -> serve.Application:
    """Returns the application; called by Ray with the ``args`` of the configuration.

    How many replicas there are, how they scale and which devices each has is set in the configuration's
    ``deployments``, for the deployment ``ImageServer``.
    """
    deployment = serve.deployment(
        serve.ingress()(ImageServer),
        name="ImageServer",
        # The app itself refuses what is too much, with status 429. Ray would let it wait without a bound.
        max_ongoing_requests=args.limits.max_in_flight + SPARE_REQUESTS,
    )
    return deployment.bind(args)


class ImageServer:
    """One replica: a pipeline with its engine, behind the HTTP app of ``llamagen serve``."""

    def __init__(self, args: Arguments) -> None:
        """Loads the model; Ray sends requests afterwards.

        Raises:
            ValueError: the model, an engine argument or a key file is wrong.
            EngineError: the engine did not start.
        """
        set_process_defaults()
        logs.set_up()
        from llamagen_server.api.middleware.api_key import Keyring
        from llamagen_server.core import metrics
        from llamagen_server.engine.guidance_watch import GuidanceWatch
        from llamagen_server.serving.tracing import start_tracing

        start_tracing(args.engine.get("otlp_traces_endpoint"))

        keyring = Keyring.collect(files=args.api_key_files)
        self._pipeline, names = _load(args)
        self._guidance = GuidanceWatch()
        self._app = _create_app(names, self._pipeline, keyring, args.policy)
        metrics.READY.set_function(lambda: self._pipeline.engine.is_running)
        logger.info("%s is ready", names[0])

    def __serve_build_asgi_app__(self) -> "FastAPI":
        """Called by Ray after the constructor."""
        return self._app

    async def check_health(self) -> None:
        """Called by Ray now and then; an error makes it replace the replica."""
        await self._pipeline.engine.check_health()
        await self._guidance.poll(self._pipeline.engine)

    def __del__(self) -> None:
        """Called by Ray after the replica has drained."""
        if hasattr(self, "_pipeline"):
            self._pipeline.shutdown()


class EndWithEngine:
    """Middleware that ends the process instead of a reply that the engine has ended for good.

    Ray replaces the replica at once, and a proxy in front sends the request again. A replica that goes on without an
    engine would answer faster than any other, and get most requests until Ray's health checks have failed.
    """

    def __init__(self, app: ASGIApp, engine: "Engine") -> None:
        self.app, self.engine = app, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unless_gone(message: Message) -> None:
            if message.get("status") == 503:
                try:
                    await self.engine.check_health()
                except EngineError as error:
                    logger.critical("the replica ends: %s", error)
                    os._exit(1)
            await send(message)

        await self.app(scope, receive, send_unless_gone)


def _load(args: Arguments) -> "tuple[Pipeline, list[str]]":
    """Returns the pipeline and the model's public names. The process is the replica's own, so it is tuned."""
    from llamagen_server.engine import cpu
    from llamagen_server.engine.arguments import default_flags
    from llamagen_server.pipeline import build

    model = build.open_model(args.model, args.cfg_branches)
    workers = cpu.tune_process(model.num_vq_parameters) if build.stage_device().type == "cpu" else 1
    pipeline = build.build_pipeline(
        model,
        default_flags(**args.engine),
        limits=args.limits,
        vq_dtype=args.vq_dtype,
        decode_workers=workers,
        own_process_group=True,  # the engine ends with a replica that is killed
    )
    given = args.served_model_name or build.public_name(model)
    return pipeline, [given] if isinstance(given, str) else given


def _create_app(names: list[str], pipeline: "Pipeline", keyring: "Keyring", policy: RequestPolicy) -> "FastAPI":
    from llamagen_server.api.app import create_app

    app = create_app(names[0], pipeline, api_keys=keyring, aliases=names[1:], policy=policy)
    app.add_middleware(EndWithEngine, engine=pipeline.engine)
    return app
