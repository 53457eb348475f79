"""The logits processors of both runners: the scale of each row, forced tokens, and engines that are refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm import SamplingParams

from vllm_llamagen.admission import AdmissionV2, UnguidedAdmissionV2
from vllm_llamagen.checks import check_engine
from vllm_llamagen.guidance import mix_branches
from vllm_llamagen.runner_v1 import GuidanceV1, UnguidedV1
from vllm_llamagen.runner_v2 import GuidanceV2
from vllm_llamagen.vllm_compat import BatchUpdate, MoveDirectionality

CODES, VOCAB = 6, 8


def vllm_config(
    branches: int = 2,
    generation: dict[str, Any] | None = None,
    workers: int = 1,
    v2: bool = False,
    window_method: str | None = None,
    **model: Any,
) -> Any:
    fields = {
        "hf_config": SimpleNamespace(
            cfg_branches=branches, vocab_size=VOCAB, codebook_size=CODES, num_image_tokens=64, n_kv_head=4
        ),
        "try_get_generation_config": lambda: generation or {},
        "logits_processors": ["vllm_llamagen.runner_v1:GuidanceV1"],
        "logprobs_mode": "processed_logprobs",
        **model,
    }
    return SimpleNamespace(
        model_config=SimpleNamespace(**fields),
        parallel_config=SimpleNamespace(tensor_parallel_size=workers),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        speculative_config=SimpleNamespace(method=window_method) if window_method else None,
        use_v2_model_runner=v2,
    )


def params(**extra_args: Any) -> SamplingParams:
    return SamplingParams(extra_args=extra_args)


def v1(**config: Any) -> GuidanceV1:
    return GuidanceV1(vllm_config(**config), torch.device("cpu"), False)


def scales(processor: GuidanceV1, n: int) -> list[float]:
    """The scale of each row, read off logits that are 1 in the conditional branch and 0 in the other."""
    logits = torch.cat([torch.ones(n, CODES), torch.zeros(n, CODES)], dim=1)
    return processor.apply(logits)[:, 0].tolist()


def update(size: int, added: Any = (), removed: Any = (), moved: Any = ()) -> BatchUpdate:
    return BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)


def test_v1_follows_requests_through_the_batch() -> None:
    processor = v1()
    added = [(i, params(cfg_scale=scale), [CODES], []) for i, scale in enumerate([4.0, 1.5, 0.0])]
    processor.update_state(update(3, added=added))
    assert scales(processor, 3) == [4.0, 1.5, 0.0]
    processor.update_state(update(2, removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert scales(processor, 2) == [0.0, 1.5]
    processor.update_state(update(2, moved=[(0, 1, MoveDirectionality.SWAP)]))
    assert scales(processor, 2) == [1.5, 0.0]
    processor.update_state(update(2, added=[(0, params(cfg_scale=7.5), None, [])]))
    assert scales(processor, 2) == [7.5, 0.0]
    processor.update_state(None)
    assert scales(processor, 2) == [7.5, 0.0]


def test_v1_counts_tokens_for_the_interval() -> None:
    processor, output = v1(), []
    processor.update_state(update(1, added=[(0, params(cfg_scale=4.0, cfg_interval=1), [CODES], output)]))
    seen = []
    for _ in range(5):
        seen += scales(processor, 1)
        output.append(0)
    assert seen == [4.0, 4.0, 4.0, 1.0, 1.0]


def test_the_model_directory_has_default_guidance() -> None:
    processor, output = v1(generation={"cfg_scale": 64.0, "cfg_schedule": "linear", "cfg_interval": 1}), []
    requests = [(0, SamplingParams(), [CODES], output), (1, params(cfg_schedule="constant"), [CODES], output)]
    processor.update_state(update(2, added=requests))
    seen = []
    for _ in range(4):
        seen.append(scales(processor, 2))
        output.append(0)
    assert seen == [[1.0, 64.0], [2.0, 64.0], [3.0, 64.0], [1.0, 1.0]]


def test_v1_forces_tokens_and_continues_images() -> None:
    processor, output = v1(), []
    args = {"cfg_scale": 4.0, "cfg_interval": 3, "start_index": 4, "forced_tokens": [-1, -1, -1, -1, 2, -1, 99]}
    processor.update_state(update(2, added=[(0, params(**args), [CODES], output), (1, params(), [CODES], [])]))
    seen = []
    for _ in range(3):
        logits = processor.apply(torch.cat([torch.ones(2, CODES), torch.zeros(2, CODES)], dim=1))
        assert logits[1, :CODES].isfinite().all()
        seen.append((logits[0].isfinite().nonzero().flatten().tolist(), logits[0].max().item()))
        output.append(0)
    assert seen == [([2], 4.0), (list(range(CODES)), 1.0), (list(range(CODES)), 1.0)]


def v2(**config: Any) -> GuidanceV2:
    return GuidanceV2(vllm_config(**config), torch.device("cpu"))


def v2_logits(guidance: GuidanceV2, slots: list[int], positions: list[int]) -> Tensor:
    """The logits of a step's rows. Hidden states are 1 in the conditional branch and 0 in the other, as are logits."""
    guidance.begin(torch.tensor(slots), torch.tensor(positions), np.array(slots))
    hidden = torch.cat([torch.ones(len(slots), CODES), torch.zeros(len(slots), CODES)], dim=1)
    return guidance.logits(hidden, lambda mixed: mixed)


