set -eu
uv pip sync --require-hashes --python "$CONDA_PREFIX/bin/python" requirements.lock
uv pip install --python "$CONDA_PREFIX/bin/python" --no-deps --no-build-isolation --editable .
