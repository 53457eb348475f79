"""Sampling a set with an engine that makes up codes: nothing is lost, repeated or mixed up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.fake_engine import FakeEngine

from llamagen_server.core.errors import EngineError
from llamagen_server.evaluation.npz_images import NpzImages
from llamagen_server.pipeline import build
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.sample.outputs import NpzOutput, PngOutput
from llamagen_server.sample.plan import SamplePlan
from llamagen_server.sample.run import sample
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_tokenizer import load_vq, to_uint8

MakePipeline = Callable[[], Pipeline]
COUNT = 24


@pytest.fixture
def make_pipeline(class_model_dir: Path) -> MakePipeline:
    model = build.open_model(class_model_dir)

    def make() -> Pipeline:
        engine = FakeEngine(model.config.codebook_size, model.config.num_image_tokens)
        return Pipeline(model, engine, ImageTokenizerStage(load_vq(model.vq_path), model.config.grid_size))

    return make


@pytest.fixture
def plan() -> SamplePlan:
    return SamplePlan(count=COUNT, first_seed=5, class_ids=[0, 3, 7])


def run(pipeline: Pipeline, plan: SamplePlan, path: Path, side: int | None = None) -> NpzOutput:
    """Samples into an ``.npz``; returns the output, unfinished if sampling fails."""
    if side:
        pipeline.image_tokenizer.resize_decoded(side)
    output = NpzOutput(path, range(COUNT), side or 64, pipeline.model.config.num_image_tokens, {})
    try:
        asyncio.run(sample(pipeline, plan, range(COUNT), [output]))
    finally:
        output.close()
    output.finish()
    return output


def decode(pipeline: Pipeline, codes: np.ndarray) -> torch.Tensor:
    """Codes of an image [tokens] -> [1, 3, side, side], by a network of its own."""
    size = pipeline.model.config.grid_size
    with torch.inference_mode():
        return load_vq(pipeline.model.vq_path).decode(torch.from_numpy(codes).long().view(1, size, size))


def test_each_image_has_its_own_class_and_seed(make_pipeline: MakePipeline, plan: SamplePlan, tmp_path: Path) -> None:
    pipeline = make_pipeline()
    run(pipeline, plan, tmp_path / "a.npz")
    engine = pipeline.engine
    assert isinstance(engine, FakeEngine)
    asked = {(request.condition, request.sampling.seed) for request in engine.requests}
    assert asked == {((0, 3, 7)[i % 3], 5 + i) for i in range(COUNT)}
    with np.load(tmp_path / "a.npz") as arrays:
        codes, images = arrays["codes"], arrays["arr_0"]
    decoded = decode(pipeline, codes[4])
    assert (images[4] == to_uint8(decoded)[0].numpy()).all()


@pytest.mark.parametrize("failures", [1, 3])
def test_a_set_that_was_broken_off_ends_with_the_same_bytes(
    make_pipeline: MakePipeline, plan: SamplePlan, tmp_path: Path, failures: int
) -> None:
    run(make_pipeline(), plan, tmp_path / "whole.npz")
    for number in range(failures):
        pipeline = make_pipeline()
        engine = pipeline.engine
        assert isinstance(engine, FakeEngine)
        engine.max_num_seqs = 2
        engine.error, engine.error_seeds = EngineError("broken"), frozenset([5 + 6 * (number + 1)])
        with pytest.raises(EngineError):
            run(pipeline, plan, tmp_path / "broken.npz")
    pipeline = make_pipeline()
    run(pipeline, plan, tmp_path / "broken.npz")
    assert isinstance(pipeline.engine, FakeEngine)
    assert 0 < len(pipeline.engine.requests) < COUNT
    assert (tmp_path / "broken.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_both_kinds_of_output_from_one_sampling(make_pipeline: MakePipeline, plan: SamplePlan, tmp_path: Path) -> None:
    """The folder has the first images already; the engine samples only for the file, and each image once."""
    npz = NpzOutput(tmp_path / "a.npz", range(COUNT), 64, 0, {})
    folder = PngOutput(tmp_path / "images", {}, lambda index: (None, {"index": index}), codes=False)
    asyncio.run(sample(make_pipeline(), plan, range(8), [folder]))
    pipeline = make_pipeline()
    asyncio.run(sample(pipeline, plan, range(COUNT), [npz, folder]))
    npz.finish()
    assert isinstance(pipeline.engine, FakeEngine)
    assert len(pipeline.engine.requests) == COUNT
    [images] = NpzImages(npz.path).batches(COUNT)
    for index in range(COUNT):
        with Image.open(tmp_path / "images" / f"{index:06d}.png") as image:
            assert (np.asarray(image) == images[index]).all()
            assert json.loads(image.info["settings"])["index"] == index


def test_images_are_resized_as_the_official_script_does(
    make_pipeline: MakePipeline, plan: SamplePlan, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    run(pipeline, plan, tmp_path / "small.npz", side=40)
    with np.load(tmp_path / "small.npz") as arrays:
        codes, images = arrays["codes"], arrays["arr_0"]
    decoded = decode(pipeline, codes[3])
    # sample_c2i_ddp.py
    samples = torch.nn.functional.interpolate(decoded, size=(40, 40), mode="bicubic")
    samples = torch.clamp(127.5 * samples + 128.0, 0, 255).permute(0, 2, 3, 1).to("cpu", dtype=torch.uint8)
    assert (images[3] == samples[0].numpy()).all()
    assert images.shape == (COUNT, 40, 40, 3)
