"""What a job asks of a cluster: memory and time, estimated from its experiment.

The estimates are upper ones, and grow with each attempt. A training that is cut goes on in the next attempt.
"""

import math
from dataclasses import dataclass

from .networks.depth import bound_activations
from .records.experiment import Experiment
from .records.speed import CPU, GPU, PASSES, Speeds

# MB of the host's memory: torch with its CUDA context and two processes of Snakemake; a process that decodes images.
PROCESS_MB, WORKER_MB = 4000, 500
WORKERS = 8  # processes that decode, for each GPU
# Multiply-adds a second where no record says: a fifth of what a core did here (bench.md), a tenth of a GPU of 2017.
MULTIPLY_ADDS_PER_SECOND = {CPU: 8e9, GPU: 0.7e12}
SECONDS_OF_STEP = 0.05  # that a step takes beside its products, on a GPU where they are small
MOST_WEIGHTS = {"cifar": 19.5e6, "imagenet": 65e6, "vgg": 144e6}  # of a family's largest network
MINUTES_TO_START = 15  # Snakemake on the node, torch, data, the last test
MARGIN = 1.5  # of records: other nodes are slower, and share their disks


@dataclass(frozen=True)
class Work:
    """What a job has to do.

    Attributes:
        experiment: of which it trains or tests `runs` at once.
        kind: of its device, GPU or CPU.
        processes: of each run, on all nodes together.
        nodes: over which they are spread evenly.
        share: of a training: 1, or less for a test.
    """

    experiment: Experiment
    kind: str
    runs: int = 1
    processes: int = 1
    nodes: int = 1
    share: float = 1


def estimate_activation_bytes(experiment: Experiment) -> int:
    """Bytes that a forward pass of one batch norm's images keeps for the backward pass, in float32."""
    parameters = experiment.parameters
    image = bound_activations(parameters["network"], _size(experiment))
    return math.ceil(image * parameters["recipe"].get("batch_norm_samples", 1) * _enlargement(experiment))


def estimate_memory(work: Work, attempt: int = 1) -> int:
    """MB of a node's memory. The second attempt asks for half as much more, later ones for twice as much."""
    experiment, processes = work.experiment, work.processes // work.nodes
    recipe, dataset = experiment.parameters["recipe"], experiment.parameters["dataset"]
    # Gradients, momentum and a copy for a checkpoint have as many numbers as the weights.
    weights = 4 * 4 * MOST_WEIGHTS[experiment.parameters["network"].get("family") or "cifar"]
    image = math.ceil(dataset.get("channels", 3) * _size(experiment) ** 2 * _enlargement(experiment))
    images = 4 * image * (dataset["training_images"] + dataset["test_images"])
    if experiment.streamed:
        images = 4 * 4 * image * recipe["batch_size"]  # of a batch, made ahead
    kept = estimate_activation_bytes(experiment) if work.kind == CPU else 0  # a GPU has a memory of its own
    run_bytes = processes * (weights + kept) + images
    decoding = WORKER_MB * WORKERS * processes if experiment.streamed and work.kind == GPU else 0
    needed = PROCESS_MB * processes + decoding + 2 * work.runs * run_bytes / 1e6  # twice: freed memory is kept
    return math.ceil(needed * min(1 + (attempt - 1) / 2, 2))


def estimate_seconds(work: Work, speeds: Speeds) -> float | None:
    """Seconds by the slowest device of the kind on which it is known; else by multiply-adds; None without a count."""
    experiment, recipe = work.experiment, work.experiment.parameters["recipe"]
    found = [speeds.find(experiment, [device]) for device in speeds.list_devices(work.kind)]
    if known := [speed.seconds for speed in found if speed]:
        seconds = MARGIN * max(known)  # of one device; where several processes work, of all together
    elif multiply_adds := speeds.count_multiply_adds(experiment):
        speed = MULTIPLY_ADDS_PER_SECOND[work.kind] * (recipe["cpu_threads"] if work.kind == CPU else 1)
        seconds = PASSES * multiply_adds / speed + (SECONDS_OF_STEP if work.kind == GPU else 0)
    else:
        return None
    devices = work.processes if work.kind == GPU else 1  # processes on CPUs may share the cores of one
    return seconds * recipe["iterations"] * work.runs * work.share / devices


def request_minutes(seconds: float | None, limit: int, attempt: int = 1) -> int:
    """What a job asks for: at most the queue's `limit`, after which it goes on in another attempt; that if unknown."""
    if seconds is None:
        return limit
    return min(limit, math.ceil(attempt * (MINUTES_TO_START + seconds / 60)))


def _size(experiment: Experiment) -> int:
    """Height and width of what the network sees; of a detection of what its backbone saw."""
    parameters = experiment.parameters
    if experiment.detects:
        return parameters["backbone"]["size"]
    return parameters["recipe"]["crop_size"] if experiment.streamed else parameters["dataset"]["size"]


def _enlargement(experiment: Experiment) -> float:
    """By how much a detection has more pixels than `_size` squared; twice, for the regions behind its feature map."""
    if not experiment.detects:
        return 1
    return 2 * (experiment.parameters["recipe"]["longer_side"] / _size(experiment)) ** 2
