"""The description of the served model."""

from __future__ import annotations

import httpx
from fastapi import FastAPI


async def test_the_model_describes_itself(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    [listed] = (await class_client.get("/v1/models")).json()["data"]
    assert listed["condition"] == "class"
    assert (listed["image_size"], listed["grid_size"], listed["guided"]) == (64, 8, True)
    assert listed["defaults"].keys() == {"cfg_scale", "temperature", "top_k", "top_p"}
    one = (await class_client.get("/v1/models/tiny")).json()
    labels = class_app.state.pipeline.model.labels
    assert one == listed | ({"labels": {str(k): v for k, v in labels.items()}} if labels else {})
    assert (await class_client.get("/v1/models/other")).status_code == 404
