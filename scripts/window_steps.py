"""Counts the steps that an image of the demo takes with decode windows, and prints a table.

    VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1 python scripts/window_steps.py --captions 300

On a CPU vLLM's V2 model runner needs what `make v2` installs, and takes hours: an interpreter runs its kernels. The
steps are those of a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import torch
from demo.shapes.captions import held_out_captions
from vllm import LLM, SamplingParams

from llamagen_server.bench.engine import count_guesses
from llamagen_server.engine.arguments import default_flags, plan_engine
from llamagen_server.engine.vllm_engine import start_offline_engine
from llamagen_server.pipeline.build import open_model, text_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.3, 1.0])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 4.0, 7.5])
    parser.add_argument("--max-num-seqs", type=int, default=50)
    args = parser.parse_args()
    model = open_model(None)
    stage = text_stage(model, torch.device("cpu"))
    prompts = [{"prompt_embeds": asyncio.run(stage(caption.text))} for caption in held_out_captions(args.captions)]
    rows: dict[tuple[float, float], list[float]] = {}
    for window in args.windows:
        flags = default_flags(
            decode_window=window,
            decode_window_rule="fixed",
            enforce_eager=True,
            max_num_seqs=args.max_num_seqs,
            dtype="float32",
        )
        llm = start_offline_engine(plan_engine(flags, str(model.path), model.config), in_process=True)
        for temperature in args.temperatures:
            for scale in args.scales:
                mean = steps_per_image(llm, prompts, temperature, scale, model.config.num_image_tokens)
                rows.setdefault((temperature, scale), []).append(mean)
                print(f"temperature {temperature}, cfg_scale {scale}, window {window}: {mean:.1f} steps", flush=True)
    print("| temperature | cfg_scale |", " | ".join(f"window {window}" for window in args.windows), "|")
    print("|---" * (2 + len(args.windows)) + "|")
    for (temperature, scale), means in rows.items():
        print(f"| {temperature} | {scale} |", " | ".join(f"{mean:.1f}" for mean in means), "|")


def steps_per_image(llm: LLM, prompts: list[Any], temperature: float, scale: float, tokens: int) -> float:
    """Returns the mean number of steps of an image: the one that reads the prompt, and those with guesses."""
    guidance = {"cfg_scale": scale, "cfg_interval": -1, "cfg_schedule": "constant", "cfg_min_p": 0.0}
    params = [
        SamplingParams(temperature=temperature, seed=seed, max_tokens=tokens, detokenize=False, extra_args=guidance)
        for seed in range(len(prompts))
    ]
    before = count_guesses(llm)
    llm.generate(prompts, params, use_tqdm=False)
    return 1 + (count_guesses(llm).steps - before.steps) / len(prompts)


if __name__ == "__main__":
    main()
