"""The counts of guided images, and the ways to lose guidance that they find, in both model runners."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm import LLM, SamplingParams

from vllm_llamagen import guidance_counts
from vllm_llamagen.guidance import mix_branches, pad_vocab
from vllm_llamagen.guidance_counts import EXTENSION, GuidanceCounts, ImageGuidance
from vllm_llamagen.runner_v1 import GuidanceV1, UnguidedV1
from vllm_llamagen.runner_v2 import GuidanceV2, Sampled
from vllm_llamagen.vllm_compat import BatchUpdate

CODES, VOCAB, TOKENS = 6, 8, 16
MODEL = SimpleNamespace(
    hf_config=SimpleNamespace(cfg_branches=2, vocab_size=VOCAB, codebook_size=CODES, num_image_tokens=TOKENS),
    try_get_generation_config=dict,
)
CONFIG: Any = SimpleNamespace(model_config=MODEL)
CPU = torch.device("cpu")

GUIDED, PLAIN = {"cfg_scale": 4.0}, {"cfg_scale": 1.0}
RISING = {"cfg_scale": 3.0, "cfg_schedule": "linear"}
"""Its first token has scale 1."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> GuidanceCounts:
    counts = GuidanceCounts()
    monkeypatch.setattr(guidance_counts, "COUNTS", counts)
    return counts


class RunnerV1:
    """Steps a processor as vLLM's V1 runner does."""

    def __init__(self, processor: type[GuidanceV1] = GuidanceV1) -> None:
        self.processor, self.outputs = processor(CONFIG, CPU, False), {}

    def enter(self, *requests: dict[str, Any], sampled: int = 0) -> None:
        self.outputs = {row: [0] * sampled for row in range(len(requests))}
        added = [
            (row, SamplingParams(extra_args=args), [CODES], self.outputs[row]) for row, args in enumerate(requests)
        ]
        self.processor.update_state(BatchUpdate(len(requests), removed=[], added=added, moved=[]))

    def step(self, width: int = 2 * CODES) -> None:
        self.processor.apply(torch.zeros(len(self.outputs), width))
        for output in self.outputs.values():
            output.append(0)
        self.processor.update_state(None)


class RunnerV2:
    """Steps `GuidanceV2` as vLLM's V2 runner does."""

    def __init__(self, branches: int = 2) -> None:
        fields = {**vars(MODEL.hf_config), "cfg_branches": branches}
        model = SimpleNamespace(hf_config=SimpleNamespace(**fields), try_get_generation_config=dict)
        config: Any = SimpleNamespace(model_config=model, scheduler_config=SimpleNamespace(max_num_seqs=4))
        self.guidance = GuidanceV2(config, CPU)

    def enter(self, *requests: dict[str, Any], sampled: int = 0) -> None:
        self.slots, self.sampled = np.arange(len(requests)), sampled
        for slot, args in enumerate(requests):
            self.guidance.enter(slot, SamplingParams(extra_args=args), prompt_len=1, done=sampled)
        self.guidance.write()

    def step(self, guessed: int = 0, accepted: int = 0) -> None:
        """Samples a token, and ``accepted`` of the ``guessed`` ones after it."""
        n, rows = len(self.slots), 1 + guessed
        self.guidance.expect(Sampled(self.slots, np.full(n, self.sampled + rows), np.full(n, rows)))
        slots = torch.from_numpy(self.slots).repeat_interleave(rows)
        self.guidance.begin(slots, self.sampled + torch.arange(rows).repeat(n), self.slots)
        self.logits(torch.zeros(n * rows, self.guidance.branches * CODES))
        self.sampled += 1 + accepted

    def logits(self, hidden_states: Tensor) -> None:
        self.guidance.logits(hidden_states, lambda mixed: mixed)


Runner = RunnerV1 | RunnerV2
both_runners = pytest.mark.parametrize("start", [RunnerV1, RunnerV2])


def run(runner: Runner, steps: int = TOKENS, width: int = 2 * CODES) -> None:
    for _ in range(steps):
        runner.step(width) if isinstance(runner, RunnerV1) else runner.step()


@both_runners
def test_images_count_once_by_what_they_ask_for(start: Callable[[], Runner], counts: GuidanceCounts) -> None:
    runner = start()
    runner.enter(GUIDED, PLAIN, RISING)
    run(runner)
    assert (counts.guided, counts.conditional, counts.unguided) == (2, 1, 0)
    runner.enter(PLAIN, GUIDED)  # the next images in the same rows
    run(runner)
    assert (counts.guided, counts.conditional, counts.unguided) == (3, 2, 0)


@both_runners
def test_an_image_that_resumes_after_a_preemption_counts_once(
    start: Callable[[], Runner], counts: GuidanceCounts
) -> None:
    runner = start()
    runner.enter(GUIDED)
    run(runner, 5)
    runner.enter(GUIDED, sampled=5)
    run(runner, TOKENS - 5)
    assert (counts.guided, counts.unguided) == (1, 0)


def test_a_request_that_drops_out_of_the_table_is_found(
    counts: GuidanceCounts, caplog: pytest.LogCaptureFixture
) -> None:
    runner = RunnerV1()
    runner.enter(GUIDED, GUIDED)
    run(runner, 5)
    del runner.processor.requests[1]
    run(runner, 5)
    assert (counts.guided, counts.unguided) == (2, 1)
    assert [record.message for record in caplog.records] == [
        "an image was sampled without the guidance that it asked for"
    ]


