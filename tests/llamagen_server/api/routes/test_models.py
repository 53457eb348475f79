"""The description of the served model."""

from __future__ import annotations

from dataclasses import replace

import httpx
from fastapi import FastAPI


async def test_the_model_describes_itself(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    [listed] = (await class_client.get("/v1/models")).json()["data"]
    assert listed["condition"] == "class"
    assert (listed["image_size"], listed["grid_size"], listed["guided"]) == (64, 8, True)
    assert listed["defaults"].keys() == {
        "cfg_scale", "cfg_interval", "cfg_schedule", "cfg_min_p", "temperature", "top_k", "top_p",
    }  # fmt: skip
    one = (await class_client.get("/v1/models/tiny")).json()
    assert one == listed
    assert (await class_client.get("/v1/models/other")).status_code == 404


async def test_aliases_have_the_first_name_as_root(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    class_app.state.model_names = ("tiny", "gpt-image-1")
    listed = (await class_client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"]) for model in listed] == [("tiny", "tiny"), ("gpt-image-1", "tiny")]
    for name, status in (("gpt-image-1", 200), ("other", 404)):
        reply = await class_client.post("/generate", json={"model": name, "class_id": 1})
        assert reply.status_code == status, reply.text


async def test_labels_come_when_they_are_asked_for(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline

    async def labels(query: str) -> object:
        return (await class_client.get("/v1/models/tiny" + query)).json().get("labels")

    assert await labels("?labels=") is None  # the model has none
    names = {3: ["golden retriever"], 5: ["tree frog", "tree-frog"], 7: ["tree"]}
    pipeline.model = replace(pipeline.model, labels=names)
    assert await labels("") is None
    assert await labels("?labels=") == {str(class_id): found for class_id, found in names.items()}
    assert await labels("?labels=TREE") == {"5": ["tree frog", "tree-frog"], "7": ["tree"]}
    assert await labels("?labels=frog_tree") == {"5": ["tree frog", "tree-frog"]}
    assert await labels("?labels=3") == {"3": ["golden retriever"]}
    assert await labels("?labels=dog") == {}
