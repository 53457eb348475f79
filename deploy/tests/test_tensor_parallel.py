"""Two workers, each with half of the heads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.engine_flags import exact_flags, needs_two_devices

from vllm_llamagen.process_group import OWN_PROCESS_GROUP


def sample(model_dir: str, class_ids: list[int]) -> list[list[int]]:
    """Returns greedy codes at scale 4 from an engine with two workers."""
    from vllm import SamplingParams

    from llamagen_server.engine.arguments import default_flags, plan_engine
    from llamagen_server.engine.vllm_engine import start_offline_engine
    from vllm_llamagen.config import LlamaGenConfig

    config = LlamaGenConfig.from_pretrained(model_dir)
    flags = default_flags(**exact_flags(), enforce_eager=True, disable_log_stats=True, tensor_parallel_size=2)
    llm = start_offline_engine(plan_engine(flags, model_dir, config))
    prompts: list[Any] = [{"prompt_token_ids": [config.codebook_size + class_id]} for class_id in class_ids]
    params = SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": 4.0})
    return [list(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)]


@pytest.mark.engine
@needs_two_devices
def test_two_workers_give_the_official_tokens(class_model_dir: Path, golden_dir: Path, root: Path) -> None:
    expected = load_file(golden_dir / "expected.safetensors")
    class_ids = json.dumps(expected["tiny_c2i.class_ids"].tolist())
    command = [sys.executable, __file__, str(class_model_dir), class_ids]
    ends_with_us = {OWN_PROCESS_GROUP: "1"}  # the engine ends with the script, whatever ends that
    environment = {**os.environ, **ends_with_us, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    got = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert torch.equal(got, expected["tiny_c2i.greedy.cfg4.0"].long())


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(sample(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
