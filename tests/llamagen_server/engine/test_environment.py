"""Environment variables: set for the engine's processes, restored for the caller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from llamagen_server.engine.environment import (
    ENGINE_DEFAULTS,
    PROCESS_DEFAULTS,
    engine_environment,
    set_process_defaults,
)


@pytest.fixture(autouse=True)
def empty_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ, clear=True):
        yield


def environment() -> dict[str, str]:
    """The environment, without the variable that pytest adds."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def test_the_engine_environment_ends_with_its_block() -> None:
    def start() -> None:
        with engine_environment({"OMP_NUM_THREADS": "1"}):
            assert {**ENGINE_DEFAULTS, "OMP_NUM_THREADS": "1"}.items() <= os.environ.items()
            os.environ.update(
                LD_PRELOAD="changed by vLLM", VLLM_NEW="by vLLM", CUDA_VISIBLE_DEVICES="by another thread"
            )
            raise RuntimeError("the engine did not start")

    os.environ["LD_PRELOAD"] = "before"
    with pytest.raises(RuntimeError, match="the engine did not start"):
        start()
    assert environment() == {"LD_PRELOAD": "before", "CUDA_VISIBLE_DEVICES": "by another thread"}


def test_a_variable_that_is_set_wins() -> None:
    os.environ.update(VLLM_USE_V2_MODEL_RUNNER="1", VLLM_LOGGING_LEVEL="DEBUG")
    set_process_defaults()
    with engine_environment({"VLLM_NO_USAGE_STATS": "0"}):
        assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
        assert os.environ["VLLM_NO_USAGE_STATS"] == "0"  # the engine's plan outranks the defaults
    assert environment() == PROCESS_DEFAULTS | {"VLLM_USE_V2_MODEL_RUNNER": "1", "VLLM_LOGGING_LEVEL": "DEBUG"}
