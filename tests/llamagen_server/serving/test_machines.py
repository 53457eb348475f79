"""The server on a machine where little works as usual."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.helpers.server_process import Server

from vllm_llamagen.vllm_compat import current_platform

NOWHERE = "/proc/self/nothing"
"""A folder that not even root can make."""


@pytest.mark.engine
@pytest.mark.skipif(not current_platform.is_cpu(), reason="a GPU has compilers of its own")
def test_broken_compiler_no_home_and_a_long_folder_with_spaces(class_model_dir: Path, tmp_path: Path) -> None:
    compiler, temporary = tmp_path / "c++", tmp_path / ("a folder with spaces " * 5)
    compiler.write_text("#!/bin/sh\necho 'error: no license' >&2\nexit 1\n")
    compiler.chmod(0o755)
    temporary.mkdir()
    model = class_model_dir.parent / "a model with spaces"
    if not model.exists():
        model.symlink_to(class_model_dir)
    variables = {"CXX": str(compiler), "TMPDIR": str(temporary), "HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE}
    server = Server(model, tmp_path / "log", eager=False, variables=variables)
    try:
        reply = httpx.post(f"{server.url}/generate", json={"class_id": 1, "logprobs": True}, timeout=300)
        assert reply.status_code == 200  # vLLM would compile a function for the log-probabilities
    finally:
        server.kill()
    # Without vLLM's lines about Triton, which `make v2` installs and which is hidden here.
    lines = [line for line in server.log.read_text().splitlines() if "Triton is installed" not in line]
    [*quiet, warning] = sorted(lines, key=lambda line: line.startswith("WARNING"))
    assert warning.endswith(
        f"the C++ compiler {compiler} does not work (error: no license): running eager, which is slower than compiled"
    )
    assert all(line.startswith("INFO") for line in quiet)
