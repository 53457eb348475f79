"""The distribution: entry points, the order of imports, and build files that agree with each other."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name as canonical

import llamagen_server

# Each package, with the ones of ours that it may import.
ALLOWED_IMPORTS = {
    "tokenizer/llamagen_tokenizer": set(),
    "vllm_plugin/vllm_llamagen": {"llamagen_tokenizer"},
    "server/llamagen_server": {"llamagen_tokenizer", "vllm_llamagen"},
}
OURS = {Path(folder).name for folder in ALLOWED_IMPORTS}
NO_VLLM = {"llamagen_tokenizer"}

# The folders of the server package, in the order in which imports may run: a folder imports only from itself and from
# those before it.
SERVER_ORDER = [
    "core",
    "model_dir",
    "convert",
    "hub",
    "image_files",
    "rollout",
    "engine",
    "stages",
    "pipeline",
    "evaluation",
    "sample",
    "bench",
    "api",
    "serving",
    "cli",
]


def imported_modules(source: str) -> set[str]:
    """Dotted names of the absolute imports anywhere in a source text; ``from a import b`` counts as a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_packages(source: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(source.read_text())}


def upward_imports(folder: str, source: str) -> list[str]:
    """Imports of a module in ``folder`` of the server package that point to a folder after it, or to its front door."""
    allowed = {*SERVER_ORDER[: SERVER_ORDER.index(folder) + 1], "__version__"}
    inside = [name.split(".") for name in imported_modules(source) if name.startswith("llamagen_server.")]
    return sorted(".".join(parts) for parts in inside if parts[1] not in allowed)


def run(*command: str, root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=root, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )


def requirement_lines(root: Path, name: str) -> list[str]:
    lines = (root / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_version_is_the_installed_one(project):
    assert metadata.version("llamagen-serve") == project["version"] == llamagen_server.__version__


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("vllm.general_plugins", "vllm_llamagen:register"),
        ("vllm.endpoint_plugins", "llamagen_server.serving.vllm_endpoint:ImageEndpoints"),
        ("console_scripts", "llamagen_server.cli.main:main"),
    ],
)
def test_entry_point_resolves(group, target):
    (entry,) = metadata.entry_points(group=group, name="llamagen")
    assert entry.value == target
    assert callable(entry.load())


@pytest.mark.parametrize("folder", ALLOWED_IMPORTS)
def test_imports_go_one_way(root, folder):
    package = root / folder
    allowed = ALLOWED_IMPORTS[folder] | {package.name}
    forbidden = OURS - allowed | ({"vllm"} if package.name in NO_VLLM else set())
    sources = sorted(package.rglob("*.py"))
    assert sources
    wrong = {str(s.relative_to(root)): found for s in sources if (found := imported_packages(s) & forbidden)}
    assert not wrong


def test_the_servers_folders_import_in_order(root):
    package = root / "server" / "llamagen_server"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert folders == set(SERVER_ORDER)
    wrong = {}
    for folder in SERVER_ORDER:
        for source in (package / folder).rglob("*.py"):
            if found := upward_imports(folder, source.read_text()):
                wrong[str(source.relative_to(package))] = found
    assert not wrong
    assert {path.name for path in package.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_core_imports_no_heavy_library(root):
    heavy = {"torch", "vllm", "transformers", "fastapi", "starlette", "uvicorn", "PIL"}
    sources = (root / "server" / "llamagen_server" / "core").glob("*.py")
    assert not {source.name: found for source in sources if (found := imported_packages(source) & heavy)}


def test_an_upward_import_is_found():
    assert (
        upward_imports("stages", "from llamagen_server.core import metrics\nimport llamagen_server.stages.text") == []
    )
    assert upward_imports("stages", "def f():\n    from llamagen_server.api.errors import ApiError") == [
        "llamagen_server.api.errors",
        "llamagen_server.api.errors.ApiError",
    ]
    assert upward_imports("core", "from llamagen_server import cli") == ["llamagen_server.cli"]
    assert upward_imports("api", "from llamagen_server import ImageEngine") == ["llamagen_server.ImageEngine"]


def test_vllms_modules_are_imported_in_one_place(root):
    """``from vllm import X`` is vLLM's public API; everything below it goes through vllm_compat.

    tests/v2_on_cpu stands in for kernels of vLLM's; tests of the V2 model runner call one of them, and its warm-up.
    """
    exempt = [root / "tests" / "v2_on_cpu", root / "tests" / "vllm_llamagen" / "v2"]
    wrong = []
    for folder in ("server", "vllm_plugin", "tokenizer", "tests", "demo", "deploy", "examples", "scripts"):
        for source in (root / folder).rglob("*.py"):
            if any(source.is_relative_to(folder) for folder in exempt):
                continue
            tree = ast.parse(source.read_text())
            modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)} | {
                alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
            }
            if any(module and module.startswith("vllm.") for module in modules) and source.name != "vllm_compat.py":
                wrong.append(str(source.relative_to(root)))
    assert not wrong


def test_every_name_of_vllm_compat_has_a_row_in_its_table(root):
    import vllm_llamagen.vllm_compat as compat

    rows = [line.split("|") for line in compat.__doc__.splitlines() if line.startswith("| ")][1:]
    named = [name.strip() for row in rows for name in row[1].split(",")]
    assert sorted(named) == sorted(compat.__all__)
    assert all(re.fullmatch(r"0\.\d+(, 0\.\d+)*", row[2].strip()) for row in rows)


