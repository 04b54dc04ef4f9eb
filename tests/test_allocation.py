"""What jobs ask of a cluster."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from identity_mappings import allocation
from identity_mappings.allocation import Work
from identity_mappings.errors import UserError
from identity_mappings.graph import Graph
from identity_mappings.jobs import Jobs
from identity_mappings.parameters import load
from identity_mappings.records.measurement import read_costs
from identity_mappings.records.speed import CPU, GPU, Speeds, Spent
from identity_mappings.training import memory
from identity_mappings.training.assembly import build

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
    assert kept <= allocation.estimate_activation_bytes(experiment) <= 5 * kept


def test_a_shortcut_of_ones_own_counts_as_the_largest_of_the_papers(project):
    own = allocation.estimate_activation_bytes(project.resolve(OWN))
    assert own >= allocation.estimate_activation_bytes(project.resolve(CIFAR))


def test_memory_grows_with_the_attempt_up_to_twice(project):
    asked = [allocation.estimate_memory(Work(project.resolve(CIFAR), CPU), attempt) for attempt in (1, 2, 3, 9)]
    assert asked[0] < asked[1] < asked[2] == asked[3] <= 2 * asked[0] + 1
    experiment = project.resolve("cifar10-resnet1202")
    assert 1e6 * allocation.estimate_memory(Work(experiment, CPU)) > memory.estimate_needed_bytes(experiment, ROOT)
    assert allocation.estimate_memory(Work(experiment, GPU)) < allocation.estimate_memory(Work(experiment, CPU))


def test_time_grows_with_the_attempt_up_to_the_limit_of_the_queue():
    assert [allocation.request_minutes(3600, 200, attempt) for attempt in (1, 2, 3)] == [75, 150, 200]
    assert allocation.request_minutes(None, 200) == 200, "unknown"


def test_time_is_that_of_records_else_of_multiply_adds_else_unknown(project):
    experiment, speeds = project.resolve(CIFAR), Speeds(read_costs(ROOT / "results"))
    guess = allocation.estimate_seconds(Work(experiment, GPU), speeds)
    assert 64_000 * 0.05 < guess < 48 * 3600
    deep = allocation.estimate_seconds(Work(project.resolve("cifar10-resnet1202"), GPU), speeds)
    assert deep > 5 * guess
    assert allocation.estimate_seconds(Work(experiment, GPU), Speeds({})) is None
    speeds.add(experiment, Spent("GPU slow", 10.0, 100, None))
    speeds.add(experiment, Spent("GPU quick", 1.0, 100, None))
    known = allocation.estimate_seconds(Work(experiment, GPU), speeds)
    assert known == pytest.approx(1.5 * 0.1 * 64_000), "of the slower device: the queue may give either"
    assert allocation.estimate_seconds(Work(experiment, GPU, runs=5), speeds) == pytest.approx(5 * known)
    assert allocation.estimate_seconds(Work(experiment, CPU), speeds) > known, "a record of a GPU says nothing of a CPU"


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
