"""The golden models on vLLM, and what the official code computes with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from vllm import LLM, SamplingParams

from vllm_llamagen.caption_projection import CaptionProjection
from vllm_llamagen.config import LlamaGenConfig

StartEngine = Callable[..., LLM]


@dataclass
class Golden:
    """A golden model on vLLM, and the results of the official code for it."""

    llm: LLM
    config: LlamaGenConfig
    expected: dict[str, Tensor]
    projection: CaptionProjection | None

    def prompt(self, i: int, codes: Tensor | None = None) -> dict[str, Any]:
        """The i-th condition of the reference run, followed by prefix tokens."""
        prefix = [] if codes is None else codes.tolist()
        if self.projection is None:
            return {"prompt_token_ids": [self.config.codebook_size + int(self.expected["class_ids"][i]), *prefix]}
        n = int(self.expected["n_valid"][i])
        embeds = self.projection(self.expected["caption_embs_raw"][i, :n])
        if not prefix:
            return {"prompt_embeds": embeds}
        return {
            "prompt_embeds": torch.cat([embeds, embeds.new_zeros(len(prefix), embeds.shape[1])]),
            "prompt_token_ids": [self.config.codebook_size] * n + prefix,
            "prompt_is_token_ids": [False] * n + [True] * len(prefix),
        }

    def wrong_tokens(self) -> int:
        """Runs every reference sequence, all scales and conditions in one batch; counts tokens that differ."""
        prompts, params, wanted = [], [], []
        for name, sequences in self.expected.items():
            if not (match := re.fullmatch(r"greedy\.cfg([\d.]+?)(?:_interval(\d+))?", name)):
                continue
            guidance = {"cfg_scale": float(match[1]), "cfg_interval": int(match[2] or -1)}
            for i, sequence in enumerate(sequences):
                prompts.append(self.prompt(i))
                params.append(
                    SamplingParams(temperature=0, max_tokens=len(sequence), detokenize=False, extra_args=guidance)
                )
                wanted.append(sequence)
        assert len(prompts) >= 6
        self.llm.reset_prefix_cache()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        got = torch.tensor([output.outputs[0].token_ids for output in outputs])
        return int((got != torch.stack(wanted)).sum())

    def logits(self, i: int, steps: list[int], scale: float) -> Tensor:
        """Logits of image tokens ``steps`` of condition i after the reference codes before them, [steps, codebook]."""
        codes = self.expected["codes"][i]
        params = SamplingParams(
            temperature=0, max_tokens=1, logprobs=-1, detokenize=False, extra_args={"cfg_scale": scale}
        )
        outputs = self.llm.generate([self.prompt(i, codes[:t]) for t in steps], params, use_tqdm=False)
        rows = [output.outputs[0].logprobs[0] for output in outputs]
        return torch.tensor([[row[code].logprob for code in range(self.config.codebook_size)] for row in rows])


def open_golden(start_engine: StartEngine, name: str, model_dir: Path, expected_file: Path, **flags: Any) -> Golden:
    """Starts an engine with a golden model; ``flags`` are those of `start_engine`."""
    tensors = load_file(expected_file)
    expected = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
    config = LlamaGenConfig.from_pretrained(model_dir)
    projection = None
    if config.condition == "text":
        weights = {k: t.float() for k, t in load_file(model_dir / "model.safetensors").items()}
        projection = CaptionProjection(config, weights)
    return Golden(start_engine(model_dir, **flags), config, expected, projection)
