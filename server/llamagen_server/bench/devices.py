"""Estimated service curves of GPUs, from their data sheets. Nothing here is measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from llamagen_server.bench.queueing import ServiceCurve
from llamagen_server.bench.roofline import Machine, roofline_seconds
from llamagen_server.engine.arguments import kv_cache_bytes
from llamagen_tokenizer import VQConfig
from llamagen_tokenizer.layers import Decoder
from vllm_llamagen.config import LlamaGenConfig

BYTES_PER_VALUE = 2
"""bfloat16."""
KV_BLOCK = 16
MEMORY_SHARE = 0.9
"""Share of a device's memory that weights and KV cache may fill: vLLM's default."""
STAGES_BYTES = 4 * 2**30
"""Memory left to the image tokenizer, a text encoder and the activations."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Device:
    """A device by its data sheet: dense rates without sparsity."""

    machine: Machine
    """Rates of memory and of bfloat16 operations. Convolutions in float32 run as TF32, at half the rate."""
    memory_bytes: float


DEVICES = {
    "l4": Device(Machine(0.300e12, 121e12), 24e9),
    "l40s": Device(Machine(0.864e12, 362e12), 48e9),
    "a100": Device(Machine(2.039e12, 312e12), 80e9),
    "h100": Device(Machine(3.35e12, 989e12), 80e9),
    "h200": Device(Machine(4.8e12, 989e12), 141e9),
}
"""NVIDIA's data sheets; A100, H100 and H200 are the SXM versions, A100 the one with 80 GB."""


@dataclass(frozen=True)
class Assumptions:
    """What an estimate assumes beyond the data sheet."""

    roofline_fraction: float
    """Share of the roofline that engine and decoder reach."""
    step_overhead_s: float
    """Time of a decode step on top of that: scheduling and sampling on the host."""


ROOFLINE = Assumptions(1.0, 0.0)
"""The upper bound: what the hardware allows."""
CAUTIOUS = Assumptions(0.48, 0.005)
"""As measured on a CPU with 8 images (docs/benchmarks.md): the fraction of the roofline, and the part of a step of
37 ms that is spent outside matrix products, attention, top-k, norms and rotations."""


def estimate(config: LlamaGenConfig, device: Device, assumptions: Assumptions, max_num_seqs: int) -> ServiceCurve:
    """Returns the estimated service curve of one device that runs both the engine and the decoder.

    Raises:
        ValueError: the model and one image do not fit into the device's memory.
    """
    places = min(max_num_seqs, _images_in_memory(config, device))
    if places < 1:
        raise ValueError(
            f"{config.step_weights / 1e9:.3g} billion weights and one of its images do not fit into a device of "
            f"{device.memory_bytes / 1e9:.0f} GB"
        )
    decode_s = decode_flops(config.grid_size) / (device.machine.flops_per_s / 2) / assumptions.roofline_fraction

    def rate(batch: int) -> float:
        engine_s = roofline_seconds(config, batch, BYTES_PER_VALUE, device.machine) / assumptions.roofline_fraction
        return batch / (engine_s + config.num_image_tokens * assumptions.step_overhead_s + batch * decode_s)

    batches = [batch for batch in BATCHES if batch < places] + [places]
    return ServiceCurve(tuple((batch, rate(batch)) for batch in batches), places)


@functools.cache
def decode_flops(grid_size: int) -> int:
    """Returns the operations of decoding one image with the official image tokenizer; nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    config = VQConfig()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        decoder = Decoder(config.ch, config.decoder_ch_mult, config.num_res_blocks, config.z_channels)
        decoder(torch.zeros(1, config.z_channels, grid_size, grid_size))
    return int(counter.get_total_flops())


def _images_in_memory(config: LlamaGenConfig, device: Device) -> int:
    free = MEMORY_SHARE * device.memory_bytes - STAGES_BYTES - BYTES_PER_VALUE * config.step_weights
    return int(free // kv_cache_bytes(config, "bfloat16", KV_BLOCK))
