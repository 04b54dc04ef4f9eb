"""What each job of the graph needs: devices, threads, memory, time, and the commands that start its processes.

Methods of `Jobs` that take `wildcards` are parameters and resources of rules; `attempt` counts Snakemake's retries from
1. Memory and time are estimated from the experiment. They are upper bounds, and grow with each attempt; a training that
is cut goes on in the next attempt.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .durations import format_duration
from .errors import UserError
from .graph import Graph
from .networks.depth import bound_activations
from .records.experiment import Experiment
from .records.machine import count_cores, count_memory
from .records.provenance import find_cpu_model
from .records.speed import CPU, GPU, PASSES, Speeds, name_device, read_speeds
from .training.driver import query_driver

SHARE_OF_TEST = 0.1  # of a training's time, at most: all protocols of ImageNet take 1/30 of its multiply-adds
# MB of a process without images and network, as measured: torch on a CPU; torch with a CUDA context, and two processes
# of Snakemake; a process that decodes images; the Snakemake that starts all jobs.
PROCESS_MB, WORKER_MB, SNAKEMAKE_MB = {CPU: 600, GPU: 4000}, 500, 300
WORKERS = 8  # processes that decode, for each GPU
# Multiply-adds a second where no record says: a fifth of what a core did here (bench.md), a tenth of a GPU of 2017.
MULTIPLY_ADDS_PER_SECOND = {CPU: 8e9, GPU: 0.7e12}
SECONDS_OF_STEP = 0.05  # that a step takes beside its products, on a GPU where they are small
CIFAR_LAYER = 35e3  # weights of a layer of a CIFAR network, at most
MOST_WEIGHTS = {"imagenet": 65e6, "vgg": 144e6}  # of a family's largest network
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
    network = experiment.parameters["network"]
    # Gradients, momentum and a copy for a checkpoint have as many numbers as the weights.
    weights = 4 * 4 * MOST_WEIGHTS.get(network.get("family"), CIFAR_LAYER * network["depth"])
    image = math.ceil(dataset.get("channels", 3) * _size(experiment) ** 2 * _enlargement(experiment))
    if experiment.streamed:
        reading = images = 4 * 4 * image * recipe["batch_size"]  # of a batch, made ahead
    else:
        count = dataset["training_images"] + dataset["test_images"]
        images = 4 * image * count
        # While they are read, as measured; those of `made_from` from images of more pixels.
        block = (dataset.get("made_from") or {}).get("block_mean", 1)
        reading = max(10, 4 * block**2) * image * count
    decoding = 0
    if work.kind == CPU:
        run_bytes = max(reading, images + processes * (weights + estimate_activation_bytes(experiment)))
    else:  # it has a memory of its own; twice: freed memory is kept
        run_bytes = 2 * work.runs * (processes * weights + images)
        decoding = WORKER_MB * WORKERS * processes if experiment.streamed else 0
    needed = PROCESS_MB[work.kind] * processes + decoding + run_bytes / 1e6
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


def count_free_memory() -> int:
    """MB that all jobs on this machine may use together."""
    return max(0, count_memory() // 10**6 - SNAKEMAKE_MB)


def _say(seconds: float) -> str:
    return "a time that no record tells" if math.isnan(seconds) else f"about {format_duration(seconds)}"


def request_minutes(seconds: float | None, limit: int, attempt: int = 1) -> int:
    """What a job asks for: at most the queue's `limit`, after which it goes on in another attempt; that if unknown."""
    if seconds is None:
        return limit
    return min(limit, math.ceil(attempt * (MINUTES_TO_START + seconds / 60)))


