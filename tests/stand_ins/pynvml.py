"""nvidia-ml-py of a machine without a driver: tests are about stand-in devices, whatever this machine has."""


class NVMLError(Exception):
    pass


def nvmlInit():
    raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():
    pass
