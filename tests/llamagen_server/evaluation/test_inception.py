"""The Inception network of FID: its tensors, its shapes, its preprocessing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llamagen_server.evaluation.features import FeatureExtractor, resize_as_tensorflow_1
from llamagen_server.evaluation.inception import Inception, load_inception
from llamagen_tokenizer import CheckpointError

SHAPES = {
    "Conv2d_1a_3x3.conv.weight": [32, 3, 3, 3],
    "Conv2d_3b_1x1.bn.running_var": [80],
    "Mixed_5b.branch_pool.conv.weight": [32, 192, 1, 1],
    "Mixed_5d.branch5x5_2.conv.weight": [64, 48, 5, 5],
    "Mixed_6a.branch3x3.conv.weight": [384, 288, 3, 3],
    "Mixed_6b.branch7x7_2.conv.weight": [128, 128, 1, 7],
    "Mixed_6c.branch7x7dbl_2.conv.weight": [160, 160, 7, 1],
    "Mixed_6e.branch7x7dbl_5.conv.weight": [192, 192, 1, 7],
    "Mixed_7a.branch7x7x3_4.conv.weight": [192, 192, 3, 3],
    "Mixed_7b.branch3x3_2a.conv.weight": [384, 384, 1, 3],
    "Mixed_7c.branch3x3dbl_3b.conv.weight": [384, 384, 3, 1],
    "Mixed_7c.branch1x1.bn.weight": [320],
    "fc.weight": [1008, 2048],
    "fc.bias": [1008],
}


def inputs_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """Returns a list to which each call of the module adds its input."""
    seen: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_the_tensors_are_those_of_the_published_file() -> None:
    state = Inception().state_dict()
    assert {name: list(state[name].shape) for name in SHAPES} == SHAPES
    assert len(state) == 94 * 5 + 2  # 94 convolutions with four tensors of normalisation each, and the last layer
    # torchvision states 27,161,264 for Inception v3; less 3,326,696 of its auxiliary classifier, with 8 more classes
    parameters = 27_161_264 - 3_326_696 + 8 * 2049
    assert sum(tensor.numel() for name, tensor in state.items() if "running" not in name) == parameters


def test_the_counters_of_other_ports_are_left_out(inception_file: Path, tmp_path: Path) -> None:
    weights = torch.load(inception_file, weights_only=True)
    torch.save(weights | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}, tmp_path / "counted.pth")
    loaded = load_inception(tmp_path / "counted.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_other_files_are_refused(inception_file: Path, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not the Inception network of FID"):
        load_inception(tmp_path / "other.pth")
    weights = torch.load(inception_file, weights_only=True)
    del weights["fc.bias"]
    torch.save(weights, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, first fc\.bias"):
        load_inception(tmp_path / "short.pth")


def test_features_have_the_shapes_of_the_graph(extractor: FeatureExtractor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    pooled, spatial = extractor.batch(images)
    assert pooled.shape == (2, 2048)
    assert spatial.shape == (2, 17 * 17 * 7)
    assert pooled.dtype == spatial.dtype == np.float32
    assert np.ptp(pooled) > 0
    assert np.ptp(spatial) > 0


def test_spatial_features_are_a_relu_of_mixed_6_with_channels_last(extractor: FeatureExtractor) -> None:
    seen: list[torch.Tensor] = []
    branch = extractor.inception.Mixed_6d.get_submodule("branch1x1")
    hook = branch.register_forward_hook(lambda _, __, output: seen.append(output))
    _, spatial = extractor.batch(np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8))
    hook.remove()
    output = seen[0]
    assert list(output.shape) == [1, 192, 17, 17]
    assert output.min() >= 0
    assert spatial.reshape(17, 17, 7)[3, 5, 6] == output[0, 6, 3, 5].item()


def test_pools_of_mixed_blocks_leave_out_the_padding() -> None:
    """On ones, an average without padding is one everywhere; with padding it would be less at the edges."""
    block = Inception().Mixed_6b.eval()
    seen = inputs_of(block.branch_pool)
    with torch.inference_mode():
        block(torch.ones(1, 768, 5, 5))
    assert torch.equal(seen[0], torch.ones(1, 768, 5, 5))


def test_the_last_block_pools_by_maximum() -> None:
    block = Inception().Mixed_7c.eval()
    seen = inputs_of(block.branch_pool)
    x = torch.zeros(1, 2048, 8, 8)
    x[..., 4, 4] = 1
    with torch.inference_mode():
        block(x)
    assert seen[0][0, 0, 3:6, 3:6].min() == 1
    assert seen[0].sum() == 9 * 2048


def test_probabilities_ignore_the_bias(extractor: FeatureExtractor) -> None:
    pooled = np.random.default_rng(0).random((3, 2048), np.float32)
    logits = pooled.astype(np.float64) @ extractor.inception.fc.weight.numpy().T.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(extractor.probabilities(pooled, batch=2), expected, rtol=1e-4)
    assert extractor.inception.fc.bias.abs().max() > 0


def by_hand(image: list[list[float]], side: int) -> list[list[float]]:
    """TensorFlow 1's bilinear resize of one channel, pixel by pixel."""
    height, width = len(image), len(image[0])

    def at(i: int, size: int) -> tuple[int, int, float]:
        position = i * size / side
        low = math.floor(position)
        return low, min(low + 1, size - 1), position - low

    result = []
    for i in range(side):
        top, bottom, y = at(i, height)
        row = []
        for j in range(side):
            left, right, x = at(j, width)
            above = image[top][left] * (1 - x) + image[top][right] * x
            below = image[bottom][left] * (1 - x) + image[bottom][right] * x
            row.append(above * (1 - y) + below * y)
        result.append(row)
    return result


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (7, 11), (4, 4)])
@pytest.mark.parametrize("side", [4, 9])
def test_resizing_is_that_of_tensorflow_1(size: tuple[int, int], side: int) -> None:
    image = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 255
    resized = resize_as_tensorflow_1(image[None, None], side)[0, 0]
    torch.testing.assert_close(resized, torch.tensor(by_hand(image.tolist(), side)), rtol=0, atol=1e-4)


