"""The app over golden model directories with a fake engine, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.helpers.app import client_of, make_app


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


@pytest.fixture
def text_openai(text_client: httpx.AsyncClient) -> AsyncOpenAI:
    """The stock OpenAI client, connected to the text model."""
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=text_client, max_retries=0)


@pytest.fixture
def class_openai(class_client: httpx.AsyncClient) -> AsyncOpenAI:
    """The stock OpenAI client, connected to the class model."""
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=class_client, max_retries=0)
