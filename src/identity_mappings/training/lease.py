"""Leasing GPUs: Snakemake only counts them, so each training job takes the devices it uses by itself.

A lease is a lock on an open file that the leasing process keeps while it turns into the command (`exec`): the kernel
gives it back when that very process ends, however it ends.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError

REPORT_SECONDS = 600


def pool(environment: Mapping[str, str]) -> list[str]:
    """The devices that jobs may share: those of an inherited CUDA_VISIBLE_DEVICES, else all that the driver lists.

    CUDA ignores what follows an invalid entry ("-1"), and so does this.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(_uuids())
    devices = []
    for entry in (part.strip() for part in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        devices.append(entry)
    return devices


def _uuids() -> dict[str, str]:
    """{index: UUID} of the driver's devices; empty without a driver."""
    if not (nvidia_smi := shutil.which("nvidia-smi")):
        return {}
    query = [nvidia_smi, "--query-gpu=index,uuid", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:
        return {}
    return dict(line.split(", ") for line in answer.stdout.strip().splitlines())


def _lock_folder() -> Path:
    """One for all checkouts and users of the machine."""
    folder = Path(os.environ.get("IDENTITY_MAPPINGS_LEASES", Path(tempfile.gettempdir()) / "identity-mappings-leases"))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user made it
        folder.chmod(0o1777)
    return folder


def _lock_file(device: str, uuids: Mapping[str, str]) -> Path:
    return _lock_folder() / f"{uuids.get(device, device).replace('/', '_')}.lock"


def _claim(device: str, uuids: Mapping[str, str]) -> int | None:
    """An inheritable file descriptor that holds the device's lock, or None if another process does."""
    path = _lock_file(device, uuids)
    try:
        descriptor = os.open(path, os.O_RDWR)  # without O_CREAT: the kernel guards other users' files in such folders
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.fchmod(descriptor, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()}".encode())
    os.set_inheritable(descriptor, True)
    return descriptor


def _holders(devices: Sequence[str], uuids: Mapping[str, str]) -> str:
    paths = {device: _lock_file(device, uuids) for device in devices}
    return ", ".join(f"{device}: {path.read_text() or 'unknown'}" for device, path in paths.items() if path.exists())


def acquire(count: int, environment: Mapping[str, str], patience: float, poll: float = 0.2) -> list[str]:
    """Wait for `count` devices and hold them until this process ends.

    All or none: a job that waits holds nothing, so jobs of several devices cannot wait for each other for ever.

    Raises:
        UserError: there are fewer devices than that, or they were not free within `patience` seconds.
    """
    devices, uuids = pool(environment), _uuids()
    if len(devices) < count:
        there = f"{len(devices)} ({', '.join(devices)})" if devices else "none"
        raise UserError(
            f"{count} GPU(s) wanted, {there} there: nothing is shared out twice; give Snakemake a smaller gpu= or a "
            "machine with more, or choose the CPU with --config device=cpu"
        )
    begin = reported = time.monotonic()
    while True:
        held: dict[str, int] = {}
        for device in devices:
            if len(held) < count and (descriptor := _claim(device, uuids)) is not None:
                held[device] = descriptor
        if len(held) == count:
            return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        now = time.monotonic()
        if now - begin > patience:
            raise UserError(f"no {count} free GPU(s) within {patience:.0f} s; held by {_holders(devices, uuids)}")
        if now - reported > REPORT_SECONDS:
            reported = now
            print(f"waiting for {count} GPU(s); held by {_holders(devices, uuids)}", file=sys.stderr, flush=True)
        time.sleep(poll)


def run(count: int, granted: int | None, command: Sequence[str], patience: float) -> None:
    """Become `command`, with `count` devices leased and CUDA_VISIBLE_DEVICES naming them. Does not return.

    Args:
        count: devices that the run wants; 0 hides all of them.
        granted: devices that Snakemake granted; it silently cuts a wish down to what it was started with.

    Raises:
        UserError: granted is not count, or `acquire` cannot have them.
    """
    if granted is not None and granted != count:
        raise UserError(
            f"the run wants {count} GPU(s), Snakemake grants {granted}: start it with --resources gpu={count} or more; "
            "fewer devices would be another batch norm"
        )
    environment = dict(os.environ)
    if count == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif "SLURM_JOB_ID" not in environment:  # Slurm has chosen the devices and hides the others
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that the driver's numbers are CUDA's
        devices = acquire(count, os.environ, patience)
        environment["CUDA_VISIBLE_DEVICES"] = environment["IDENTITY_MAPPINGS_LEASE"] = ",".join(devices)
    if (program := shutil.which(command[0], path=environment.get("PATH"))) is None:
        raise UserError(f"{command[0]}: no such command")
    os.execve(program, list(command), environment)
