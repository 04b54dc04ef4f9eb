"""The step: the same function however it is computed."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from identity_mappings.errors import UserError
from identity_mappings.networks.cifar import CifarResNet
from identity_mappings.training import captured, memory
from identity_mappings.training.captured import Captured
from identity_mappings.training.optimizer import Optimizer
from identity_mappings.training.trainer import Options, Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
NAMES = ["cifar10-resnet110", "cifar10-resnet164-full-pre-activation", "cifar10-resnet110-exclusive-gate-b6"]


def trainer(experiment, tmp_path, seed=0, **options) -> Trainer:
    return Trainer(experiment, seed, CPU, Options(tmp_path, root=ROOT, device="cpu", **options))


@pytest.fixture
def small(short):
    def make(name=NAMES[0], **recipe):
        experiment = short(name, **recipe)
        if "164" in name:
            experiment.parameters["network"]["depth"] = 11
        return experiment

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_plain_statement_of_one(small, tmp_path, name):
    """Whole batches in double precision, loss and update written out: five steps, with a switch of the rate."""
    ours = trainer(small(name), tmp_path)
    ours.network.double()
    ours.feed.augmentation.means = ours.feed.augmentation.means.double()
    ours.optimizer = Optimizer(ours.network, ours.recipe)
    ours.parameters = list(ours.network.parameters())
    plain = deepcopy(ours.network).to(memory_format=torch.contiguous_format)
    optimizer = Optimizer(plain, ours.recipe)
    for iteration in range(5):
        view = ours.feed.sampler.view(iteration)
        x, y = ours.feed.augmentation.view(view).contiguous(), ours.feed.labels[view.image]
        scores = plain(x)
        loss = F.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.prepare(iteration)
        optimizer.update()
        found, wrong, size = ours.step(iteration)
        assert float(found) == pytest.approx(loss.item(), rel=1e-5)  # collected in float32
        assert (int(wrong), size) == (int((scores.argmax(1) != y).sum()), len(y))
    for (key, a), (_, b) in zip(ours.network.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_units_that_are_computed_again_give_the_same_bytes(small, tmp_path, name):
    kept, again = (trainer(small(name), tmp_path, recompute=recompute) for recompute in (False, True))
    for iteration in range(4):
        assert torch.equal(kept.step(iteration)[0], again.step(iteration)[0])
    for a, b in zip(kept._state(), again._state(), strict=True):
        assert torch.equal(a, b)


def test_computed_again_needs_less_memory():
    """Counted by what autograd holds on to."""
    network = CifarResNet(20, replicas=2)
    held = memory.count_kept_bytes(network, 64, (3, 32, 32))
    assert held == pytest.approx(2 * memory.count_kept_bytes(network, 32, (3, 32, 32)), rel=0.01)
    # Seven convolutions with inputs of 16 x 32 x 32, of which each keeps its input, and batch norm its own.
    assert 2 * 7 * 64 * 16 * 32 * 32 * 4 < held < 2 * 19 * 64 * 16 * 32 * 32 * 4


def test_units_with_dropout_are_not_computed_again(short, tmp_path):
    with pytest.raises(UserError, match="dropout masks are drawn once"):
        trainer(short(), tmp_path, recompute=True)


def test_where_memory_is_short_units_are_computed_again(small, tmp_path, monkeypatch):
    assert not trainer(small(), tmp_path).model.recompute
    monkeypatch.setattr(memory, "get_total_bytes", lambda device: 10_000)
    assert trainer(small(), tmp_path).model.recompute


def test_nothing_waits_for_the_device_in_a_step(small, tmp_path, monkeypatch):
    """Reading a number of the device would: `item`, `tolist`, float() and bool() of a tensor."""
    one = trainer(small(), tmp_path)
    one.step(0)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} in a step"))
    for iteration in (1, 2, 3):  # with a switch of the rate
        one.step(iteration)


class Graph:
    """Stands for torch.cuda.CUDAGraph: notes what is done, replays by calling."""

    def __init__(self):
        self.generators = []

    def register_generator_state(self, generator):
        self.generators.append(generator)


@pytest.fixture
def recorded(monkeypatch):
    """`Captured` as on a GPU, its graphs kept in a list; a replay calls the function into the recorded outputs."""
    graphs = []

    class Stream:
        device = CPU

        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

        def synchronize(self):
            pass

    class Scope:
        def __init__(self, *arguments, **keywords):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    class Recording(Scope):
        def __init__(self, graph, stream=None, capture_error_mode="global"):
            assert capture_error_mode == "thread_local", "a thread that pins memory would spoil the recording"
            graphs.append(graph)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", Scope)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    record = Captured._record

    def with_replay(self, key, inputs):
        before = [tensor.detach().clone() for tensor in self.state()]
        graph, held, outputs = record(self, key, inputs)
        for tensor, old in zip(self.state(), before, strict=True):
            tensor.data.copy_(old)  # a GPU does no work while it records

        def replay():
            for mine, new in zip(outputs, self.function(key, *held), strict=True):
                mine.copy_(new)

        graph.replay = replay
        return graph, held, outputs

    monkeypatch.setattr(Captured, "_record", with_replay)
    return graphs


def test_a_recorded_step_is_the_same_as_a_called_one(small, tmp_path, recorded):
    """The warm-up leaves no trace, one graph serves all iterations, and outputs are not overwritten."""
    called, replayed = (trainer(small(), tmp_path) for _ in range(2))
    replayed.recorded_step.stream = torch.cuda.Stream()
    replayed.recorded_test.stream = torch.cuda.Stream()
    losses = [[one.step(iteration)[0] for iteration in range(6)] for one in (called, replayed)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    assert called.test() == replayed.test()
    assert len(recorded) == 2 + (len(called.feed.test_images) % 500 > 0), "the step, and each size of a test's batches"
    for a, b in zip(called._state(), replayed._state(), strict=True):
        assert torch.equal(a, b)


def test_what_a_replay_reads_is_set_on_its_own_stream(small, tmp_path, recorded, monkeypatch):
    """Or the next iteration's place in the tables would be there while the last one still reads its own."""
    one = trainer(small(), tmp_path)
    one.recorded_step.stream = torch.cuda.Stream()
    one.step(0)
    entered = []

    class Scope:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            entered.pop()

    monkeypatch.setattr(torch.cuda, "stream", Scope)
    for owner, name in ((one.feed, "seek"), (one.optimizer, "prepare")):
        method = getattr(owner, name)

        def on_the_stream(iteration, method=method):
            assert entered == [one.recorded_step.stream]
            return method(iteration)

        monkeypatch.setattr(owner, name, on_the_stream)
    one.step(1)