def test_the_public_names_exist_and_are_imported_lazily(root):
    for name in llamagen_server.__all__:
        assert getattr(llamagen_server, name)
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        llamagen_server.Pipeline  # noqa: B018
    code = "import sys, llamagen_server; sys.exit(', '.join({'torch', 'pydantic', 'vllm'} & set(sys.modules)) or 0)"
    done = run(sys.executable, "-c", code, root=root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ALLOWED_IMPORTS)
def test_package_is_typed_and_alone_in_its_folder(root, folder):
    package = root / folder
    assert (package / "py.typed").is_file()
    others = [path for path in package.parent.rglob("*.py") if not path.is_relative_to(package)]
    assert not others


def test_plugin_import_is_cheap(root):
    code = "import sys, vllm_llamagen; sys.exit(', '.join({'torch', 'transformers', 'vllm'} & set(sys.modules)) or 0)"
    done = run(sys.executable, "-c", code, root=root)
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_documented_target(root):
    done = run("make", "--no-print-directory", root=root, MAKEFLAGS="")
    listed = set(re.findall(r"^  make ([\w-]+)", done.stdout, flags=re.MULTILINE))
    assert listed == {
        "help", "serve", "image", "test", "v2-test", "v2", "study", "shapes-test", "deploy-test", "fault-test", "lint",
        "types", "bench", "gpu-report", "clean",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cpu", "cuda", "dev", "v2"])
def test_requirements_hold_no_addresses_or_options(root, name):
    for line in requirement_lines(root, name):
        assert "://" not in line
        assert not line.startswith("-")


def test_pinned_lists_are_complete_pins_in_order(root):
    for name in ("cpu", "dev", "v2"):
        lines = requirement_lines(root, name)
        assert [line for line in lines if not re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line)] == []
        names = [canonical(line.partition("==")[0]) for line in lines]
        assert names == sorted(set(names))


def test_pinned_versions_satisfy_the_project(root, project):
    """The pinned lists are installed with --no-deps, so nothing else compares them with pyproject.toml."""
    pins = {}
    for line in requirement_lines(root, "cpu") + requirement_lines(root, "dev"):
        pin = Requirement(line)
        pins[canonical(pin.name)] = str(pin.specifier).removeprefix("==")
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["cpu"] + extras["dev"]:
        wanted = Requirement(line)
        if wanted.name != "torch":  # installed before the lists, in its CPU build
            assert wanted.specifier.contains(pins[canonical(wanted.name)]), line


def test_pinned_versions_install_on_the_python_of_debian_12(root):
    """It is that of the container image, and older than the one that most tests run on."""
    for line in requirement_lines(root, "cpu"):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            needed = metadata.metadata(requirement.name).get("Requires-Python")
            assert SpecifierSet(needed or "").contains("3.11.2"), f"{line} needs Python {needed}"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DEVICE": "tpu"}, "install.sh: DEVICE is 'tpu', allowed: cpu, cuda"),
        (
            {"DEVICE": "cpu", "PYTHON": "/nonexistent"},
            "install.sh: PYTHON is '/nonexistent', which is not a working Python 3.11 to 3.14",
        ),
    ],
)
def test_a_wrong_setting_of_the_installer_is_one_line(root, tmp_path, env, message):
    venv = tmp_path / "venv"
    done = run("scripts/install.sh", str(venv), root=root, **env)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [message]
    assert not venv.exists()


@pytest.fixture
def gpu_machine(tmp_path):
    """``gpu_machine(driver, **commands)`` -> environment of the installer; a command is the text of a shell script.

    Its PATH has nothing else but what the installer itself uses. pip downloads nothing: it fails.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "cksum", "cp", "date", "dirname", "flock", "grep", "head", "mkdir", "mv", "rm", "tail"):
        if path := shutil.which(name):
            (programs / name).symlink_to(path)
    (programs / "python3").symlink_to(sys.executable)

    def command(name, script):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    def environment(driver, **commands):
        if driver:
            command("nvidia-smi", f'case "$1" in -L) echo "GPU 0: H200" ;; *) echo {driver} ;; esac')
        for name, script in commands.items():
            command(name, script)
        nothing = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0"}
        return {"PATH": str(programs), "PYTHON": str(programs / "python3"), **nothing}

    return environment


COMPILES = "exit 0"
LACKS_PYTHON_H = 'case "$*" in *-fsyntax-only*) echo "Python.h: No such file" >&2; exit 1 ;; esac'


@pytest.mark.parametrize(
    ("driver", "commands", "message"),
    [
        ("550.54.15", {"gcc": COMPILES}, "the NVIDIA driver is 550.54.15, CUDA 13 needs R580 or newer"),
        ("580.65", {}, "no working C compiler (gcc, clang, cc), which Triton needs; install one (apt install gcc)"),
        ("580.65", {"gcc": "exit 1"}, "no working C compiler (gcc, clang, cc), which Triton needs; install one"),
        ("580.65", {"clang": LACKS_PYTHON_H}, "Triton needs it; install the headers (apt install python3."),
        ("580.65", {"clang": COMPILES}, "pip failed"),  # every check has passed
        ("", {"gcc": COMPILES}, "pip failed"),  # a login node of a cluster, say
    ],
)
@pytest.mark.slow
def test_the_installer_checks_a_gpu_machine_before_it_downloads(root, tmp_path, gpu_machine, driver, commands, message):
    done = run("scripts/install.sh", str(tmp_path / "venv"), "cuda", root=root, **gpu_machine(driver, **commands))
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1 or message == "pip failed"
