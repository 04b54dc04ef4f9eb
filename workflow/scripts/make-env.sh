#!/bin/sh
# Build the virtual environment $1 from requirements.lock, with uv; called by the Makefile.
# Needs Python 3.11 to 3.14 and a package registry; neither pip, nor ensurepip, nor uv has to be there before.
set -eu
venv=$1
say() { echo "env: $*" >&2; }

for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then break; fi
    python=
done
[ -n "$python" ] || { say "Python 3.11 to 3.14 is needed; name one: make env PYTHON=/path/to/python3.12"; exit 1; }

# Debian's bare python3 brings neither pip nor ensurepip: its packaged wheel of pip is unpacked here, nothing installed.
pip_wheel() {
    mkdir -p "$venv/pip" && (
        cd "$venv/pip"
        apt-get download -qq python3-pip-whl 2>/dev/null ||
            { apt-get update -qq && apt-get download -qq python3-pip-whl; }
        dpkg -x python3-pip-whl_*.deb .
    ) >&2 || { say "no pip for $python: install python3-venv (or uv), then call make again"; exit 1; }
    ls "$PWD/$venv"/pip/usr/share/python-wheels/pip-*.whl
}

if command -v uv >/dev/null 2>&1; then
    uv=uv
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
else
    uv=$venv/bin/uv
    if [ ! -x "$uv" ]; then
        say "making $venv with $("$python" --version), and uv in it"
        # The lock's own lines for uv, hashes included: the installer is pinned like the rest.
        mkdir -p "$venv"
        awk '/^uv==/ {p = 1} p {print} p && !/\\$/ {exit}' requirements.lock >"$venv/uv.lock"
        if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv "$venv" 2>/dev/null; then
            "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$venv/uv.lock"
        else
            wheel=$(pip_wheel)
            "$python" -m venv --without-pip "$venv"
            PYTHONPATH=$wheel "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$venv/uv.lock"
        fi
    fi
fi

say "installing requirements.lock into $venv (torch with its CUDA libraries: some 3 GB the first time)"
VIRTUAL_ENV=$venv "$uv" pip sync --quiet --require-hashes --compile-bytecode --python "$venv/bin/python" requirements.lock
VIRTUAL_ENV=$venv "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
cp workflow/scripts/nameless_user.pth "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
say "ready"
