"""TF32 is off while the image tokenizer computes, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from llamagen_server.stages.exact_float32 import exact_float32
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_tokenizer import VQConfig, VQModel


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """A process that has turned TF32 on."""
    before = settings()
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


def settings() -> tuple[str, str]:
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


def test_the_stage_encodes_and_decodes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vq = VQModel(VQConfig(codebook_size=8, ch=32, encoder_ch_mult=(1, 1), decoder_ch_mult=(1, 1), num_res_blocks=1))
    stage = ImageTokenizerStage(vq, grid_size=2)
    seen = []
    for part in (vq.encoder, vq.decoder):
        part.register_forward_hook(lambda *_: seen.append(settings()))
    stage._encode_batch([np.zeros((4, 4, 3), np.uint8)])
    stage._decode_batch([[0, 1, 2, 3]])
    stage.shutdown()
    assert seen == [("ieee", "ieee")] * 2
    assert settings() == ("tf32", "tf32")


def test_the_last_of_several_threads_restores_the_settings() -> None:
    both_inside, first_left = Barrier(2), Barrier(2)

    def first() -> None:
        with exact_float32():
            both_inside.wait(5)
        first_left.wait(5)

    def second() -> tuple[str, str]:
        with exact_float32():
            both_inside.wait(5)
            first_left.wait(5)
            return settings()

    with ThreadPoolExecutor(2) as threads:
        threads.submit(first)
        assert threads.submit(second).result(10) == ("ieee", "ieee")
    assert settings() == ("tf32", "tf32")
