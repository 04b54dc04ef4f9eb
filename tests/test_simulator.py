"""The rules of the simulated GPU, each by the smallest program that breaks or keeps it."""

import pytest
import torch

from simulated_cuda import simulated_cuda

CUDA = torch.device("cuda")


@pytest.fixture
def gpu():
    with simulated_cuda("late") as simulator:
        yield simulator


def make(value=1.0):
    return torch.full((3,), value, device=CUDA)


@pytest.mark.parametrize("order", ["nothing", "wait_stream", "event", "synchronize", "device", "early"])
def test_another_stream_is_seen_only_after_a_wait(order):
    with simulated_cuda("side" if order == "early" else "late"):
        side, event = torch.cuda.Stream(), torch.cuda.Event()
        with torch.cuda.stream(side):
            x = make() + 1
            event.record()
        if order == "wait_stream":
            torch.cuda.current_stream().wait_stream(side)
        elif order == "event":
            event.wait()
        elif order == "synchronize":
            side.synchronize()
        elif order == "device":
            torch.cuda.synchronize()
        assert x.device.type == "cuda" and (x.tolist() == [2.0] * 3) is (order != "nothing")


def test_a_recording_executes_nothing_and_a_replay_reads_what_is_there_then(gpu):
    x, graph = make(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        between = x + 1
        y = between * 2
    assert torch.isnan(y.cpu()).all()
    for value in (1.0, 5.0):
        x.fill_(value)
        graph.replay()
        assert y.tolist() == [2 * (value + 1)] * 3
    between.fill_(7.0)
    kept = between.clone()
    graph.replay()
    assert kept.tolist() == [7.0] * 3 and between.tolist() == [6.0] * 3


@pytest.mark.parametrize("what", ["item", "host", "generator", "freed"])
def test_what_ends_a_recording_leaves_no_memory(gpu, what):
    x, generator, other = make(), torch.Generator(CUDA), [torch.cuda.CUDAGraph()]
    with pytest.raises(RuntimeError, match="during capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        if what == "item":
            x.sum().item()
        elif what == "host":
            torch.tensor([1.0], device=CUDA)
        elif what == "generator":
            torch.empty_like(x).bernoulli_(0.5, generator=generator)
        else:
            other.clear()
    with pytest.raises(RuntimeError, match="the allocator still records"):
        x + 1


def test_a_replay_draws_from_where_the_generator_stands(gpu):
    graph, generator, x = torch.cuda.CUDAGraph(), torch.Generator(CUDA), torch.zeros(64, device=CUDA)
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        x.bernoulli_(0.5, generator=generator)
    found = []
    for seed in (3, 3, None):
        if seed:
            generator.manual_seed(seed)
        graph.replay()
        found.append(x.cpu())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    generator.manual_seed(3)
    assert torch.equal(torch.empty_like(x).bernoulli_(0.5, generator=generator).cpu(), found[0])


@pytest.mark.parametrize("recorded", [False, True])
def test_memory_that_is_freed_while_another_stream_reads_it_is_overwritten(gpu, recorded):
    x, side = make() + 1, torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x * 2
        if recorded:
            x.record_stream(side)
        del x
        assert (y.tolist() == [4.0] * 3) is recorded


@pytest.mark.parametrize("pinned", [False, True])
def test_pinned_memory_is_read_when_the_copy_is_executed(gpu, pinned):
    host, x = torch.ones(3), make(0.0)
    if pinned:
        host = host.pin_memory()
    x.copy_(host, non_blocking=True)
    host.fill_(9.0)
    assert x.tolist() == [9.0 if pinned else 1.0] * 3
