"""The Inception network of FID: the TensorFlow graph of 2015-12-05 (arXiv 1512.00567), by the names of its ports.

It differs from torchvision's Inception v3: 1008 outputs, average pools that leave out the padding, and a max pool in
the last block. The weights are a file that pytorch-fid and torch-fidelity publish.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_tokenizer.checkpoint import load_weights
from llamagen_tokenizer.checkpoint_files import CheckpointError, load_checkpoint

NUM_CLASSES = 1008
POOL_FEATURES = 2048
SPATIAL_CHANNELS = 7
"""Channels of the spatial features, of 192: 7 x 17 x 17 values are about as many as the pooled features."""
SIDE = 299
"""Side of the network's input in pixels."""

Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
"""Name, output channels and kernel of a convolution."""
Chain = tuple[tuple[Layer, ...], ...]
"""Layers one after the other; those of one step all see the same input, and their outputs are concatenated."""

_WIDE, _TALL = (1, 7), (7, 1)


class BatchNorm(nn.Module):
    """Batch normalisation with stored statistics."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Chains of convolutions beside a pool, concatenated.

    With ``pool_channels`` the block keeps the size, and a 1x1 convolution follows the pool. Without, it halves the
    size: the last convolution of each chain and the max pool have stride 2 and no padding.
    """

    def __init__(
        self, inputs: int, chains: tuple[Chain, ...], pool_channels: int | None = None, pool: str = "average"
    ) -> None:
        super().__init__()
        self._halves, self._pool = pool_channels is None, pool
        self._chains = [[[name for name, _, _ in step] for step in chain] for chain in chains]
        for chain in chains:
            channels = inputs
            for step in chain:
                last = self._halves and step is chain[-1]
                for name, outputs, kernel in step:
                    self.add_module(name, Conv(channels, outputs, kernel, 2 if last else 1, same=not last))
                channels = sum(outputs for _, outputs, _ in step)
        if pool_channels is not None:
            self.branch_pool = Conv(inputs, pool_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._run(chain, x) for chain in self._chains]
        if self._halves:
            return torch.cat([*outputs, F.max_pool2d(x, 3, stride=2)], 1)
        if self._pool == "max":
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([*outputs, self.branch_pool(pooled)], 1)

    def _run(self, chain: list[list[str]], x: Tensor) -> Tensor:
        for names in chain:
            x = torch.cat([self.get_submodule(name)(x) for name in names], 1)
        return x


def _in_a_row(*layers: Layer) -> Chain:
    return tuple((layer,) for layer in layers)


def _mixed_35(inputs: int, pool_channels: int) -> Mixed:
    """A block of 35x35 positions."""
    double = (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))
    chains = (
        _in_a_row(("branch1x1", 64, 1)),
        _in_a_row(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        _in_a_row(*double),
    )
    return Mixed(inputs, chains, pool_channels)


def _mixed_17(width: int) -> Mixed:
    """A block of 17x17 positions: 768 channels in and out, ``width`` inside the factored 7x7 convolutions."""
    single = (("branch7x7_1", width, 1), ("branch7x7_2", width, _WIDE), ("branch7x7_3", 192, _TALL))
    kernels: tuple[Kernel, ...] = (1, _TALL, _WIDE, _TALL, _WIDE)
    widths = (width, width, width, width, 192)
    double = tuple((f"branch7x7dbl_{i + 1}", widths[i], kernels[i]) for i in range(5))
    return Mixed(768, (_in_a_row(("branch1x1", 192, 1)), _in_a_row(*single), _in_a_row(*double)), 192)


def _mixed_8(inputs: int, pool: str) -> Mixed:
    """A block of 8x8 positions, with 2048 channels out."""
    fork: dict[str, tuple[Layer, ...]] = {
        name: ((f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))) for name in ("branch3x3_2", "branch3x3dbl_3")
    }
    chains: tuple[Chain, ...] = (
        _in_a_row(("branch1x1", 320, 1)),
        ((("branch3x3_1", 384, 1),), fork["branch3x3_2"]),
        ((("branch3x3dbl_1", 448, 1),), (("branch3x3dbl_2", 384, 3),), fork["branch3x3dbl_3"]),
    )
    return Mixed(inputs, chains, 192, pool)


class Inception(nn.Module):
    """Images [B, 3, 299, 299], float in [-1, 1) -> pooled and spatial features; see `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _mixed_35(192, 32), _mixed_35(256, 64), _mixed_35(288, 64)
        double = (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))
        self.Mixed_6a = Mixed(288, (_in_a_row(("branch3x3", 384, 3)), _in_a_row(*double)))
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_mixed_17, (128, 160, 160, 192))
        single = (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3))
        seven = (
            ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, _WIDE), ("branch7x7x3_3", 192, _TALL),
            ("branch7x7x3_4", 192, 3),
        )  # fmt: skip
        self.Mixed_7a = Mixed(768, (_in_a_row(*single), _in_a_row(*seven)))
        self.Mixed_7b, self.Mixed_7c = _mixed_8(1280, "average"), _mixed_8(2048, "max")
        self.fc = nn.Linear(POOL_FEATURES, NUM_CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pooled features [B, 2048] (``pool_3``), and the spatial ones [B, 2023].

        The spatial features are the first 7 channels of ``mixed_6/conv`` at 17x17 positions, channels last, in the
        order of the TensorFlow graph and so of stored statistics.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c):
            x = block(x)
        spatial = self.Mixed_6d.get_submodule("branch1x1")(x)[:, :SPATIAL_CHANNELS]
        for block in (self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            x = block(x)
        return x.mean((2, 3)), spatial.permute(0, 2, 3, 1).flatten(1)

    def probabilities(self, pooled: Tensor) -> Tensor:
        """Pooled features [N, 2048] -> class probabilities [N, 1008]. The bias of the last layer is left out.

        The Inception Score is defined without it (``softmax/logits/MatMul`` in ADM's evaluator).
        """
        return torch.softmax(pooled @ self.fc.weight.T, dim=1)


def load_inception(path: str | Path) -> Inception:
    """Loads ``pt_inception-2015-12-05-6726825d.pth`` or a file with the same tensors, on the CPU, for inference.

    Raises:
        CheckpointError: the file cannot be read, or has other tensors.
    """
    weights = {
        name: tensor
        for name, tensor in load_checkpoint(path).items()
        if isinstance(tensor, Tensor) and not name.endswith("num_batches_tracked")
    }
    if "Mixed_7c.branch_pool.conv.weight" not in weights:
        raise CheckpointError(
            f"{path}: not the Inception network of FID; expected pt_inception-2015-12-05-6726825d.pth of pytorch-fid"
        )
    with torch.device("meta"):
        model = Inception()
    model.to_empty(device="cpu")
    load_weights(model, weights, path)
    return model.float().eval().requires_grad_(False)
