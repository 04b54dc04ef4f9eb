"""Leasing GPUs: Snakemake only counts them, so each training job takes the devices it uses by itself.

A lease is a lock on an open file that the leasing process keeps while it turns into the command (`exec`): the kernel
gives it back when that very process ends, however it ends. A job that has an allocation of its own takes leases, too:
nobody else asks for its devices, so it gets them at once.
"""

import contextlib
import fcntl
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from .driver import Device, Driver, query_driver

REPORT_SECONDS = 600


def list_devices(environment: Mapping[str, str], driver: Driver) -> dict[str, Device]:
    """The devices that jobs may share: those of an inherited CUDA_VISIBLE_DEVICES, else all that the driver lists.

    A device is known by its UUID. Where the driver does not tell, it is known by its name, in an allocation of Slurm by
    this and the job's number: two jobs on a node may both call their device "0". CUDA ignores what follows an invalid
    entry ("-1"), and so does this.

    Returns:
        By the name that CUDA_VISIBLE_DEVICES has for it; a device that has several there comes once.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {device.uuid: device for device in driver.usable}
    devices: dict[str, Device] = {}
    for entry in (part.strip() for part in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        device = driver.find(entry)
        if device is None:
            if driver.gpus and not entry.startswith("MIG-"):  # an older form of MIG's names is not the driver's
                break
            allocation = environment.get("SLURM_JOB_ID")
            known = f"slurm-{allocation}-{entry}" if allocation else entry
            device = Device(-1, known, known)
        if device not in devices.values():
            devices[entry] = device
    return devices


def _lock_file(lock: str) -> Path:
    """In one folder for all checkouts and users of the machine."""
    folder = Path(os.environ.get("IDENTITY_MAPPINGS_LEASES", Path(tempfile.gettempdir()) / "identity-mappings-leases"))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user made it
        folder.chmod(0o1777)
    return folder / f"{lock.replace('/', '_')}.lock"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)  # without O_CREAT: the kernel guards other users' files in such folders
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.fchmod(descriptor, 0o666)
        return descriptor


def _claim(device: Device) -> list[int] | None:
    """The inheritable file descriptors that hold a device, or None if another process holds it.

    A MIG instance's GPU is shared with other instances, not with who takes all of it.
    """
    held: list[int] = []
    shared = [] if device.uuid == device.gpu else [(device.gpu, fcntl.LOCK_SH)]
    for lock, kind in [*shared, (device.uuid, fcntl.LOCK_EX)]:
        held.append(_open(_lock_file(lock)))
        try:
            fcntl.flock(held[-1], kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _release(held)
            return None
        os.ftruncate(held[-1], 0)
        os.write(held[-1], f"process {os.getpid()}".encode())
        os.set_inheritable(held[-1], True)
    return held


def _release(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _name_holders(devices: Mapping[str, Device]) -> str:
    paths = {name: _lock_file(device.uuid) for name, device in devices.items()}
    return ", ".join(f"{name}: {path.read_text() or 'unknown'}" for name, path in paths.items() if path.exists())


def acquire(count: int, environment: Mapping[str, str], patience: float) -> list[str]:
    """Wait for `count` devices and hold them until this process ends.

    All or none: a job that waits holds nothing, so jobs of several devices cannot wait for each other for ever.

    Raises:
        UserError: there are fewer devices than that, or they were not free within `patience` seconds.
    """
    driver = query_driver()
    devices = list_devices(environment, driver)
    if len(devices) < count:
        found = f"{len(devices)} ({', '.join(devices)})" if devices else "none"
        problem = f" (the driver: {driver.problem})" if driver.problem and not devices else ""
        raise UserError(
            f"{count} GPU(s) wanted, {found} found{problem}: no GPU is leased twice; give Snakemake a smaller "
            "gpu= or a machine with more, or choose the CPU with --config device=cpu"
        )
    begin = reported = time.monotonic()
    while True:
        held: dict[str, list[int]] = {}
        for name, device in devices.items():
            if len(held) < count and (descriptors := _claim(device)) is not None:
                held[name] = descriptors
        if len(held) == count:
            return list(held)
        _release(itertools.chain(*held.values()))
        now = time.monotonic()
        if now - begin > patience:
            raise UserError(f"no {count} free GPU(s) within {patience:.0f} s; held by {_name_holders(devices)}")
        if now - reported > REPORT_SECONDS:
            reported = now
            print(f"waiting for {count} GPU(s); held by {_name_holders(devices)}", file=sys.stderr, flush=True)
        time.sleep(random.uniform(0.1, 0.3))  # so that two that want several do not meet for ever


def run_leased(count: int, granted: int | None, command: Sequence[str], patience: float) -> None:
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
            "or train in fewer processes (--config processes=N)"
        )
    environment = dict(os.environ)
    if count == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that the driver's numbers are CUDA's
        devices = acquire(count, os.environ, patience)
        environment["CUDA_VISIBLE_DEVICES"] = environment["IDENTITY_MAPPINGS_LEASE"] = ",".join(devices)
    if (program := shutil.which(command[0], path=environment.get("PATH"))) is None:
        raise UserError(f"{command[0]}: no such command")
    os.execve(program, list(command), environment)