def test_resizing_two_pixels_to_four() -> None:
    """Worked out by hand: output pixels lie at 0, 0.5, 1 and 1.5; beyond the last pixel it repeats."""
    row = torch.tensor([[10.0, 30.0], [10.0, 30.0]])[None, None]
    assert resize_as_tensorflow_1(row, 4)[0, 0].tolist() == [[10, 20, 30, 30]] * 4
    half_pixel_centres = torch.nn.functional.interpolate(row, (4, 4), mode="bilinear", align_corners=False)
    assert half_pixel_centres[0, 0, 0].tolist() == [10, 15, 25, 30]


def test_preprocessing_maps_bytes_as_the_graph_does(extractor: FeatureExtractor) -> None:
    """(x - 128) / 128: black is -1, and white a little below 1."""
    seen: list[torch.Tensor] = []
    hook = extractor.inception.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = np.zeros((1, 299, 299, 3), np.uint8)
    images[0, :, 150:] = 255
    extractor.batch(images)
    hook.remove()
    assert list(seen[0].shape) == [1, 3, 299, 299]
    assert seen[0][0, 0, 0, 0] == -1
    assert seen[0][0, 2, 298, 298] == 127 / 128


def independent_features(state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The network once more, written out with functions. Returns the pooled features, and ``mixed_6/conv``."""

    def conv(name: str, x: torch.Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> torch.Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(variance + 0.001) * scale + shift).clamp(min=0)

    def average(x: torch.Tensor) -> torch.Tensor:
        ones = F.pad(torch.ones_like(x), (1, 1, 1, 1))
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / F.avg_pool2d(ones, 3, 1)

    x = conv("Conv2d_2b_3x3", conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2)), padding=(1, 1))
    x = F.max_pool2d(x, 3, 2)
    x = F.max_pool2d(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)), 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = conv(f"{block}.branch5x5_2", conv(f"{block}.branch5x5_1", x), padding=(2, 2))
        three = conv(f"{block}.branch3x3dbl_2", conv(f"{block}.branch3x3dbl_1", x), padding=(1, 1))
        three = conv(f"{block}.branch3x3dbl_3", three, padding=(1, 1))
        x = torch.cat([conv(f"{block}.branch1x1", x), five, three, conv(f"{block}.branch_pool", average(x))], 1)
    double = conv("Mixed_6a.branch3x3dbl_2", conv("Mixed_6a.branch3x3dbl_1", x), padding=(1, 1))
    double = conv("Mixed_6a.branch3x3dbl_3", double, 2)
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)
    wide, tall = (0, 3), (3, 0)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        one = conv(f"{block}.branch1x1", x)
        if block == "Mixed_6d":
            spatial = one
        seven = conv(f"{block}.branch7x7_2", conv(f"{block}.branch7x7_1", x), padding=wide)
        seven = conv(f"{block}.branch7x7_3", seven, padding=tall)
        twice = conv(f"{block}.branch7x7dbl_1", x)
        for i, padding in ((2, tall), (3, wide), (4, tall), (5, wide)):
            twice = conv(f"{block}.branch7x7dbl_{i}", twice, padding=padding)
        x = torch.cat([one, seven, twice, conv(f"{block}.branch_pool", average(x))], 1)
    seven = conv("Mixed_7a.branch7x7x3_2", conv("Mixed_7a.branch7x7x3_1", x), padding=wide)
    seven = conv("Mixed_7a.branch7x7x3_4", conv("Mixed_7a.branch7x7x3_3", seven, padding=tall), 2)
    three = conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), 2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for block, pool in (("Mixed_7b", average), ("Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
        three = conv(f"{block}.branch3x3_1", x)
        double = conv(f"{block}.branch3x3dbl_2", conv(f"{block}.branch3x3dbl_1", x), padding=(1, 1))
        forks = [
            conv(f"{block}.{name}{side}", source, padding=padding)
            for name, source in (("branch3x3_2", three), ("branch3x3dbl_3", double))
            for side, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        x = torch.cat([conv(f"{block}.branch1x1", x), *forks, conv(f"{block}.branch_pool", pool(x))], 1)
    return x.mean((2, 3)), spatial


def test_the_network_equals_an_independent_one() -> None:
    """With random normalisation, so that every tensor matters."""
    model = Inception().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for name, tensor in model.state_dict().items():
            if ".bn." in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "mean" not in name else -0.5))
        x = torch.rand(1, 3, 299, 299, generator=generator) * 2 - 1
        pooled, spatial = model(x)
        expected, mixed_6 = independent_features(model.state_dict(), x)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spatial.view(17, 17, 7), mixed_6[0, :7].permute(1, 2, 0), rtol=1e-4, atol=1e-5)
    assert pooled.std() > 1e-2
