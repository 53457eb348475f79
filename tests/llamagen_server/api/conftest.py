"""The app over golden model directories, with a fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from tests.fake_engine import FakeEngine

from llamagen_server.api.app import create_app
from llamagen_server.pipeline import build as loading
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.stages.image_tokenizer import ImageTokenizer
from llamagen_tokenizer import load_vq


def make_app(model_dir: Path) -> FastAPI:
    model = loading.open_model(model_dir)
    engine = FakeEngine(model.config.codebook_size, model.config.num_image_tokens)
    text = loading.text_stage(model, torch.device("cpu")) if model.config.condition == "text" else None
    tokenizer = ImageTokenizer(load_vq(model.vq_path), model.config.grid_size)
    return create_app("tiny", Pipeline(model, engine, tokenizer, text))


@pytest.fixture
def text_app(text_model_dir: Path) -> FastAPI:
    return make_app(text_model_dir)


@pytest.fixture
def class_app(class_model_dir: Path) -> FastAPI:
    return make_app(class_model_dir)


@pytest.fixture
async def text_client(text_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(text_app) as client:
        yield client


@pytest.fixture
async def class_client(class_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(class_app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")
