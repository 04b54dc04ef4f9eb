"""The machine that this process runs on, and its processes; nothing here names a host or a person."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from .files import sha256


def find_cpu_model() -> str:
    """As the system calls its CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def count_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def identity() -> str:
    """A hash that is the same for processes that can see each other's ids."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\n".join(parts).encode())[:12]


def identify_process() -> dict[str, Any]:
    """{"machine", "pid", "started"}: enough for `is_running` to find it again."""
    return {"machine": identity(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_running(process: dict[str, Any]) -> bool | None:
    """Whether a process of `identify_process` is there; None where it cannot be seen, as on another machine."""
    if process.get("machine") != identity():
        return None
    started = _started(process.get("pid"))
    return started is not None and started == process.get("started")


def _started(pid: object) -> int | None:
    """When a process began, as the system counts; -1 where the system does not say; None if it is gone."""
    if not isinstance(pid, int) or pid <= 0:
        return None
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else int(rest[18])
    try:  # as on a Mac
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # it is another user's
    return -1
