"""The public Python API, as a stranger would use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.waiting import until

from llamagen_server import ImageEngine, ImageRequest, InvalidRequestError
from llamagen_server.core import metrics

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def engine(class_model_dir: Path) -> Iterator[ImageEngine]:
    with ImageEngine(class_model_dir, enforce_eager=True, max_num_seqs=8) as engine:
        yield engine


def test_generate(engine: ImageEngine) -> None:
    result = engine.generate(ImageRequest(class_id=3, n=2, seed=7, logprobs=True))
    assert [image.seed for image in result.images] == [7, 8]
    for image in result.images:
        assert (image.pixels.shape, image.pixels.dtype) == ((64, 64, 3), np.uint8)
        assert len(image.codes) == len(image.logprobs) == 64
        assert max(image.logprobs) <= 0
    assert result.condition_tokens == 1
    assert result.timings.total_ms > 0


def test_codes_without_pixels(engine: ImageEngine) -> None:
    request = ImageRequest(class_id=3, seed=7)
    [with_pixels], [without] = (engine.generate(request, pixels=pixels).images for pixels in (True, False))
    assert without.pixels.size == 0
    assert without.codes == with_pixels.codes


def test_a_batch_larger_than_the_engine_keeps_its_order(engine: ImageEngine) -> None:
    requests = [ImageRequest(class_id=i % 10, seed=i) for i in range(40)]
    results = engine.generate_batch(requests, pixels=False)
    assert [result.images[0].seed for result in results] == list(range(40))
    alone = engine.generate(requests[17], pixels=False)
    assert alone.images[0].codes == results[17].images[0].codes


async def test_async_and_cancelled_requests(engine: ImageEngine) -> None:
    request = ImageRequest(class_id=3, seed=7)
    result = await engine.generate_async(request, pixels=False)
    assert result.images[0].codes == (await engine.generate_batch_async([request], pixels=False))[0].images[0].codes
    task = asyncio.create_task(engine.generate_batch_async([request] * 2000))

    async def is_working() -> bool:
        return engine._pipeline.admission.in_flight > 0

    async def is_idle() -> bool:
        return engine._pipeline.admission.in_flight == 0

    await until(is_working)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(is_idle, seconds=20)  # two thousand images take longer
    again = await engine.generate_async(request, pixels=False)
    assert again.images[0].codes == result.images[0].codes


def test_a_wrong_request_of_a_batch_is_found_before_any_image_is_generated(engine: ImageEngine) -> None:
    finished = metrics.IMAGES._value.get()
    with pytest.raises(InvalidRequestError, match="class_id is 10, must be 0 to 9"):
        engine.generate_batch([ImageRequest(class_id=i) for i in range(11)])
    assert metrics.IMAGES._value.get() == finished


def test_errors(engine: ImageEngine) -> None:
    with pytest.raises(InvalidRequestError, match="class_id is 10, must be 0 to 9"):
        engine.generate(ImageRequest(class_id=10))
    with pytest.raises(InvalidRequestError, match="generates from a class, not from a prompt"):
        engine.generate("a red circle")
    with pytest.raises(ValueError, match="n"):
        ImageRequest(class_id=1, n=0)
    with pytest.raises(ValueError, match="vLLM has no engine argument max_sequences"):
        ImageEngine(max_sequences=3)


FORGETFUL = """
import asyncio, os, signal, sys, threading, time
from llamagen_server import ImageEngine, ImageRequest

def work(engine):
    try:
        engine.generate_batch([ImageRequest(class_id=3)] * 5000)
    except RuntimeError as error:
        print("running:", error)

if __name__ == "__main__":
    async def main():  # created inside a running event loop
        first = ImageEngine(sys.argv[1], enforce_eager=True)
        request = ImageRequest(class_id=3)
        print(len(first.generate(request).images[0].codes))
        print(len((await first.generate_async(request)).images[0].codes))
        os.killpg(0, signal.SIGINT)  # a terminal's Ctrl-C reaches all processes of the group
        print(len(first.generate(request).images[0].codes))
        return first

    signal.signal(signal.SIGINT, lambda *_: print("Ctrl-C"))
    first = asyncio.run(main())
    many = threading.Thread(target=work, args=(first,))
    many.start()
    while not first._pipeline.admission.in_flight:
        time.sleep(0.01)
    closing = [threading.Thread(target=first.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in [*closing, many]:
        thread.join()
    first.close()
    try:
        first.generate(ImageRequest(class_id=3))
    except RuntimeError as error:
        print(error)
    second = ImageEngine(sys.argv[1], enforce_eager=True)  # never closed
"""


def test_a_program_that_closes_its_engines_in_every_way(class_model_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(FORGETFUL)
    command = [sys.executable, str(script), str(class_model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, start_new_session=True)
    lines = ["64", "64", "Ctrl-C", "64", "running: the engine is closed", "the engine is closed"]
    assert (done.returncode, done.stdout.splitlines()) == (0, lines), done.stderr
    assert "Traceback" not in done.stderr
