"""``/v1/images/encode`` and ``/v1/images/decode``, and the store of images by URL."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers.image_files import read_b64

from llamagen_server.api.routes.image_store import ImageStore
from llamagen_server.core.options import Limits
from llamagen_server.image_files.reading import UNREADABLE


def b64(image: Image.Image, file_format: str = "png") -> str:
    file = io.BytesIO()
    image.save(file, file_format)
    return base64.b64encode(file.getvalue()).decode()


async def test_the_routes_return_what_the_image_tokenizer_computes(
    class_client: httpx.AsyncClient, class_app: FastAPI
) -> None:
    codes = [7 * i % 512 for i in range(64)]
    reply = await class_client.post("/v1/images/decode", json={"codes": codes})
    pixels = np.asarray(read_b64(reply.json()["b64_json"]))
    image_tokenizer = class_app.state.pipeline.image_tokenizer
    assert (pixels == await image_tokenizer.decode_image(codes)).all()
    again = await class_client.post("/v1/images/encode", json={"image": reply.json()["b64_json"]})
    assert again.json() == {
        "codes": await image_tokenizer.encode_image(pixels),
        "grid": [8, 8],
    }


async def test_images_of_other_sizes_formats_and_as_data_urls(class_client: httpx.AsyncClient) -> None:
    for image, file_format in (
        (Image.new("RGB", (300, 200), "red"), "jpeg"),
        (Image.new("LA", (64, 65)), "png"),
        (Image.new("P", (10, 20)), "gif"),
        (Image.new("I;16", (64, 64)), "png"),
    ):
        for prefix in ("", f"data:image/{file_format};base64,"):
            reply = await class_client.post("/v1/images/encode", json={"image": prefix + b64(image, file_format)})
            assert reply.status_code == 200, reply.text
            assert len(reply.json()["codes"]) == 64


async def test_output_format(class_client: httpx.AsyncClient) -> None:
    body = {"codes": [1] * 64, "output_format": "jpeg", "output_compression": 20}
    reply = (await class_client.post("/v1/images/decode", json=body)).json()
    assert reply["output_format"] == "jpeg"
    assert read_b64(reply["b64_json"]).format == "JPEG"


async def test_a_busy_server_refuses(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    pipeline.admission.limits = Limits(max_in_flight=2)
    replies = await asyncio.gather(
        *(class_client.post("/v1/images/decode", json={"codes": [1] * 64}) for _ in range(3))
    )
    assert sorted(reply.status_code for reply in replies) == [200, 200, 429]
    assert pipeline.admission.in_flight == 0


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/images/encode", {"image": "!"}, "image is not valid base64"),
        ("/v1/images/encode", {"image": "é"}, "image is not valid base64"),
        ("/v1/images/encode", {"image": "aGVsbG8="}, f"image is {UNREADABLE}"),
        ("/v1/images/encode", {}, "image is missing"),
        ("/v1/images/decode", {"codes": [1] * 63}, "there are 63 codes, must be 64"),
        ("/v1/images/decode", {"codes": [512] * 64}, "codes has 512, must be 0 to 511"),
        ("/v1/images/decode", {"codes": ["a"] * 64}, "codes.0 is 'a': input should be a valid integer"),
    ],
)
async def test_bad_bodies(class_client: httpx.AsyncClient, path: str, body: Any, message: str) -> None:
    reply = await class_client.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == message


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers() | st.floats() | st.none() | st.text(max_size=3), max_size=70))
async def test_malformed_codes_are_refused(class_client: httpx.AsyncClient, codes: list[Any]) -> None:
    body = {"codes": [None if isinstance(c, float) and not np.isfinite(c) else c for c in codes]}
    reply = await class_client.post("/v1/images/decode", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("codes")


def test_the_store_is_bounded_in_bytes_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(max_bytes=10, max_age=0.0)
    assert store.get(store.put(b"1234", "png")) is None  # expires immediately
    store = ImageStore(max_bytes=10)
    names = [store.put(bytes(4), "png") for _ in range(3)]
    assert [store.get(name) is None for name in names] == [True, False, False]
    assert len({*names}) == 3
    assert len(names[0]) > 32
