"""The settings that every engine with a LlamaGen model gets, as vLLM assembles them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from vllm import ModelRegistry

from llamagen_server.engine.environment import engine_environment
from vllm_llamagen import register
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.engine_settings import LlamaGenSettings
from vllm_llamagen.guidance_counts import EXTENSION
from vllm_llamagen.vllm_compat import AsyncEngineArgs, VllmConfig, current_platform


def assemble(model_dir: Path, **flags: Any) -> VllmConfig:
    """The configuration of ``vllm serve MODEL_DIR`` with these flags; no engine is started."""
    with engine_environment():
        return AsyncEngineArgs(model=str(model_dir), kv_cache_memory_bytes=2**20, **flags).create_engine_config()


def test_guidance_needs_no_flag(class_model_dir: Path, text_model_dir: Path) -> None:
    for model_dir, prompt_embeds in ((class_model_dir, False), (text_model_dir, True)):
        config = assemble(model_dir)
        assert config.model_config.logits_processors == ["vllm_llamagen.runner_v1:GuidanceV1"]
        assert config.model_config.logprobs_mode == "processed_logprobs"
        assert config.model_config.skip_tokenizer_init
        assert config.parallel_config.worker_extension_cls == EXTENSION
        assert config.model_config.enable_prompt_embeds == prompt_embeds
        assert config.scheduler_config.enable_chunked_prefill != current_platform.is_cpu()


def test_flags_of_the_user_stay(class_model_dir: Path) -> None:
    config = assemble(
        class_model_dir,
        logits_processors=["other:Processor"],
        logprobs_mode="processed_logits",
        hf_overrides={"cfg_branches": 1},
    )
    assert config.model_config.logits_processors == ["vllm_llamagen.runner_v1:UnguidedV1", "other:Processor"]
    assert config.model_config.logprobs_mode == "processed_logits"


def test_a_worker_extension_of_the_user_stays_and_is_reported_once(
    class_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        config = assemble(class_model_dir, worker_extension_cls="other.Extension")
    assert config.parallel_config.worker_extension_cls == "other.Extension"
    assert [record.message for record in caplog.records if record.name == "vllm_llamagen.engine_settings"] == [
        "--worker-extension-cls is other.Extension: the metrics of guidance are not counted"
    ]


def test_the_model_runner_decides_the_processor() -> None:
    model = SimpleNamespace(
        hf_config=LlamaGenConfig(),
        logits_processors=None,
        logprobs_mode="raw_logprobs",
        max_model_len=257,
        try_get_generation_config=dict,
    )
    config: Any = SimpleNamespace(
        model_config=model,
        use_v2_model_runner=True,
        speculative_config=None,
        parallel_config=SimpleNamespace(tensor_parallel_size=1, worker_extension_cls=""),
        scheduler_config=SimpleNamespace(verify_max_model_len=lambda length: None),
    )
    LlamaGenSettings.verify_and_update_config(config)
    assert model.logits_processors == ["vllm_llamagen.admission:AdmissionV2"]
    assert model.hf_config.head_dtype == "float32"
    model.hf_config.head_dtype = "model"  # as --hf-overrides sets it
    LlamaGenSettings.verify_and_update_config(config)
    assert model.hf_config.head_dtype == "model"


def test_a_number_of_workers_that_cannot_share_the_heads_is_refused(class_model_dir: Path) -> None:
    with pytest.raises(ValidationError, match="--tensor-parallel-size is 3, must be one of 1, 2, 4"):
        assemble(class_model_dir, tensor_parallel_size=3)


def test_no_process_is_started_to_inspect_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))  # what vLLM has learnt from such a process before

    def process(*_: object, **__: object) -> None:
        raise AssertionError("a process")

    monkeypatch.setattr(subprocess, "run", process)
    register()
    registered = ModelRegistry.models["LlamaGenForCausalLM"]
    assert registered.inspect_model_cls().architecture == "LlamaGenForCausalLM"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"cfg_min_p": 1.5}, "generation_config.json: cfg_min_p is 1.5, must be a number from 0 to 1"),
        ({"cfg_min_p": "0.1"}, "generation_config.json: cfg_min_p is '0.1', must be a number"),
        ({"cfg_schedule": "up"}, "generation_config.json: cfg_schedule is 'up', must be one of constant, linear"),
        ({"cfg_interval": None}, "generation_config.json: cfg_interval is None, must be an integer"),
    ],
)
def test_defaults_of_the_model_are_checked_before_an_engine_starts(
    class_model_dir: Path, tmp_path: Path, stored: dict[str, Any], message: str
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(class_model_dir, model_dir)
    (model_dir / "generation_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValidationError, match=message):
        assemble(model_dir)
