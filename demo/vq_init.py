"""Where training of the tokenizer starts: fresh weights, or the weights of a model for images of half the size.

A grown decoder is the smaller one followed by a nearest-neighbour doubling, a grown encoder the smaller one behind a
2 x 2 average. Both then learn the finer detail.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.layers import AttnBlock, Downsample, ResnetBlock
from llamagen_tokenizer.model import VQModel


def fresh(config: VQConfig, codebook: Tensor) -> VQModel:
    """A model with random weights whose blocks start as identities, and with a given codebook [codebook_size, D]."""
    model = VQModel(config)
    model.quantize.embedding.weight.data.copy_(F.normalize(codebook, dim=-1))
    start_as_identity(model)
    pair_output_channels(model)
    return model


def start_as_identity(module: nn.Module) -> None:
    """Silences the residual branches, so that each block starts as its shortcut."""
    for part in module.modules():
        if isinstance(part, (ResnetBlock, AttnBlock)):
            last = part.conv2 if isinstance(part, ResnetBlock) else part.proj_out
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@torch.no_grad()
def pair_output_channels(model: VQModel) -> None:
    """Starts the output level's channels as pairs of opposite sign.

    With 64 channels GroupNorm has two per group and subtracts their common mean. Of a plain area in a pair (s, s)
    nothing would be left; of (s, -s) its sign is.
    """
    convolution = list(model.decoder.conv_blocks)[-2].upsample.conv
    convolution.weight[1::2] = -convolution.weight[::2]
    nn.init.zeros_(convolution.bias)


def grown(small: VQModel) -> VQModel:
    """A model for images of twice the size that does what ``small`` does, but for the sharpness of edges."""
    config = small.config
    model = VQModel(
        replace(
            config,
            encoder_ch_mult=(1, *config.encoder_ch_mult),
            decoder_ch_mult=(config.decoder_ch_mult[0], *config.decoder_ch_mult),
        )
    )
    new_encoder, new_decoder = model.encoder.conv_blocks[0], model.decoder.conv_blocks[-1]
    weights = {_moved(name): value for name, value in small.state_dict().items()}
    _missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    start_as_identity(new_encoder)
    start_as_identity(new_decoder)
    doubling = model.decoder.conv_blocks[-2].upsample.conv
    nn.init.dirac_(doubling.weight)
    nn.init.zeros_(doubling.bias)
    split_first_convolution(model.encoder.conv_in, new_encoder.downsample)
    return model


def _moved(name: str) -> str:
    """The encoder gains a level at its start, the decoder at its end: only the encoder's levels are renumbered."""
    head, dot, rest = name.partition("encoder.conv_blocks.")
    if head or not dot:
        return name
    index, _, tail = rest.partition(".")
    return f"encoder.conv_blocks.{int(index) + 1}.{tail}"


@torch.no_grad()
def split_first_convolution(first: nn.Conv2d, down: Downsample) -> None:
    """Replaces "2 x 2 average, then ``first``" by "``first``, then ``down``" on the image of twice the size.

    The new ``first`` lays the 27 values around each pixel into channels; ``down`` weighs them. Together they reach one
    row and column less than the original, so its outermost weights share the tap that is left.
    """
    kernel = first.weight.clone()  # [C, 3, 3, 3]
    bias = first.bias.clone()
    first.weight.zero_()
    first.bias.zero_()
    for channel in range(27):
        colour, row, column = channel // 9, channel // 3 % 3, channel % 3
        first.weight[channel, colour, row, column] = 1.0
    down.conv.weight.zero_()
    down.conv.bias.copy_(bias)
    for row in range(3):
        for column in range(3):
            for y, row_share in _taps(row):
                for x, column_share in _taps(column):
                    for colour in range(3):
                        channel = colour * 9 + y[1] * 3 + x[1]
                        down.conv.weight[:, channel, y[0], x[0]] += (
                            row_share * column_share * kernel[:, colour, row, column]
                        )


def _taps(offset: int) -> list[tuple[tuple[int, int], float]]:
    """Where tap ``offset`` of the original reads along one axis: (tap of ``down``, tap of ``first``) and its share.

    At output i, tap d of ``down`` with tap f of ``first`` reads pixel 2 i + d + f - 1.
    """
    if offset == 0:
        return [((0, 0), 1.0)]  # pixel 2 i - 1; 2 i - 2 is out of reach
    if offset == 1:
        return [((0, 1), 0.5), ((1, 1), 0.5)]  # pixels 2 i and 2 i + 1
    return [((2, 1), 0.5), ((2, 2), 0.5)]  # pixels 2 i + 2 and 2 i + 3
