"""What each job of the graph needs: devices, threads, memory, time, and the commands that start its processes.

Methods that take `wildcards` are parameters and resources of rules; `attempt` counts Snakemake's retries from 1.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from . import allocation
from .allocation import Work
from .errors import UserError
from .graph import Graph
from .records.speed import CPU, GPU, Speeds, read_speeds

SHARE_OF_TEST = 0.1  # of a training's time, at most: all protocols of ImageNet take 1/30 of its multiply-adds


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

    # Of a cluster.

    def training_cpus(self, wildcards: Any) -> int:
        """CPUs of each node, with those of the processes that decode images."""
        return self._cpus(wildcards, self.processes_per_node(wildcards))

    def test_cpus(self, wildcards: Any) -> int:
        return self._cpus(wildcards, 1)

    def training_memory(self, wildcards: Any, attempt: int) -> int:
        """MB of each node."""
        return allocation.estimate_memory(self._training(wildcards), attempt)

    def test_memory(self, wildcards: Any, attempt: int) -> int:
        return allocation.estimate_memory(self._test(wildcards), attempt)

    def signals_memory(self, wildcards: Any, attempt: int) -> int:
        return max(allocation.estimate_memory(work, attempt) for work in self._signals(wildcards))

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
        return processes * (self.cpu_threads(wildcards) + (allocation.WORKERS if streams else 0))

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
        seconds = [allocation.estimate_seconds(work, self._speeds) for work in works]
        whole = None if None in seconds else sum(seconds)
        return allocation.request_minutes(whole, self.graph.time_limit, attempt)
