"""What stands in for vLLM's sampling kernel on a CPU gives the results that the kernel has in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from v2_on_cpu.gumbel_kernel import GumbelKernel
from vllm.v1.worker.gpu.sample import gumbel

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("vocab_size", [5, 1024, 1900])
@pytest.mark.parametrize("apply_temperature", [True, False])
def test_results_are_those_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, vocab_size: int, apply_temperature: bool
) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = 3 * torch.randn(6, vocab_size, generator=generator)
    logits[1, vocab_size // 2 :] = -torch.inf
    logits[3] = logits[3, 0]  # a tie, at temperature 0
    slots = torch.tensor([2, 0, 0, 1, 3, 2], dtype=torch.int32)
    temperature = torch.tensor([1.0, 0.0, 0.3, 1.7])
    seeds = torch.tensor([0, 7, -3, 2**40 + 123])
    positions = torch.tensor([0, 1, 2, 63, 2**31 + 5, 119])

    def run(kernel: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        results: dict[str, torch.Tensor] = {}

        class Spy:
            def __getitem__(self, grid: Any) -> Any:
                def call(*args: Any, **flags: Any) -> None:
                    kernel[grid](*args, **flags)
                    results.update(argmax=args[0], max=args[2])

                return call

        monkeypatch.setattr(gumbel, "_gumbel_sample_kernel", Spy())
        sampled = gumbel.gumbel_sample(
            logits, slots, temperature, seeds, positions, apply_temperature=apply_temperature, is_drafting=False
        )
        return sampled, results

    kernel = gumbel._gumbel_sample_kernel
    interpreted = kernel.interpreted if isinstance(kernel, GumbelKernel) else kernel
    expected, stand_in = run(interpreted), run(GumbelKernel(interpreted))
    assert torch.equal(expected[0], stand_in[0])
    for name in ("argmax", "max"):
        assert torch.equal(expected[1][name], stand_in[1][name])
