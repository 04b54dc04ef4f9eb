"""How long the processes of a run take to sum their gradients: started by torchrun, one process a device."""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from ..errors import UserError
from ..training.group import Group

ROUNDS = 10


def measure(device: torch.device, numbers: int) -> dict[str, Any] | None:
    """Median seconds to sum so many float32 over the GPUs of this machine, or over two processes of its CPU.

    Returns:
        {"processes", "bytes", "seconds"}; None where there is one GPU only.
    """
    processes = torch.cuda.device_count() if device.type == "cuda" else 2
    if processes < 2:
        return None
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", __name__]
    done = subprocess.run([sys.executable, *words, "--", device.type, str(numbers)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"bench: the exchange could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def main() -> None:
    group = Group.of_environment()
    device = torch.device("cuda", group.local_rank) if sys.argv[1] == "cuda" else torch.device("cpu")
    with group.joined(device):
        gradients, seconds = torch.zeros(int(sys.argv[2]), device=device), []
        for _ in range(ROUNDS + 1):
            group.any()  # all begin together
            begin = time.perf_counter()
            group.sum(gradients)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    if group.leads:
        median = statistics.median(seconds[1:])
        print(json.dumps({"processes": group.size, "bytes": gradients.nbytes, "seconds": round(median, 6)}))


if __name__ == "__main__":
    main()