def test_a_step_without_mixing_is_found(counts: GuidanceCounts) -> None:
    runner = RunnerV1()
    runner.enter(GUIDED, PLAIN)
    run(runner, 5)
    runner.processor.mix = lambda logits, rows: pad_vocab(logits[:, :CODES], VOCAB)  # type: ignore[method-assign]
    run(runner, 1)
    del runner.processor.mix  # type: ignore[attr-defined]
    run(runner, 5)
    assert (counts.guided, counts.conditional, counts.unguided) == (1, 1, 1)


def test_a_sampler_that_never_calls_the_processor_is_found(counts: GuidanceCounts) -> None:
    runner = RunnerV1()
    runner.enter(GUIDED, PLAIN)
    runner.processor.apply = lambda logits: logits  # type: ignore[method-assign]
    run(runner)
    assert (counts.guided, counts.unguided) == (0, 1)


def test_a_model_that_never_mixes_is_found(counts: GuidanceCounts) -> None:
    runner = RunnerV2()
    runner.enter(GUIDED, PLAIN)
    runner.logits = lambda hidden_states: None  # type: ignore[method-assign]
    run(runner)
    assert (counts.guided, counts.unguided) == (0, 1)


def test_scales_that_never_reach_the_device_are_found(counts: GuidanceCounts) -> None:
    runner = RunnerV2()
    runner.guidance.write = lambda: None  # type: ignore[method-assign]
    runner.enter(GUIDED, PLAIN)
    run(runner)
    assert (counts.guided, counts.conditional, counts.unguided) == (0, 1, 1)


def test_tokens_that_were_guessed_ahead_count_as_one_image(counts: GuidanceCounts) -> None:
    runner = RunnerV2()
    runner.enter(GUIDED, PLAIN)
    for accepted in (0, 3, 1, 0, 2):
        runner.step(guessed=3, accepted=accepted)
    assert (counts.guided, counts.conditional, counts.unguided) == (1, 1, 0)


def test_logits_of_one_branch_are_found(counts: GuidanceCounts) -> None:
    runner = RunnerV1()
    runner.enter(GUIDED, GUIDED)
    runner.step(width=CODES)
    assert (counts.guided, counts.unguided) == (0, 2)


@pytest.mark.parametrize("runner", [RunnerV1(UnguidedV1), RunnerV2(branches=1)], ids=["V1", "V2"])
def test_an_engine_with_one_branch_guides_nothing(runner: Runner, counts: GuidanceCounts) -> None:
    runner.enter(PLAIN, GUIDED)  # the second would be refused at admission
    run(runner, width=CODES)
    assert (counts.guided, counts.conditional, counts.unguided) == (0, 1, 1)


def test_an_image_counts_as_unguided_once(counts: GuidanceCounts) -> None:
    image = ImageGuidance(asked=True)
    for token in (0, 2, 4):
        image.sample(token, mixed=True)
    assert (counts.guided, counts.conditional, counts.unguided) == (1, 0, 1)


def test_the_worker_extension_hands_out_the_counts(counts: GuidanceCounts) -> None:
    module, name = EXTENSION.rsplit(".", 1)
    extension = getattr(importlib.import_module(module), name)()
    counts.guided = 3
    assert extension.guidance_counts() == {"process": counts.process, "guided": 3, "conditional": 0, "unguided": 0}
    assert GuidanceCounts().process != counts.process


@pytest.mark.engine
def test_the_counts_of_an_engine(
    start_engine: Callable[..., LLM],
    class_model_dir: Path,
    counts: GuidanceCounts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More images than the batch holds, so that they enter, leave and move within it."""
    llm = start_engine(class_model_dir, max_num_seqs=3)
    codes = llm.model_config.hf_config.codebook_size
    prompts: Any = [{"prompt_token_ids": [codes + i % 10]} for i in range(8)]
    lengths = [64, 9, 30, 64, 1, 17, 64, 5]
    params = [
        SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, extra_args={"cfg_scale": 1.0 + i % 2})
        for i, length in enumerate(lengths)
    ]
    llm.generate(prompts, params, use_tqdm=False)
    [got] = llm.collective_rpc("guidance_counts")
    assert got == {"process": counts.process, "guided": 4, "conditional": 4, "unguided": 0}

    update = GuidanceV1.update_state

    def forget_a_row(processor: GuidanceV1, batch_update: BatchUpdate | None) -> None:
        update(processor, batch_update)
        processor.requests.pop(1, None)

    if llm.llm_engine.vllm_config.use_v2_model_runner:
        monkeypatch.setattr(GuidanceV2, "write", lambda guidance: None)  # scales never reach the table
    else:
        monkeypatch.setattr(GuidanceV1, "update_state", forget_a_row)
    llm.generate(prompts, params, use_tqdm=False)
    assert counts.unguided > 0


def test_counting_takes_a_small_part_of_a_step(counts: GuidanceCounts) -> None:
    """32 images, the default batch on a CPU; a step takes at least 5 ms there."""

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(50):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    runner = RunnerV1()
    runner.enter(*[GUIDED] * 32)
    logits, scale = torch.zeros(32, 2 * CODES), torch.full((32,), 4.0)

    def step() -> Tensor:
        runner.processor.update_state(None)
        return runner.processor.apply(logits)

    counting = seconds(step) - seconds(lambda: pad_vocab(mix_branches(logits, scale), VOCAB))
    assert counting < 0.0005, f"{counting * 1e6:.0f} µs"  # 0.05 ms is 1 %; a shared machine may be ten times slower
