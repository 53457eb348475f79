"""Starts of real engines that are ended from outside."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from llamagen_server.core.errors import EngineStoppedError
from llamagen_server.engine.arguments import default_flags, plan_engine
from llamagen_server.engine.own_engine import VLLMStarter, _engine_processes
from llamagen_server.pipeline.build import open_model

pytestmark = pytest.mark.engine


@pytest.fixture
def starter(class_model_dir: Path) -> VLLMStarter:
    model = open_model(class_model_dir)
    return VLLMStarter(plan_engine(default_flags(enforce_eager=True), str(model.path), model.config))


def test_a_start_that_takes_too_long_is_killed(starter: VLLMStarter) -> None:
    with pytest.raises(EngineStoppedError, match="did not start"):
        starter.start(timeout=0.5)
    assert _engine_processes() == []


@pytest.mark.parametrize("seconds", [0, 2])
def test_a_shutdown_ends_a_start(starter: VLLMStarter, seconds: float) -> None:
    """Also one whose processes do not exist yet."""
    children = set(psutil.Process().children(recursive=True))
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(starter.start)
        time.sleep(seconds)
        starter.shutdown()
        with pytest.raises(EngineStoppedError):
            starting.result(30)
    left = set(psutil.Process().children(recursive=True)) - children
    assert not [process for process in left if "EngineCore" in " ".join(process.cmdline())]


def test_other_children_of_the_process_are_not_the_engines(starter: VLLMStarter) -> None:
    """As the workers of a trainer's data loader."""
    from multiprocessing import get_context

    go_on = get_context("spawn").Event()
    loader = get_context("spawn").Process(target=go_on.wait, name="DataLoader")
    threading.Timer(0.1, loader.start).start()
    with pytest.raises(EngineStoppedError):
        starter.start(timeout=3)
    assert loader.is_alive()
    go_on.set()
    loader.join()
