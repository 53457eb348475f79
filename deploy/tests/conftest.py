"""Fixtures for the tests of deploy/; a server with the demo model and tiny model directories are those of tests/."""

from __future__ import annotations

from tests.conftest import (  # noqa: F401
    class_model_dir,
    convert,
    data_dir,
    demo_url,
    golden_args,
    golden_dir,
    root,
    text_model_dir,
    tiny_t5_dir,
)
