"""How much of the machine this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")  # where the kernel's proc/ and sys/ are


def count_cores() -> int:
    """CPU cores that this process may use: of its affinity (cpusets, taskset), and by the quota of its cgroups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [Path(folder, "cpu.max") for folder in _list_cgroups("")]
    shares = [text.split() for text in map(_read, quotas)]
    for folder in _list_cgroups("cpu"):
        shares.append([_read(Path(folder, f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period")])
    limits = [int(share[0]) / int(share[1]) for share in shares if len(share) == 2 and all(map(str.isdecimal, share))]
    return max(1, math.floor(min([cores, *limits])))


def count_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less by the limits of its cgroups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    files = [Path(folder, name) for folder in _list_cgroups("") for name in ("memory.max", "memory.high")]
    files += [Path(folder, "memory.limit_in_bytes") for folder in _list_cgroups("memory")]
    return min(limits + [int(text) for text in map(_read, files) if text.strip().isdecimal()])


def _list_cgroups(controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and of those around it: of version 2, or of version 1's `controller`.

    In a container the mounted root is the container's own cgroup, and the folders below it may not be visible.
    """
    for line in _read(SYSTEM / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else not controllers:
            inner = Path(path.strip("/"))
            yield from (SYSTEM / "sys/fs/cgroup" / controller / folder for folder in (inner, *inner.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
