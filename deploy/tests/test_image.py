"""The Dockerfile agrees with the package and with itself; deploy/build-check builds and runs it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from llamagen_server.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(dockerfile: str) -> list[str]:
    """Returns the instructions without comments, one string each."""
    text = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line]


def targets() -> dict[str, list[str]]:
    """Returns the instructions of each target by its name, without its FROM."""
    found: dict[str, list[str]] = {}
    for line in instructions((ROOT / "Dockerfile").read_text()):
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = body = []
        elif found:
            body.append(line)
    return found


def configuration(target: str) -> list[str]:
    """Returns the instructions that make a target's configuration, those that only the CPU needs left out."""
    kept = ("ARG", "LABEL", "ENV HOME", "VOLUME", "WORKDIR", "USER 10001", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT")
    return [line for line in targets()[target] if line.startswith(kept)]


def test_cpu_is_the_default_target() -> None:
    assert list(targets())[-1] == "cpu"


def test_cuda_and_cpu_images_are_configured_alike() -> None:
    assert len(configuration("cuda")) >= 10
    assert configuration("cuda") == configuration("cpu-base")


@pytest.mark.parametrize("target", ["cuda", "cpu-base", "cpu-compiled", "cpu"])
def test_images_end_with_a_numeric_user_that_is_not_root(target: str) -> None:
    [*_, user] = [line for line in targets()[target] if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d*:0", user)


def test_versions_are_those_of_the_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"ARG VERSION=(\S+)", dockerfile)) == {PROJECT["version"]}
    [cpu] = PROJECT["optional-dependencies"]["cpu"]
    assert f"vllm-openai:v{cpu.partition('==')[2]}\n" in dockerfile
    assert f'description="{PROJECT["description"].removesuffix(" unpatched vLLM")} vLLM"' in dockerfile


def test_build_context_has_what_is_copied() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copies = [
        line.split()[1:-1] for line in instructions((ROOT / "Dockerfile").read_text()) if line.startswith("COPY ")
    ]
    for source in {path for paths in copies for path in paths if not path.startswith(("--from", "/"))}:
        assert (ROOT / source).exists()
        assert {source, str(Path(source).parent)} & allowed, f"{source} is left out by .dockerignore"


@pytest.fixture
def search_path(tmp_path: Path) -> str:
    """Returns a PATH with a command ``llamagen`` that prints its arguments."""
    stand_in = tmp_path / "llamagen"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "serve --host 0.0.0.0"),
        (["t2i-xl", "--max-num-seqs", "8"], "serve --host 0.0.0.0 t2i-xl --max-num-seqs 8"),
        (["--help"], "serve --host 0.0.0.0 --help"),
        (["serve", "t2i-xl", "--host", "::"], "serve --host 0.0.0.0 t2i-xl --host ::"),
        (["--version"], "--version"),
        *[([name, "x"], f"{name} x") for name in COMMANDS if name != "serve"],
    ],
)
def test_entry_point_serves_or_runs_a_subcommand(search_path: str, arguments: list[str], command: str) -> None:
    ran = subprocess.run(
        [ROOT / "deploy/docker/entrypoint", *arguments],
        env={"PATH": search_path, "XDG_CACHE_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == command
