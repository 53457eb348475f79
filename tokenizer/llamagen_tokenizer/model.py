"""The VQ image tokenizer of LlamaGen (arXiv 2406.06525, section 2.1; official ``tokenizer/tokenizer_image``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.layers import Decoder, Encoder, VectorQuantizer


class VQModel(nn.Module):
    """Encodes images to grids of codes and decodes them.

    The official pipeline runs it in float32 whatever the dtype of the language model; see `decode_in`.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.ch, config.encoder_ch_mult, config.num_res_blocks, config.z_channels)
        self.decoder = Decoder(config.ch, config.decoder_ch_mult, config.num_res_blocks, config.z_channels)
        self.quantize = VectorQuantizer(config.codebook_size, config.codebook_embed_dim, config.codebook_l2_norm)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def decode_in(self, dtype: torch.dtype) -> VQModel:
        """Makes this model's `decode` compute in ``dtype``, and returns the model.

        `encode` keeps its dtype: rounding there would change codes. Weights of 16 bits are stored with channels last,
        the layout for which tensor cores and a CPU's bfloat16 units have convolutions.
        """
        self.post_quant_conv.to(dtype)
        self.decoder.to(dtype)
        if dtype != torch.float32:
            self.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], float in [-1, 1] -> codes [B, H / downsample, W / downsample], int64.

        Raises:
            ValueError: the tensor is not [B, 3, H, W], or a side is not a multiple of the downsampling factor.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {list(images.shape)}, expected [batch, 3, height, width]")
        for name, side in (("height", images.shape[2]), ("width", images.shape[3])):
            if side == 0 or side % self.config.downsample:
                raise ValueError(f"image {name} is {side}, must be a positive multiple of {self.config.downsample}")
        return self.quantize.encode(self.quant_conv(self.encoder(images)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, h, w], integers in [0, codebook_size) -> images [B, 3, h * downsample, w * downsample].

        The images are float32, nominally in [-1, 1], but not clamped; see `to_uint8`.

        Raises:
            ValueError: the tensor is not [B, h, w], or a code is outside the codebook.
        """
        if codes.ndim != 3:
            raise ValueError(f"codes have shape {list(codes.shape)}, expected [batch, rows, columns]")
        low, high = (int(v) for v in torch.aminmax(codes)) if codes.numel() else (0, 0)
        if low < 0 or high >= self.config.codebook_size:
            raise ValueError(
                f"code {low if low < 0 else high} is outside the codebook, "
                f"which has codes 0 to {self.config.codebook_size - 1}"
            )
        features = self.quantize.decode(codes.long()).to(self.post_quant_conv.weight.dtype)
        images: Tensor = self.decoder(self.post_quant_conv(features))
        return images.float()


def to_uint8(images: Tensor) -> Tensor:
    """Images [B, 3, H, W], float in [-1, 1] -> [B, H, W, 3], uint8, with the rounding of the official samplers."""
    return torch.clamp(127.5 * images + 128.0, 0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """Pixels [B, H, W, 3], uint8 -> images [B, 3, H, W], float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
