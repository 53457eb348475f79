"""Initial weights of the image tokenizer: random, or grown from a model for images of half the size.

A grown decoder starts as the smaller decoder followed by nearest-neighbour upsampling, a grown encoder as 2 x 2 average
pooling followed by the smaller encoder. Training then adds the finer detail.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.layers import AttnBlock, Downsample, ResnetBlock
from llamagen_tokenizer.model import VQModel


def initialised(config: VQConfig, codebook: Tensor) -> VQModel:
    """A model with random weights whose blocks start as identities.

    Args:
        codebook: initial codebook [codebook_size, codebook_embed_dim]; its vectors are normalised.
    """
    model = VQModel(config)
    model.quantize.embedding.weight.data.copy_(F.normalize(codebook, dim=-1))
    start_as_identity(model)
    pair_output_channels(model)
    return model


def start_as_identity(module: nn.Module) -> None:
    """Zeroes the last layer of every residual branch, so that each block starts as its shortcut."""
    for part in module.modules():
        if isinstance(part, (ResnetBlock, AttnBlock)):
            last = part.conv2 if isinstance(part, ResnetBlock) else part.proj_out
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@torch.no_grad()
def pair_output_channels(model: VQModel) -> None:
    """Initialises the channels of the decoder's output level as pairs of opposite sign.

    With 64 channels, GroupNorm has two per group and subtracts their common mean. Normalising a pair (s, s) would
    erase a plain area; a pair (s, -s) keeps its sign.
    """
    convolution = list(model.decoder.conv_blocks)[-2].upsample.conv
    convolution.weight[1::2] = -convolution.weight[::2]
    nn.init.zeros_(convolution.bias)


def grown(small: VQModel) -> VQModel:
    """A model for images of twice the size that computes the same as ``small``, except for the sharpness of edges."""
    config = small.config
    model = VQModel(
        replace(
            config,
            encoder_ch_mult=(1, *config.encoder_ch_mult),
            decoder_ch_mult=(config.decoder_ch_mult[0], *config.decoder_ch_mult),
        )
    )
    new_encoder, new_decoder = model.encoder.conv_blocks[0], model.decoder.conv_blocks[-1]
    weights = {_renumbered(name): value for name, value in small.state_dict().items()}
    _missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    start_as_identity(new_encoder)
    start_as_identity(new_decoder)
    upsampling = model.decoder.conv_blocks[-2].upsample.conv
    nn.init.dirac_(upsampling.weight)
    nn.init.zeros_(upsampling.bias)
    split_first_convolution(model.encoder.conv_in, new_encoder.downsample)
    return model


def _renumbered(name: str) -> str:
    """Name of a parameter of the smaller model in the grown one.

    The encoder gains a level at its start, the decoder at its end, so only the encoder's levels get new numbers.
    """
    head, dot, rest = name.partition("encoder.conv_blocks.")
    if head or not dot:
        return name
    index, _, tail = rest.partition(".")
    return f"encoder.conv_blocks.{int(index) + 1}.{tail}"


@torch.no_grad()
def split_first_convolution(first: nn.Conv2d, down: Downsample) -> None:
    """Makes ``first`` followed by ``down`` compute what 2 x 2 average pooling followed by ``first`` did.

    The new ``first`` copies the 27 values around each pixel (3 colours, 3 x 3 pixels) into channels, and ``down``
    weights them. Together they reach one row and one column less than the original, so taps in its first row or column
    read one pixel along that axis instead of two.
    """
    kernel = first.weight.clone()  # [C, 3, 3, 3]
    down.conv.weight.zero_()
    down.conv.bias.copy_(first.bias)
    first.weight.zero_()
    first.bias.zero_()
    for colour, row, column in product(range(3), repeat=3):
        first.weight[_channel(colour, row, column), colour, row, column] = 1.0
    for row, column in product(range(3), repeat=2):
        for y, x, colour in product(_taps(row), _taps(column), range(3)):
            channel = _channel(colour, y.first, x.first)
            down.conv.weight[:, channel, y.down, x.down] += y.share * x.share * kernel[:, colour, row, column]


def _channel(colour: int, row: int, column: int) -> int:
    """Channel into which ``first`` copies one of the 27 values around a pixel."""
    return colour * 9 + row * 3 + column


class Tap(NamedTuple):
    """A pixel along one axis, read by tap ``down`` of the second convolution through tap ``first`` of the first."""

    down: int
    first: int
    share: float
    """Weight of the pixel within the original's tap."""


def _taps(offset: int) -> list[Tap]:
    """Pixels that tap ``offset`` of the original reads along one axis.

    At output i, tap d of ``down`` and tap f of ``first`` together read pixel 2 i + d + f - 1.
    """
    if offset == 0:
        return [Tap(0, 0, 1.0)]  # pixel 2 i - 1; 2 i - 2 is out of reach
    if offset == 1:
        return [Tap(0, 1, 0.5), Tap(1, 1, 0.5)]  # pixels 2 i and 2 i + 1
    return [Tap(2, 1, 0.5), Tap(2, 2, 0.5)]  # pixels 2 i + 2 and 2 i + 3