def test_v2_reads_slots_and_positions() -> None:
    guidance = v2()
    arguments = [{"cfg_scale": 4.0}, {"cfg_scale": 2.0, "cfg_interval": 1}, {"cfg_scale": 0.5}]
    for slot, (args, prompt_len) in enumerate(zip(arguments, [1, 1, 5], strict=True)):
        guidance.enter(slot, params(**args), prompt_len, done=0)
    guidance.write()
    # rows: slot 1 at image token 2 (guided), slot 1 at token 3 (not any more), slot 0, slot 2 at its first token
    rows = [1, 1, 0, 2], [2, 3, 40, 4]
    logits = v2_logits(guidance, *rows)
    assert logits[:, 0].tolist() == [2.0, 1.0, 4.0, 0.5]
    assert logits[:, CODES:].eq(-math.inf).all()
    guidance.enter(1, SamplingParams(), prompt_len=1, done=0)  # the slot's next occupant
    guidance.write()
    assert v2_logits(guidance, *rows)[:, 0].tolist() == [1.0, 1.0, 4.0, 0.5]


def test_v2_forces_tokens_and_continues_images() -> None:
    guidance = v2()
    args = {"cfg_scale": 4.0, "cfg_interval": 3, "start_index": 4, "forced_tokens": [-1] * 4 + [2]}
    guidance.enter(2, params(**args), prompt_len=5, done=0)
    guidance.write()
    # its rows are image tokens 4 (forced, guided) and 5 (sampled, after the interval)
    rows = v2_logits(guidance, [2, 2], [4, 5])
    assert rows[0].isfinite().nonzero().flatten().tolist() == [2]
    assert rows.max(dim=1).values.tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("branches", "arguments", "products"),
    [
        (2, [{}, {"cfg_scale": 4.0}], [2]),
        (2, [{}, {"cfg_scale": 4.0, "cfg_min_p": 0.5}], [4]),  # the conditional branch in the same product
        (2, [{"branch_logprobs": True}, {"cfg_min_p": 0.5}], [4, 2]),  # both branches are there already
        (1, [{}, {"cfg_min_p": 0.5}], [2]),
    ],
)
def test_v2_computes_the_conditional_logits_only_where_a_row_needs_them(
    branches: int, arguments: list[dict[str, Any]], products: list[int]
) -> None:
    guidance = v2(branches=branches)
    for slot, args in enumerate(arguments):
        guidance.enter(slot, params(**args), prompt_len=1, done=0)
    guidance.write()
    torch.manual_seed(0)
    head, hidden, seen = torch.randn(CODES, 3), torch.randn(2, branches * 3), []

    def product(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows @ head.T

    guidance.begin(torch.tensor([0, 1]), torch.tensor([0, 0]), np.array([0, 1]))
    logits = guidance.logits(hidden, product)
    assert seen == products
    for row, args in enumerate(arguments):
        conditional = hidden[row, :3] @ head.T
        mixed = (
            mix_branches(hidden[row : row + 1], torch.tensor([args.get("cfg_scale", 1.0)]))
            if branches == 2
            else hidden[row : row + 1]
        )
        probabilities = conditional.softmax(0)
        kept = probabilities >= args.get("cfg_min_p", 0.0) * probabilities.max()
        assert torch.equal(logits[row, :CODES].isfinite(), kept)
        torch.testing.assert_close(logits[row, :CODES][kept], (mixed @ head.T)[0, kept])


def test_min_p_applies_to_every_token_and_the_scale_within_the_interval() -> None:
    args = {"cfg_scale": 5.0, "cfg_interval": 1, "cfg_schedule": "linear", "cfg_min_p": 0.5}
    branches = torch.tensor([[2.0, 1.9, 1.0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    kept, scales = [True, True, False, False, False, False], [1.0, 1 + 4 / 63, 1 + 8 / 63, 1.0]
    processor, output, second = v1(), [], v2()
    processor.update_state(update(1, added=[(0, params(**args), [CODES], output)]))
    second.enter(0, params(**args), prompt_len=1, done=0)
    second.write()
    for token, scale in enumerate(scales):
        second.begin(torch.tensor([0]), torch.tensor([token]), np.array([0]))
        for logits in (processor.apply(branches.flatten()[None]), second.logits(branches.flatten()[None], lambda x: x)):
            assert logits[0, :CODES].isfinite().tolist() == kept
            torch.testing.assert_close(logits[0, :2], scale * branches[0, :2])
        output.append(0)


def test_v2_refuses_rows_that_were_not_announced() -> None:
    guidance = v2()
    for slot in (0, 1):
        guidance.enter(slot, params(), prompt_len=1, done=0)
    guidance.write()
    v2_logits(guidance, [0], [0])
    with pytest.raises(RuntimeError, match="they would not be guided"):
        guidance.logits(torch.zeros(1, 2 * CODES), lambda mixed: mixed)
    guidance.begin(torch.tensor([0, 1]), torch.tensor([0, 0]), np.array([0, 1]))
    with pytest.raises(RuntimeError, match="they would not be guided"):
        guidance.logits(torch.zeros(1, 2 * CODES), lambda mixed: mixed)


def test_a_single_branch_refuses_guidance() -> None:
    UnguidedV1.validate_params(params(cfg_scale=1.0))
    with pytest.raises(ValueError, match="cfg_scale is 4.0, must be 1: this server runs without guidance"):
        UnguidedV1.validate_params(params(cfg_scale=4.0))


def test_the_v2_runner_asks_for_admission() -> None:
    for admission, scale in ((AdmissionV2, -1.0), (UnguidedAdmissionV2, 4.0)):
        with pytest.raises(ValueError, match="cfg_scale is"):
            admission.validate_params(params(cfg_scale=scale))
        processor = admission(vllm_config(), None)
        assert not processor.add_request(0, SamplingParams())
        logits = torch.zeros(1, VOCAB)
        assert processor.apply(logits, None) is logits


def test_an_engine_that_would_lose_guidance_is_refused() -> None:
    check_engine(vllm_config())
    with pytest.raises(ValueError, match="--logits-processors vllm_llamagen.runner_v1:GuidanceV1"):
        check_engine(vllm_config(logits_processors=None))
    with pytest.raises(ValueError, match="--logits-processors vllm_llamagen.runner_v1:UnguidedV1"):
        check_engine(vllm_config(branches=1))
    with pytest.raises(ValueError, match="--logprobs-mode processed_logprobs"):
        check_engine(vllm_config(logprobs_mode="raw_logprobs"))


def test_speculative_decoding_is_a_decode_window_or_refused() -> None:
    v2 = {"v2": True, "logits_processors": ["vllm_llamagen.admission:AdmissionV2"]}
    check_engine(vllm_config(**v2, window_method="ngram_gpu"))
    with pytest.raises(ValueError, match="has the method eagle, must be ngram_gpu"):
        check_engine(vllm_config(**v2, window_method="eagle"))
    with pytest.raises(ValueError, match="a decode window needs vLLM's V2 model runner"):
        check_engine(vllm_config(window_method="ngram_gpu"))


def test_workers_that_cannot_share_the_heads_are_refused() -> None:
    check_engine(vllm_config(workers=2))
    with pytest.raises(ValueError, match=r"--tensor-parallel-size is 3, must be one of 1, 2, 4"):
        check_engine(vllm_config(workers=3))
    with pytest.raises(ValueError, match=r"--tensor-parallel-size is 8, must be one of 1, 2, 4"):
        check_engine(vllm_config(workers=8))  # vLLM counts the heads of both branches and would accept it
