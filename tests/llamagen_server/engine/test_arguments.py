"""The engine's plan: vLLM's arguments and variables."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from llamagen_server.cli import serve
from llamagen_server.engine import compilation, container, cpu
from llamagen_server.engine.arguments import CONTAINER_WORKER, CPU_WORKER, default_flags, plan_engine
from llamagen_server.engine.environment import engine_environment
from llamagen_server.engine.frontend_flags import REFUSED
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.vllm_compat import AsyncEngineArgs, FlexibleArgumentParser, current_platform, make_arg_parser


@pytest.mark.skipif(not current_platform.is_cpu(), reason="about the variables of an engine on a CPU")
def test_a_variable_of_the_user_counts_and_one_of_a_library_does_not(
    monkeypatch: pytest.MonkeyPatch, class_model_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as torch does
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(compilation, "_compile_and_load", lambda compiler, folder: None)
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    with engine_environment(plan.environment):
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path / "llamagen" / "compiled"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == default_cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in plan_engine(default_flags(), str(class_model_dir), config).environment


@pytest.mark.skipif(not current_platform.is_cpu(), reason="about the variables of an engine on a CPU")
def test_an_engine_is_eager_where_nothing_can_be_compiled(
    class_model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    monkeypatch.setattr(compilation, "environment", lambda: {"FOR_THE_COMPILER": "1"})
    compiled = plan_engine(default_flags(), str(class_model_dir), config)
    assert not compiled.arguments.enforce_eager
    assert compiled.environment["FOR_THE_COMPILER"] == "1"
    assert compiled.arguments.compilation_config.inductor_compile_config["compile_threads"] == min(8, cpu.cores())
    chosen = default_flags(compilation_config={"inductor_compile_config": {"compile_threads": 3}})
    config_of = plan_engine(chosen, str(class_model_dir), config).arguments.compilation_config
    assert config_of.inductor_compile_config["compile_threads"] == 3
    assert "TORCHDYNAMO_DISABLE" not in compiled.environment
    asked = plan_engine(default_flags(enforce_eager=True), str(class_model_dir), config)
    assert asked.environment["TORCHDYNAMO_DISABLE"] == "1"
    assert not caplog.records

    def fails() -> dict[str, str]:
        raise compilation.CompilationError("no compiler")

    monkeypatch.setattr(compilation, "environment", fails)
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    assert plan.arguments.enforce_eager
    assert plan.environment["TORCHDYNAMO_DISABLE"] == "1"
    assert [record.message for record in caplog.records] == [
        "no compiler: running eager, which is slower than compiled"
    ]


def test_planning_changes_no_argument(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    flags = default_flags(hf_overrides={"rope_base": 10000.0}, logits_processors=["other:Processor"])
    before = copy.deepcopy(vars(flags)), config.to_dict()
    plan = plan_engine(flags, str(class_model_dir), config)
    assert (vars(flags), config.to_dict()) == before
    assert plan.arguments.hf_overrides == {"rope_base": 10000.0, "cfg_branches": 2}


def test_images_are_scheduled_by_priority_unless_the_user_wants_another_policy(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    for flags, policy in ((default_flags(), "priority"), (default_flags(scheduling_policy="fcfs"), "fcfs")):
        assert plan_engine(flags, str(class_model_dir), config).arguments.scheduling_policy == policy


def test_an_unknown_engine_argument_is_named() -> None:
    with pytest.raises(ValueError, match="vLLM has no engine argument max_num_seq$"):
        default_flags(max_num_seq=3)


def test_flags_of_vllms_own_server_are_refused_by_name(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    given = {
        "generation_config": "vllm", "override_generation_config": {"temperature": 0.5}, "max_num_queued_reqs": 4,
        "max_num_queued_tokens": 9, "reasoning_parser": "x", "reasoning_parser_plugin": "x", "io_processor_plugin": "x",
        "allowed_local_media_path": "/", "allowed_media_domains": ["a"], "data_parallel_external_lb": True,
        "data_parallel_hybrid_lb": True, "data_parallel_multi_port_external_lb": True, "data_parallel_rank": 1,
    }  # fmt: skip
    assert given.keys() == REFUSED.keys()
    for name, value in given.items():
        with pytest.raises(ValueError, match=f"^--{name.replace('_', '-')} is a flag of vLLM's own server and has no"):
            plan_engine(default_flags(**{name: value}), str(class_model_dir), config)
    plan_engine(default_flags(served_model_name=["a", "b"]), str(class_model_dir), config)


HONOURED = {
    "--host", "--port", "--api-key", "--root-path", "--config",
    "--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certs", "--ssl-cert-reqs",
    "--allowed-origins", "--allowed-methods", "--allowed-headers", "--allow-credentials", "--no-allow-credentials",
}  # fmt: skip
"""Flags of vLLM's server, outside its engine flags, that have their meaning here."""


def test_every_flag_of_vllms_own_server_is_honoured_or_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    ours = FlexibleArgumentParser()
    serve.add_arguments(ours)
    theirs = flags_of(make_arg_parser(FlexibleArgumentParser()))
    of_the_server = theirs - flags_of(AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()))
    assert len(of_the_server) > 50
    assert of_the_server & flags_of(ours) == HONOURED - {"--config"}  # which vLLM's parser reads itself
    for flag in of_the_server - HONOURED:
        with pytest.raises(SystemExit):
            ours.parse_args([flag, "1"])
        assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM compares with a GPU's memory")
def test_the_kv_cache_is_not_refused_for_the_cached_files_of_a_container(
    class_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    for limited, flags, worker in (
        (False, default_flags(), CPU_WORKER),
        (True, default_flags(), CONTAINER_WORKER),
        (True, default_flags(worker_cls="my.Worker"), "my.Worker"),
    ):
        monkeypatch.setattr(container, "has_memory_limit", lambda limited=limited: limited)
        assert plan_engine(flags, str(class_model_dir), config).arguments.worker_cls == worker


@pytest.mark.skipif(not current_platform.is_cpu(), reason="GPUs run the V2 model runner")
def test_the_model_runner_of_gpus_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch, class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="VLLM_USE_V2_MODEL_RUNNER is 1, must be 0 or unset"):
        plan_engine(default_flags(), str(class_model_dir), config)


def test_a_window_that_depends_on_the_load_is_refused_for_several_engines(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    flags = default_flags(decode_window=8, data_parallel_size=2)
    with pytest.raises(ValueError, match="--decode-window-rule is rows, must be fixed with --data-parallel-size 2"):
        plan_engine(flags, str(class_model_dir), config)