class Jobs:
    """The needs of the jobs of a graph, as its config has them."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._priorities: dict[str, dict[tuple[str, int], int]] = {}  # by scale; of an experiment and a seed

    @cached_property
    def _speeds(self) -> Speeds:
        return read_speeds(self.graph.project.root)

    def processes(self, wildcards: Any) -> int:
        """How many processes train a run, on all nodes together: on GPUs one for each."""
        experiment = self.graph.get_experiment(wildcards)
        if not experiment.streamed:
            return 1
        least = self.graph.nodes if self.graph.device(wildcards) == "cpu" else experiment.gpus
        count = self.graph.chosen_processes or least
        return min(count, experiment.parameters["recipe"]["batch_size"]) if experiment.detects else count

    def nodes(self, wildcards: Any) -> int:
        """Over how many nodes these processes are spread."""
        return self.graph.nodes if self.graph.get_experiment(wildcards).streamed else 1

    def gpus(self, wildcards: Any) -> int:
        """GPUs of a training, on all nodes together."""
        if self.graph.device(wildcards) != "gpu":
            return 0
        experiment = self.graph.get_experiment(wildcards)
        return self.processes(wildcards) if experiment.streamed else experiment.gpus

    def processes_per_node(self, wildcards: Any) -> int:
        return self._divide_by_nodes(wildcards, self.processes(wildcards))

    def gpus_per_node(self, wildcards: Any) -> int:
        return self._divide_by_nodes(wildcards, self.gpus(wildcards))

    def _divide_by_nodes(self, wildcards: Any, processes: int) -> int:
        """What each node has of all processes.

        Raises:
            UserError: the nodes cannot have as many each.
        """
        nodes = self.nodes(wildcards)
        if processes % nodes:
            raise UserError(
                f"--config nodes={nodes}: {processes} processes do not go evenly into {nodes} nodes: give "
                f"processes={nodes * max(1, round(processes / nodes))}, or another number of nodes"
            )
        return processes // nodes

    def granted_to_node(self, wildcards: Any, resources: Any) -> int:
        """Of the GPUs that Snakemake grants a training."""
        return resources.gpu // self.nodes(wildcards)

    def one_gpu(self, wildcards: Any) -> int:
        """GPUs of a test or a measurement."""
        return 1 if self.graph.device(wildcards) == "gpu" else 0

    def priority(self, wildcards: Any) -> int:
        """Of a training: the runs of a scale begin in the order of `Project.list_runs_to_train`."""
        return self._get_priority(wildcards, int(wildcards.seed))

    def priority_from(self, seed: int) -> Callable[[Any], int]:
        """Of a job that trains several seeds, of which this is the first."""
        return lambda wildcards: self._get_priority(wildcards, seed)

    def _get_priority(self, wildcards: Any, seed: int) -> int:
        scale = self.graph.get_scale(wildcards)
        if scale not in self._priorities:
            runs = self.graph.project.list_runs_to_train(scale)
            ranks = range(len(runs), 0, -1)
            self._priorities[scale] = {(run[0].name, run[1]): rank for run, rank in zip(runs, ranks, strict=True)}
        return self._priorities[scale].get((wildcards.experiment, seed), 0)

    def cpu_threads(self, wildcards: Any) -> int:
        """Threads of a test, or of each process of a training."""
        return self.graph.get_experiment(wildcards).parameters["recipe"]["cpu_threads"]

    def training_threads(self, wildcards: Any) -> int:
        return self.processes(wildcards) * self.cpu_threads(wildcards)

    def signals_threads(self, wildcards: Any) -> int:
        works = self._signals(wildcards)
        return max((work.experiment.parameters["recipe"]["cpu_threads"] for work in works), default=1)

    def check_machine(self, trainings: Collection[Any], memory: int) -> None:
        """Whether this machine can do what a call wants, before its first job.

        Args:
            trainings: wildcards of each.
            memory: MB that jobs may use at once.

        Raises:
            UserError: it has no GPU, or less memory than any of the trainings needs; says what works instead.
        """
        on_gpus = [wildcards for wildcards in trainings if self.graph.device(wildcards) == "gpu"]
        if on_gpus and not (driver := query_driver()).usable:
            raise UserError(f"no GPU ({driver.problem or 'the driver lists none'}): {self._suggest_cpu(on_gpus)}")
        if trainings and not on_gpus:
            needed, name = min((self.training_memory(each, 1), each.experiment) for each in trainings)
            if needed > memory:
                raise UserError(
                    f"a run of {name} takes about {needed / 1000:.1f} GB of memory, and jobs may use "
                    f"{memory / 1000:.1f} GB of what this machine or container has: give it more, or try all the same "
                    f"(--resources mem_mb={needed})"
                )

    def _suggest_cpu(self, trainings: Collection[Any]) -> str:
        """How long a CPU takes for these trainings, and the commands that work without a GPU."""
        project, cores = self.graph.project, count_cores()
        devices = self._speeds.list_devices(CPU, name_device(None, find_cpu_model()))

        def estimate(experiment: Experiment) -> float:
            speed = self._speeds.find(experiment, devices)
            return speed.seconds * experiment.parameters["recipe"]["iterations"] if speed else math.nan

        wanted = [self.graph.get_experiment(wildcards) for wildcards in trainings]
        runs = [  # of which a job trains one, or all seeds
            1 if hasattr(wildcards, "seed") else len(project.seeds(experiment))
            for wildcards, experiment in zip(trainings, wanted, strict=True)
        ]
        whole = sum(count * estimate(experiment) for count, experiment in zip(runs, wanted, strict=True))
        short = sum(estimate(each) for each, _ in project.list_runs_to_train("overnight")) / cores
        first = self.graph.get_experiment(max(trainings, key=lambda each: self._get_priority(each, 0)))
        commands = {
            "make demo": "the whole graph on small data, with shortened networks: minutes",
            "make overnight": f"real images at half resolution: {_say(short)} on {cores} core(s) like these",
            f"identity-mappings train {first.name} --scale {first.scale} --device cpu": _say(estimate(first)),
        }
        lines = [f"  {command}\n      {text}" for command, text in commands.items()]
        return (
            f"{sum(runs)} runs of scale {first.scale} want one. What works here:\n"
            + "\n".join(lines)
            + f"\nAll of these runs on a CPU (--config device=cpu) take {_say(whole)}"
        )

    # Of a cluster.

    def training_cpus(self, wildcards: Any) -> int:
        """CPUs of each node, with those of the processes that decode images."""
        return self._cpus(wildcards, self.processes_per_node(wildcards))

    def test_cpus(self, wildcards: Any) -> int:
        return self._cpus(wildcards, 1)

    def training_memory(self, wildcards: Any, attempt: int) -> int:
        """MB of each node."""
        return estimate_memory(self._training(wildcards), attempt)

    def test_memory(self, wildcards: Any, attempt: int) -> int:
        return estimate_memory(self._test(wildcards), attempt)

    def signals_memory(self, wildcards: Any, attempt: int) -> int:
        return max(estimate_memory(work, attempt) for work in self._signals(wildcards))

    def training_minutes(self, wildcards: Any, attempt: int) -> int:
        return self._minutes(wildcards, attempt, [self._training(wildcards)])

    def test_minutes(self, wildcards: Any, attempt: int) -> int:
        return self._minutes(wildcards, attempt, [self._test(wildcards)])

    def signals_minutes(self, wildcards: Any, attempt: int) -> int:
        return self._minutes(wildcards, attempt, self._signals(wildcards))

    # Several nodes: Slurm's srun starts torchrun on each node, and torchrun starts the processes of a run.

    def tasks(self, wildcards: Any) -> int | None:
        """Of Slurm's job, one a node; unset where there is one node."""
        return self.nodes(wildcards) if self.nodes(wildcards) > 1 else None

    def mpi(self, wildcards: Any) -> str | None:
        """Says to Snakemake's plugin that the rule calls srun itself; unset where there is one node."""
        return "srun" if self.nodes(wildcards) > 1 else None

    def tasks_per_gpu(self, wildcards: Any) -> int | None:
        """0 so that the plugin does not take `tasks` for it; unset where there is one node."""
        return 0 if self.nodes(wildcards) > 1 else None

    def gres(self, wildcards: Any) -> str | None:
        """The same number of GPUs on each node; unset where there is one node."""
        gpus = self.gpus_per_node(wildcards)
        return f"gpu:{gpus}" if gpus and self.nodes(wildcards) > 1 else None

    def on_each_node(self, wildcards: Any) -> str:
        """What starts the rest of a command once on each node, which sees its own GPUs; nothing for one node."""
        nodes, cpus, gpus = self.nodes(wildcards), self.training_cpus(wildcards), self.gpus_per_node(wildcards)
        if nodes == 1:
            return ""
        words = f"srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --cpus-per-task {cpus} "
        return f"{words}--kill-on-bad-exit=1 " + (f"--gpus-per-node {gpus} " if gpus else "")

    def launcher(self, wildcards: Any) -> str:
        """What starts the processes of a node; nothing for one that is alone.

        On several nodes the first one's shell expands its name and a port that follows from the job's number.
        """
        nodes, processes = self.nodes(wildcards), self.processes_per_node(wildcards)
        if nodes > 1:
            meeting = '--rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" '
            meeting += '--rdzv-endpoint "$(uname -n):$((20000 + SLURM_JOB_ID % 10000))" '
            return f"torchrun --nnodes {nodes} --nproc-per-node {processes} {meeting}--no-python -- "
        return f"torchrun --standalone --nproc-per-node {processes} --no-python -- " if processes > 1 else ""

    def _kind(self, wildcards: Any) -> str:
        return GPU if self.graph.device(wildcards) == "gpu" else CPU

    def _cpus(self, wildcards: Any, processes: int) -> int:
        streams = self.graph.get_experiment(wildcards).streamed and self._kind(wildcards) == GPU
        return processes * (self.cpu_threads(wildcards) + (WORKERS if streams else 0))

    def _training(self, wildcards: Any) -> Work:
        experiment, runs = self.graph.get_experiment(wildcards), 1
        if not hasattr(wildcards, "seed"):  # several seeds at once
            runs = min(self.graph.runs_per_gpu, len(self.graph.project.seeds(experiment)))
        return Work(experiment, self._kind(wildcards), runs, self.processes(wildcards), self.nodes(wildcards))

    def _test(self, wildcards: Any) -> Work:
        return Work(self.graph.get_experiment(wildcards), self._kind(wildcards), share=SHARE_OF_TEST)

    def _signals(self, wildcards: Any) -> list[Work]:
        project, scale, kind = self.graph.project, self.graph.get_scale(wildcards), self._kind(wildcards)
        iterations = project.scale(scale).signal_iterations
        experiments = project.list_for_signals(scale)
        return [Work(e, kind, share=iterations / e.parameters["recipe"]["iterations"]) for e in experiments]

    def _minutes(self, wildcards: Any, attempt: int, works: list[Work]) -> int:
        seconds = [estimate_seconds(work, self._speeds) for work in works]
        known = [each for each in seconds if each is not None]
        whole = sum(known) if len(known) == len(works) else None
        return request_minutes(whole, self.graph.time_limit, attempt)


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
