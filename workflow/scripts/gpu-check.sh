#!/bin/sh
# The first hour on a GPU: what it computes, compared bit by bit; how fast; what it needs. `make gpu-check` keeps what this
# prints in gpu-check.txt. Arguments: the folder of the environment's commands.
BIN=$1
failed=""
if ! "$BIN/python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; then
  "$BIN/python" -c "
from identity_mappings.training import devices, driver
found = driver.query_driver()
why = devices.explain_unseen(found) if found.usable else found.problem or 'the driver lists no device'
print(f'gpu-check: no GPU that torch can use ({why}); needed: an NVIDIA GPU, driver {devices.OLDEST_DRIVER} or newer')"
  exit 1
fi

part() {  # NAME COMMAND...
  name=$1
  shift
  begin=$(date +%s)
  echo "== $name"
  if "$@"; then result=passed; else result=FAILED failed="$failed, $name"; fi
  echo "== $name: $result after $(($(date +%s) - begin)) s"
}

echo "commit: $(git describe --always --dirty 2> /dev/null)"
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv || true
part doctor "$BIN/identity-mappings" doctor
part "tests on the GPU" "$BIN/pytest" -m gpu tests
part "one pass with a sanitizer of streams" env TORCH_CUDA_SANITIZER=1 "$BIN/pytest" -m gpu -k "short_batches" tests/training/test_gpu.py
part benchmark "$BIN/python" -m benchmarks --rounds 3 cifar10-resnet20 cifar10-resnet110
if [ -n "$failed" ]; then
  echo "gpu-check: FAILED: ${failed#, }: docs/gpus.md says what each means; send us gpu-check.txt"
  exit 1
fi
echo "gpu-check: everything passed: gpu-check.txt tells how fast; please send it to us"
