"""What a step spends its time on."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHOWN = 12  # operations; the others are added up


class _Timed(TorchDispatchMode):
    """Times the operations of a CPU, forward and backward; torch's profiler slows the small ones down several times."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        begin = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        entry = self.found[function.overloadpacket._qualified_op_name.replace("::", ".")]
        entry[0] += 1
        entry[1] += time.perf_counter() - begin
        return result


def operations(step: Callable[[], None], device: torch.device) -> list[dict[str, Any]]:
    """The operations of a step (kernels, on a GPU): {"name", "calls", "seconds", "share"}, the costliest first."""
    if device.type == "cuda":
        found = _kernels(step)
    else:
        with _Timed() as timed:
            step()
        found = {name: tuple(entry) for name, entry in timed.found.items()}
    total = sum(seconds for _, seconds in found.values()) or 1.0
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    rows = [(name, calls, seconds) for name, (calls, seconds) in ordered[:SHOWN]]
    if others := ordered[SHOWN:]:
        rows.append(("others", sum(calls for _, (calls, _) in others), sum(seconds for _, (_, seconds) in others)))
    return [
        {"name": name, "calls": int(calls), "seconds": round(seconds, 6), "share": round(seconds / total, 4)}
        for name, calls, seconds in rows
    ]


def _kernels(step: Callable[[], None]) -> dict[str, tuple[int, float]]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return {
        event.key: (event.count, event.self_device_time_total / 1e6)
        for event in profiled.key_averages()
        if event.self_device_time_total
    }
