"""Building a pipeline: the dtype of decoding, and the calling process, which stays as it was."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from demo.shapes.patches import patch_table
from demo.shapes.scenes import render, sample_scene

from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build
from llamagen_tokenizer import load_vq, to_uint8

CPU = torch.device("cpu")


def decoder_dtype(model: ModelDir, choice: str = "auto") -> torch.dtype:
    stage = build.image_tokenizer_stage(model, CPU, choice)
    return next(stage._vq.decoder.parameters()).dtype


@pytest.mark.parametrize(("units", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_auto_uses_the_configured_dtype_where_the_cpu_computes_it(
    units: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True})
    assert decoder_dtype(build.open_model(None)) == dtype  # its config has bfloat16
    assert decoder_dtype(build.open_model(class_model_dir)) == torch.float32  # as the official ones
    assert decoder_dtype(build.open_model(None), "float32") == torch.float32
    assert decoder_dtype(build.open_model(class_model_dir), "bfloat16") == torch.bfloat16


def test_the_demo_in_bfloat16_is_close_to_float32() -> None:
    """On images like those of its training; docs/demo.md has the figures."""
    rng = random.Random(0)
    scenes = [render(sample_scene(rng)) for _ in range(8)]
    codes = torch.from_numpy(np.stack([patch_table().codes(scene) for scene in scenes])).view(-1, 8, 8)
    path = build.open_model(None).vq_path
    exact, rounded = load_vq(path).decode(codes), load_vq(path).decode_in(torch.bfloat16).decode(codes)
    error = (exact.clamp(-1, 1) - rounded.clamp(-1, 1)).square().mean()
    assert -10 * torch.log10(error / 4) > 50
    steps = (to_uint8(exact).int() - to_uint8(rounded).int()).abs()
    assert steps.float().mean() < 0.5


@pytest.mark.parametrize("workers", [1, 3])
def test_decode_workers(workers: int, class_model_dir: Path) -> None:
    stage = build.image_tokenizer_stage(build.open_model(class_model_dir), CPU, workers=workers)
    assert stage._threads._max_workers == workers


UNCHANGED = """
import ctypes, os, sys

class Malloc(ctypes.Structure):  # struct mallinfo2 of glibc
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

def mmapped_chunks():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Malloc
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = libc.mallinfo2().hblks
    block = libc.malloc(2**26)  # above every dynamic threshold (at most 2**25), below the tuned one (2**30)
    found = libc.mallinfo2().hblks - before
    libc.free(block)
    return found

def main(model_dir):
    import torch
    torch.set_num_threads(3)
    def state():
        return torch.get_num_threads(), torch.get_num_interop_threads(), mmapped_chunks(), dict(os.environ)
    before = state()
    assert before[2] == 1, before[2]
    from llamagen_server.engine.arguments import default_flags
    from llamagen_server.pipeline.build import build_pipeline, open_model
    flags = default_flags(enforce_eager=True, hf_overrides={}, logits_processors=[])
    given = repr(vars(flags))
    from llamagen_server import ImageEngine
    ImageEngine(model_dir, enforce_eager=True).close()
    pipeline = build_pipeline(open_model(model_dir), flags)
    try:
        assert state()[:3] == before[:3], (state()[:3], before[:3])
        assert dict(os.environ) == before[3], dict(os.environ).items() ^ before[3].items()
        assert repr(vars(flags)) == given, (vars(flags), given)
    finally:
        pipeline.shutdown()
    from llamagen_server.engine import cpu
    cpu.tune_process(vq_parameters=1)  # the check would notice: the explicit tuning does change the process
    assert mmapped_chunks() == 0
    print("unchanged")

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.engine
def test_building_leaves_threads_malloc_environment_and_arguments_as_they_were(
    class_model_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(UNCHANGED)
    done = subprocess.run(
        [sys.executable, str(script), str(class_model_dir)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "unchanged" in done.stdout
