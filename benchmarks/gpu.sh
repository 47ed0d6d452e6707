#!/usr/bin/env bash
# Everything to do on the day a GPU is at hand, in ten minutes: an environment of its own, what works
# in it, the tests on it, and the benchmark's section, which is put into docs/benchmarks.md.
# Usage: bash benchmarks/gpu.sh [PROVIDER [EXTRAS [--check]]], such as: gpu.sh webgpu cpu,webgpu
# Leaves nothing behind but that section; with --check, which stops after the tests, nothing at all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
provider="${1:-cuda}"
extras="${2:-cuda}"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
export PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 PIP_DISABLE_PIP_VERSION_CHECK=1

echo "==> an environment with the extras $extras"
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
# From a copy, so that nothing is built inside the clone.
mkdir "$folder/source"
git ls-files -z | xargs -0 cp --parents -t "$folder/source"
"$python" -m pip install -q -c constraints.txt "$folder/source[$extras]" pytest pytest-xdist

echo "==> what works here"
"$folder/venv/bin/onnxshare" doctor
# Ends with the reason where the provider does not work: the tests would only be skipped.
"$python" -c "
import sys
from onnxshare.errors import OnnxShareError
from onnxshare.runtime.providers import choose
try:
    print('the provider:', choose('$provider').described)
except OnnxShareError as error:
    sys.exit(f'benchmarks/gpu.sh: {error}')
"

echo "==> the tests that need it"
(cd "$folder/source" && "$python" -m pytest -q -p no:cacheprovider tests/runtime/test_gpu.py)
[[ "${3:-}" != --check ]] || exit 0

echo "==> the figures"
"$python" benchmarks/gpu.py --provider "$provider" --write
