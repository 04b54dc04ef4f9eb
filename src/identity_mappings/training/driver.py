"""What NVIDIA's driver says of its devices, asked through nvidia-ml-py (NVML)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pynvml as nvml


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance of one."""

    index: int  # of the GPU, in the driver's order (that of the PCI bus)
    uuid: str  # "GPU-..." or "MIG-..."
    gpu: str  # UUID of the GPU; of a GPU its own


@dataclass(frozen=True)
class Driver:
    """The driver's version and devices; None and nothing where no driver answers."""

    version: str | None = None
    gpus: list[Device] = field(default_factory=list)
    mig_instances: list[Device] = field(default_factory=list)
    problem: str | None = None  # why no driver answers, in words
    divided: frozenset[str] = frozenset()  # UUIDs of the GPUs in MIG mode

    @property
    def usable(self) -> list[Device]:
        """What CUDA can use: GPUs, and in place of a GPU in MIG mode its instances, if it has any."""
        divided = self.divided | {instance.gpu for instance in self.mig_instances}
        return [gpu for gpu in self.gpus if gpu.uuid not in divided] + self.mig_instances

    def find(self, entry: str) -> Device | None:
        """The device that an entry of CUDA_VISIBLE_DEVICES names: an index, a UUID or the beginning of one."""
        if entry.isdecimal():
            return next((gpu for gpu in self.gpus if gpu.index == int(entry)), None)
        found = [device for device in (*self.gpus, *self.mig_instances) if device.uuid.startswith(entry)]
        return found[0] if len(found) == 1 else None


def _is_divided(handle: object) -> bool:
    try:
        return nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except (nvml.NVMLError, AttributeError):  # a GPU, or a library, without MIG
        return False


def _list_mig_instances(handle: object, gpu: Device) -> Iterator[Device]:
    try:
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:  # a GPU without MIG
        return
    for number in range(count):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:  # places may be empty
            continue
        yield Device(gpu.index, nvml.nvmlDeviceGetUUID(instance), gpu.uuid)


def query_driver() -> Driver:
    """Ask the driver. Never raises: where there is no driver, or a broken one, there are no devices and a `problem`."""
    try:
        nvml.nvmlInit()
        gpus: list[Device] = []
        instances: list[Device] = []
        divided: set[str] = set()
        problem = None
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = nvml.nvmlDeviceGetUUID(handle)
            except nvml.NVMLError as error:  # one that is lost: the others work
                problem = f"GPU {index}: {error}"
                continue
            gpus.append(Device(index, uuid, uuid))
            if _is_divided(handle):
                divided.add(uuid)
            instances += _list_mig_instances(handle, gpus[-1])
        return Driver(nvml.nvmlSystemGetDriverVersion(), gpus, instances, problem, frozenset(divided))
    except Exception as error:  # NVMLError has a subclass for each status, and a broken library may raise anything
        return Driver(problem=f"{error}")
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()
