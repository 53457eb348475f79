"""The HTTP app over a golden model directory, with a fake engine."""

from __future__ import annotations

from pathlib import Path

import httpx
import torch
from fastapi import FastAPI
from tests.helpers.fake_engine import FakeEngine

from llamagen_server.api.app import create_app
from llamagen_server.pipeline import build
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_tokenizer import load_vq


def make_app(model_dir: Path) -> FastAPI:
    """Builds the app; its engine is ``app.state.pipeline.engine``, a `FakeEngine`."""
    model = build.open_model(model_dir)
    engine = FakeEngine(model.config.codebook_size, model.config.num_image_tokens)
    text = build.text_stage(model, torch.device("cpu")) if model.config.condition == "text" else None
    image_tokenizer = ImageTokenizerStage(load_vq(model.vq_path), model.config.grid_size)
    return create_app("tiny", Pipeline(model, engine, image_tokenizer, text))


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client that calls the app directly, without a network."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")
