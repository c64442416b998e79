#!/usr/bin/env bash
# Fills .venv from a lock: h100.txt where there is an NVIDIA GPU, cpu.txt otherwise; dev.txt beside it.
# A second time costs nothing; a changed lock, a moved folder or an interrupted install is set right.
#   PYTHON=python3.12          the interpreter to build on
#   LABKIT_ENVIRONMENT=cpu     cpu or h100, instead of looking for a GPU
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE PYTHONPATH VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never

# One at a time: two installs into one folder spoil each other. The lock ends with the last process that holds it.
exec 9<environments/setup.sh
if command -v flock >/dev/null; then flock 9; fi

fail() { # fail WHAT REMEDY
    printf 'setup: %s\n  → %s\n' "$1" "$2" >&2
    exit 1
}

environment=${LABKIT_ENVIRONMENT:-}
if [[ -z $environment ]]; then
    environment=cpu
    if [[ -e /proc/driver/nvidia/version ]] || { command -v nvidia-smi && nvidia-smi -L; } &>/dev/null; then environment=h100; fi
fi
case $environment in
    cpu) least=3.11 most=3.13 names=(python3 python3.12 python3.11 python3.13) ;;
    h100) least=3.12 most=3.12 names=(python3.12 python3) ;;
    *) fail "unknown LABKIT_ENVIRONMENT '$environment'" "use cpu or h100" ;;
esac
if [[ -n ${PYTHON:-} ]]; then names=("$PYTHON"); fi

lock=environments/$environment.txt
stamp=.venv/.labkit-installed
wanted="$environment $PWD $(cat "$lock" environments/dev.txt environments/uv.txt environments/setup.sh pyproject.toml | sha256sum | cut -c1-64)"
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && .venv/bin/python -c '' 2>/dev/null; then
    echo "setup: .venv is up to date ($environment)"
    exit 0
fi

fits() { "$1" -c "import sys; sys.exit(not ($least_tuple <= sys.version_info[:2] <= $most_tuple))" 2>/dev/null; }
least_tuple="(${least/./, })" most_tuple="(${most/./, })" python=
for name in "${names[@]}"; do
    if fits "$name"; then python=$name && break; fi
done
wanted_python=$least$([[ $least == "$most" ]] || echo " to $most")
[[ -n $python ]] || fail "the $environment environment needs Python $wanted_python (tried: ${names[*]})" \
    "install it (Debian: apt-get install python$least python$least-venv), or name it: make setup PYTHON=/path/to/python"

# A changed lock updates what is there. Without a stamp (an install that was cut off may have left half a package), or with
# that of another folder (scripts name their interpreter by path) or environment, it starts over, from the installer's cache.
if [[ ! -f $stamp || $(<"$stamp") != "$environment $PWD "* || ! -x .venv/bin/pip ]] || ! fits .venv/bin/python; then
    echo "setup: $("$python" --version) → .venv"
    "$python" -m venv --clear .venv || fail "$python cannot make a virtual environment" "Debian: apt-get install python3-venv"
fi
rm -f "$stamp"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r environments/uv.txt ||
    fail "pip could not install $(tail -n 1 environments/uv.txt)" "check that this machine reaches a Python package index"

# uv does not read pip's configuration, where a machine may say that it keeps wheels on its disk.
links=${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}
# The installer draws progress on a terminal; elsewhere its list of 270 packages is noise.
if [[ -t 2 ]]; then quiet=(); else quiet=(--quiet); fi
install() { .venv/bin/uv pip install --python .venv/bin/python --no-deps --compile-bytecode "${quiet[@]}" "$@"; }
locked() { install -r "$lock" -r environments/dev.txt "$@"; }
echo "setup: installing $lock and environments/dev.txt"
if [[ $environment == h100 ]]; then
    locked --require-hashes || fail "the locked packages could not be installed" "see the message above; run make setup again to resume"
else
    # CPU wheels of torch: from the machine's own disk where it keeps them, else from PyTorch's index.
    { [[ -n $links ]] && locked --find-links "$links"; } || locked --torch-backend cpu ||
        fail "the locked packages could not be installed" "see the message above; run make setup again to resume"
fi
install --no-build-isolation --editable .
printf '%s' "$wanted" >"$stamp"
if [[ $environment == cpu ]] && ! .venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    printf 'setup: %s\n  → %s\n' "workers will not start: vLLM's CPU kernels need libnuma.so.1" "Debian: apt-get install libnuma1" >&2
fi
echo "setup: done; 'make demo' measures, 'make lab' opens the notebooks, 'make test' checks"
