"""What jobs ask of a machine or a cluster."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from identity_mappings.errors import UserError
from identity_mappings.graph import Graph
from identity_mappings.jobs import (
    Jobs,
    Work,
    estimate_activation_bytes,
    estimate_memory,
    estimate_seconds,
    request_minutes,
)
from identity_mappings.parameters import load
from identity_mappings.records.measurement import read_costs
from identity_mappings.records.speed import CPU, GPU, Speeds, Spent
from identity_mappings.training import memory
from identity_mappings.training.assembly import build
from identity_mappings.training.driver import Device, Driver

ROOT = Path(__file__).parents[1]
OWN = "cifar10-resnet110-convolutional-gate"
CIFAR, IMAGENET = "cifar10-resnet110", "imagenet-resnet50"


@pytest.fixture(scope="module")
def project():
    return load(ROOT)


def jobs(name: str, **config: object) -> tuple[Jobs, SimpleNamespace]:
    graph = Graph(ROOT, config)
    digest = graph.project.resolve(name).digest
    return Jobs(graph), SimpleNamespace(root="results", experiment=name, digest=digest, seed="0")


@pytest.mark.parametrize(
    "name",
    [
        CIFAR,
        "cifar10-resnet110-dropout",
        "cifar10-resnet110-exclusive-gate-b6",
        "cifar10-resnet110-convolution",
        "cifar10-resnet164-relu-before-addition",
        "imagenet-plain18",
        IMAGENET,
        "imagenet-resnet200-full-pre-activation",
    ],
)
def test_activations_are_an_upper_bound_of_what_torch_keeps_and_no_wild_one(project, name):
    experiment = project.resolve(name)
    recipe, dataset = experiment.parameters["recipe"], experiment.parameters["dataset"]
    size = recipe["crop_size"] if experiment.streamed else dataset["size"]
    with torch.device("meta"):
        network = build(experiment, ROOT)
    kept = memory.count_kept_bytes(network, recipe["batch_norm_samples"], (dataset["channels"], size, size))
    assert kept <= estimate_activation_bytes(experiment) <= 5 * kept


def test_a_shortcut_of_ones_own_counts_as_the_largest_of_the_papers(project):
    own = estimate_activation_bytes(project.resolve(OWN))
    assert own >= estimate_activation_bytes(project.resolve(CIFAR))


def test_memory_grows_with_the_attempt_up_to_twice(project):
    asked = [estimate_memory(Work(project.resolve(CIFAR), CPU), attempt) for attempt in (1, 2, 3, 9)]
    assert asked[0] < asked[1] < asked[2] == asked[3] <= 2 * asked[0] + 1
    experiment = project.resolve("cifar10-resnet1202")
    assert 1e6 * estimate_memory(Work(experiment, CPU)) > memory.estimate_needed_bytes(experiment, ROOT)
    assert estimate_memory(Work(experiment, GPU)) < estimate_memory(Work(experiment, CPU))


@pytest.mark.parametrize(
    ("name", "scale", "measured"),  # MB that a process held at most, of trainings in records and benchmarks
    [
        ("cifar10-resnet20", "demo", 581),
        ("cifar10-resnet20", "overnight", 1287),
        ("cifar10-resnet164", "overnight", 1259),
        ("cifar10-resnet20", "paper", 2346),
        (CIFAR, "paper", 2466),
        ("cifar10-resnet164-full-pre-activation", "paper", 3500),
        ("cifar10-resnet1202", "paper", 12_531),
    ],
)
def test_a_job_on_a_cpu_asks_for_what_it_takes(project, name, scale, measured):
    asked = estimate_memory(Work(project.resolve(name, scale), CPU))
    assert measured <= asked <= 2 * measured


def test_time_grows_with_the_attempt_up_to_the_limit_of_the_queue():
    assert [request_minutes(3600, 200, attempt) for attempt in (1, 2, 3)] == [75, 150, 200]
    assert request_minutes(None, 200) == 200, "unknown"


def test_time_is_that_of_records_else_of_multiply_adds_else_unknown(project):
    experiment, speeds = project.resolve(CIFAR), Speeds(read_costs(ROOT / "results"))
    guess = estimate_seconds(Work(experiment, GPU), speeds)
    assert 64_000 * 0.05 < guess < 48 * 3600
    deep = estimate_seconds(Work(project.resolve("cifar10-resnet1202"), GPU), speeds)
    assert deep > 5 * guess
    assert estimate_seconds(Work(experiment, GPU), Speeds({})) is None
    speeds.add(experiment, Spent("GPU slow", 10.0, 100, None))
    speeds.add(experiment, Spent("GPU quick", 1.0, 100, None))
    known = estimate_seconds(Work(experiment, GPU), speeds)
    assert known == pytest.approx(1.5 * 0.1 * 64_000), "of the slower device: the queue may give either"
    assert estimate_seconds(Work(experiment, GPU, runs=5), speeds) == pytest.approx(5 * known)
    assert estimate_seconds(Work(experiment, CPU), speeds) > known, "a record of a GPU says nothing of a CPU"


def test_lower_seeds_of_all_experiments_have_priority_then_the_order_of_the_scale():
    needs, first = jobs("cifar10-resnet20")
    later = SimpleNamespace(root="results", experiment=CIFAR, seed="0")
    assert needs.priority(first) > needs.priority(later) > 0
    shared = [needs.priority_from(seed)(later) for seed in (0, 1, 4)]
    assert shared[0] == needs.priority(later) and shared == sorted(shared, reverse=True)
    last = SimpleNamespace(root="results", experiment="cifar10-resnet1202", seed="0")
    assert shared[0] > needs.priority(last) > shared[1]
    assert needs.priority(SimpleNamespace(**vars(last) | {"seed": "9"})) == 0, "nobody waits for it"


def test_a_run_of_imagenet_is_spread_over_nodes():
    needs, imagenet = jobs(IMAGENET, nodes=2)
    assert (needs.gpus(imagenet), needs.gpus_per_node(imagenet), needs.tasks(imagenet)) == (8, 4, 2)
    assert (needs.mpi(imagenet), needs.gres(imagenet), needs.tasks_per_gpu(imagenet)) == ("srun", "gpu:4", 0)
    assert needs.granted_to_node(imagenet, SimpleNamespace(gpu=4)) == 2, "which the lease refuses"
    start = needs.on_each_node(imagenet)
    assert start.startswith("srun --nodes 2 --ntasks 2 ") and "--gpus-per-node 4 " in start
    assert "torchrun --nnodes 2 --nproc-per-node 4 " in needs.launcher(imagenet)
    alone, _ = jobs(IMAGENET)
    assert alone.on_each_node(imagenet) == "" and alone.mpi(imagenet) is None
    assert "--standalone --nproc-per-node 8" in alone.launcher(imagenet)
    assert needs.training_memory(imagenet, 1) < alone.training_memory(imagenet, 1), "of each node"


def test_a_run_of_cifar_stays_on_one_node():
    needs, cifar = jobs(CIFAR, nodes=2)
    assert (needs.nodes(cifar), needs.tasks(cifar), needs.mpi(cifar), needs.gres(cifar)) == (1, None, None, None)
    assert needs.on_each_node(cifar) == needs.launcher(cifar) == ""


def test_processes_that_do_not_go_evenly_into_nodes_are_refused():
    needs, imagenet = jobs(IMAGENET, nodes=2, processes=3)
    with pytest.raises(UserError, match="3 processes do not go evenly into 2 nodes: give processes=4"):
        needs.launcher(imagenet)


@pytest.mark.parametrize("config", [{"nodes": 0}, {"nodes": True}, {"time_limit": "1:00"}, {"nodes": None}])
def test_settings_of_a_cluster_outside_their_sense_are_refused(config):
    [key] = config
    with pytest.raises(UserError, match=f"--config {key}=.*: give a whole number from 1"):
        Graph(ROOT, config)


def test_a_longer_limit_of_the_queue_is_used():
    short, cifar = jobs("cifar10-resnet1202", time_limit=60)
    longer, _ = jobs("cifar10-resnet1202", time_limit=100_000)
    assert short.training_minutes(cifar, 1) == 60 < longer.training_minutes(cifar, 1)


def test_a_machine_without_a_gpu_says_what_works_instead(monkeypatch):
    needs, first = jobs("cifar10-resnet20")
    later = SimpleNamespace(**vars(first) | {"experiment": CIFAR})
    monkeypatch.setattr("identity_mappings.jobs.query_driver", lambda: Driver(problem="no driver"))
    with pytest.raises(UserError) as error:
        needs.check_machine([later, first], 10**6)
    text = str(error.value)
    assert text.startswith("no GPU (no driver): 2 runs of scale paper want one.") and text.count("no GPU") == 1
    commands = re.findall(r"^  (\S.*)\n      .*?about [\d.]+ (?:h|days|min)", text, flags=re.MULTILINE)
    assert commands == ["make overnight", "identity-mappings train cifar10-resnet20 --scale paper --device cpu"], text
    assert "make demo" in text and "--config device=cpu" in text
    monkeypatch.setattr("identity_mappings.jobs.query_driver", lambda: Driver(gpus=[Device(0, "GPU-0", "GPU-0")]))
    needs.check_machine([later, first], 0)
    needs.check_machine([], 0)


def test_a_machine_that_holds_less_than_one_run_says_so():
    needs, first = jobs("cifar10-resnet20", device="cpu")
    deep = SimpleNamespace(**vars(first) | {"experiment": "cifar10-resnet1202"})
    with pytest.raises(UserError, match=r"a run of cifar10-resnet20 takes about 2.4 GB .* jobs may use 1.5 GB"):
        needs.check_machine([deep, first], 1500)
    needs.check_machine([deep, first], 3000)