def test_dropout_masks_are_registered_with_the_graph(short, tmp_path, recorded):
    one = trainer(short(), tmp_path)
    one.recorded_step.stream = torch.cuda.Stream()
    one.step(0)
    assert recorded[0].generators == [one.masks]


def test_what_cannot_be_recorded_says_what_to_do(recorded, monkeypatch):
    def waits(key):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    one = Captured(waits, list, CPU)
    one.stream = torch.cuda.Stream()
    with pytest.raises(UserError, match=r"\(operation not permitted when stream is capturing\): call with --eager"):
        one(1)


def test_the_warm_up_has_more_than_one_call():
    """Libraries choose in the first call; the second shows that there is nothing left to choose."""
    assert captured.WARM_UP >= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [*NAMES, "cifar10-resnet110-dropout"])
def test_on_a_gpu_a_replayed_step_is_the_eager_one(small, tmp_path, name):
    device = torch.device("cuda")
    both = [Trainer(small(name), 0, device, Options(tmp_path, root=ROOT, eager=eager)) for eager in (True, False)]
    for iteration in range(10):
        a, b = (one.step(iteration)[0] for one in both)
        assert float(a) == float(b), iteration
    for one in both:
        one.wait()
    for a, b in zip(both[0]._state(), both[1]._state(), strict=True):
        assert torch.equal(a, b)
