"""A GPU that is simulated on the CPU, as unkind as the rules of CUDA allow: it shows missing waits between streams.

    with simulated_cuda("late"):
        train(experiment, 0, Options(results, device="gpu"))

A real GPU hides most mistakes in the order of work. Here every operator on a tensor of the device is queued on the
current stream, and executed only when a rule forces it: a synchronize, an event, or a read on the host, which waits for
the current stream alone. Until then its outputs hold NaN (integers 0). Numbers are the CPU's: a correct program gives
the bits of a plain run on the CPU, whatever the policy. Policies say which streams run as early as their waits permit:
"late": none; "default": the default stream; "side": all others; a number: after each operator what this seed draws.

A recording keeps work and executes nothing; a replay queues it, and memory of the recording is garbage again when it
begins. What waits for the device or copies from the host ends a recording, as does a graph that is freed meanwhile;
afterwards no memory can be had. Random numbers are drawn from where the generator stands at the launch, in a graph from
where a registered one stands at the replay. Memory that the host frees may be overwritten by the stream that allocated
it while another still reads it, unless `record_stream` says so. Copies take pageable memory's content at the call,
pinned memory's (`pin_memory`, `non_blocking`) when they are executed; all but non-blocking ones wait. Not simulated:
several devices, threads, the arithmetic of a GPU, and how much memory there is.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # modes import it, and it must not see what is patched here
import torchvision  # noqa: F401  defines nms
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten, CUDA, DEVICE = torch.ops.aten, torch.device("cuda", 0), (str, torch.device)
DYNAMIC = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    torch.ops.torchvision.nms.default,
}  # the host reads their sizes
FROM_HOST = ("tensor", "as_tensor", "to", "cuda")
NOT_PERMITTED = RuntimeError("operation not permitted when stream is capturing")
NOW: "Simulator"


class Simulator:
    """The state of a simulation; `replays` counts those of graphs, `most_queued` how many were queued at once."""

    def __init__(self, policy: str | int):
        self.policy, self.random = policy, random.Random(policy if isinstance(policy, int) else 0)
        self.streams, self.blocks = [], {}  # of the device's memory, and pinned memory, by its storage
        self.recording, self.spoilt = None, None  # a graph; why a recording failed
        self.inside = False  # whether operators are executed, not queued
        self.replays = self.queued = self.most_queued = 0

    def allocate(self, tensor: Tensor, pinned: bool = False, filled: bool = False) -> Tensor:
        """Make the memory of a tensor the device's: allocated on a stream, used by others, held by queued work."""
        if self.spoilt:
            raise RuntimeError(f"the allocator still records ({self.spoilt})")
        storage = tensor.untyped_storage()
        block = {"reference": StorageWeakRef(storage), "stream": self.current, "users": set(), "held": 0}
        self.blocks[storage._cdata] = SimpleNamespace(pinned=pinned, **block)
        if not pinned and not filled:
            spoil(tensor.data)
            if self.recording:
                self.recording.pool.append(tensor.data)
        return tensor

    def find(self, tensor: Tensor, pinned: bool = False) -> SimpleNamespace | None:
        block = self.blocks.get(tensor.untyped_storage()._cdata)
        return block if block and block.pinned == pinned and not block.reference.expired() else None

    def enqueue(self, work: Callable[[], Any]) -> None:
        if self.recording and self.current is self.recording.stream:
            self.recording.nodes.append(work)
            return
        self.current.queue.append(work)
        for stream in self.streams:
            early = 1000 * (self.policy == ("default" if stream is self.default else "side"))
            most = self.random.choice((0, 0, 1, 5, 1000)) if isinstance(self.policy, int) else early
            stream.finish(stream.done + most, force=False)

    def wait(self, stream: "Stream | None" = None, place: int | None = None) -> None:
        if self.recording:
            raise NOT_PERMITTED
        (stream or self.current).finish(place)

    def executing(self) -> AbstractContextManager:
        return mock.patch.object(self, "inside", True)

    def on(self, stream: "Stream | None") -> AbstractContextManager:
        return mock.patch.object(self, "current", stream or self.current)


class Stream:
    """A queue of work, and of places of other queues that it waits for."""

    def __init__(self, device: Any = None, priority: int = 0):
        self.device, self.queue, self.done = CUDA, [], 0
        NOW.streams.append(self)

    def finish(self, place: int | None = None, force: bool = True) -> None:
        """Execute the work up to a place of the queue, and what it waits for; or end there, unless it is forced."""
        while self.done < min(len(self.queue), len(self.queue) if place is None else place):
            work = self.queue[self.done]
            if isinstance(work, tuple) and work[0].done < work[1] and not force:
                return
            with NOW.executing():
                work[0].finish(work[1]) if isinstance(work, tuple) else work()
            self.queue[self.done], self.done = None, self.done + 1

    def wait_stream(self, other: "Stream") -> None:
        self.queue.append((other, len(other.queue)))

    def synchronize(self) -> None:
        NOW.wait(self)


class Event:
    def __init__(self, **_: Any):
        self.place: tuple[Stream, int] = (NOW.current, 0)

    def record(self, stream: Stream | None = None) -> None:
        self.place = stream or NOW.current, len((stream or NOW.current).queue)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or NOW.current).queue.append(self.place)

    def synchronize(self) -> None:
        NOW.wait(*self.place)


class CUDAGraph:
    """Recorded work, of which a tuple is a random operator to launch, and the memory that it was recorded with."""

    def __init__(self) -> None:
        self.nodes, self.pool, self.generators, self.simulator = [], [], [], NOW

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator._cdata)

    def replay(self) -> None:
        launched = [node[0]() if isinstance(node, tuple) else node for node in self.nodes]

        def work() -> None:
            NOW.queued -= 1
            for tensor in self.pool:
                spoil(tensor)
            for node in launched:
                node()

        NOW.replays, NOW.queued = NOW.replays + 1, NOW.queued + 1
        NOW.most_queued = max(NOW.most_queued, NOW.queued)
        NOW.enqueue(work)

    def __del__(self) -> None:
        if self.simulator.recording:
            self.simulator.spoilt = "a graph was freed while another was recorded"


@contextmanager
def record(graph: CUDAGraph, pool: Any = None, stream: Stream | None = None, **_: Any) -> Iterator[None]:
    torch.cuda.synchronize()
    NOW.recording, graph.stream = graph, stream or Stream()
    try:
        with NOW.on(graph.stream):
            yield
    except RuntimeError as error:
        NOW.spoilt = str(error)
    NOW.recording = None
    if NOW.spoilt:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def spoil(tensor: Tensor) -> None:
    tensor.fill_(torch.nan if tensor.dtype.is_floating_point else 0)


def list_tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class Operators(TorchDispatchMode):  # queues operators on tensors of the device
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, returns = kwargs or {}, func._schema.returns
        if NOW.inside or not any(map(NOW.find, list_tensors(args, kwargs))):
            return func(*args, **kwargs)
        writes = [bool(argument.alias_info and argument.alias_info.is_write) for argument in func._schema.arguments]
        aliases = sum(bool(returned.alias_info) for returned in returns)
        if func is aten._unsafe_view.default or (aliases and not any(writes)):  # a view
            return func(*args, **kwargs)
        copies = func is aten.copy_.default and bool(NOW.find(args[0])) != bool(NOW.find(args[1]))
        to_host, later = copies and not NOW.find(args[0]), copies and kwargs.get("non_blocking", args[2:3] == (True,))
        by_mask = func is aten.index.Tensor and any(i is not None and i.dtype is torch.bool for i in args[1])
        if by_mask or func in DYNAMIC or not all("Tensor" in str(returned.type) for returned in returns):
            NOW.wait()  # numbers for the host, or sizes that depend on them
            with NOW.executing():
                return tree_map_only(Tensor, partial(NOW.allocate, filled=True), func(*args, **kwargs))
        if copies and NOW.recording and not later:
            raise NOT_PERMITTED

        def take(leaf: Tensor) -> Tensor:  # the same memory, or the present content of the host's
            same = NOW.find(leaf) or to_host or (later and NOW.find(leaf, pinned=True))
            return leaf.data if same else leaf.clone()

        def launch() -> Callable[[], Any]:  # draws now, and writes when the stream is there
            with NOW.executing():
                return partial(taken[0].copy_, func(torch.empty_like(taken[0]), *taken[1:], **more))

        outputs, stream = [], NOW.current
        with NOW.executing():
            taken, more = tree_map_only(Tensor, take, (args, kwargs))
            if len(returns) > aliases:  # called once for the shapes and strides of new outputs
                changes = any(writes) or func is aten.native_batch_norm.default
                found = func(*(tree_map_only(Tensor, torch.clone, taken) if changes else taken), **more)
                outputs = [NOW.allocate(output) for output in list_tensors(found)[aliases:]]
        results, held = [o.data for o in outputs], [b for leaf in list_tensors(taken, more) if (b := NOW.find(leaf))]
        for block in held:
            block.held += 1

        def work() -> None:
            for leaf in list_tensors(taken, more):
                block, count = NOW.find(leaf), torch._C._storage_Use_Count(leaf.untyped_storage()._cdata)
                if block and stream not in (block.stream, *block.users) and count <= block.held + 1:
                    spoil(leaf)  # the host has freed it: nothing but queued work holds it
            computed = list_tensors(func(*taken, **more))
            for output, value in zip(results, computed[len(computed) - len(results) :], strict=True):
                output.copy_(value)
            for block in held:
                block.held -= 1

        if torch.Tag.nondeterministic_seeded not in func.tags:
            NOW.enqueue(work)
        elif NOW.recording and kwargs["generator"]._cdata not in NOW.recording.generators:
            raise RuntimeError("the generator is not registered with the graph")
        else:
            NOW.enqueue((launch,) if NOW.recording else launch())
        if copies and not later:
            NOW.wait()
        if not aliases:
            return found if outputs else None
        changed = [leaf for leaf, written in zip(args, writes, strict=False) if written] + [kwargs.get("out")]
        return changed[0] if len(returns) == 1 else (*changed[:-1], *outputs)


class Devices(TorchFunctionMode):  # makes tensors on the device, and lets the host read them
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if NOW.inside or name == "_parse_to" or func is torch.device:
            return func(*args, **kwargs)
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        on_device = tensor is not None and NOW.find(tensor) is not None
        named = [str(leaf).partition(":")[0] for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, DEVICE)]
        if name == "pin_memory":
            return NOW.allocate(tensor.clone(), pinned=True)
        if on_device and name == "__get__" and func.__self__ in (Tensor.device, Tensor.is_cuda):
            return CUDA if func.__self__ is Tensor.device else True
        if on_device and name == "__deepcopy__":
            return args[1].setdefault(id(tensor), tensor.detach().clone().requires_grad_(tensor.requires_grad))
        if on_device and (name in ("cpu", "tolist") or (name == "to" and "cpu" in named)):
            NOW.wait()
            with NOW.executing():
                return tensor.tolist() if name == "tolist" else tensor.clone()
        to_device = "cuda" in named and not on_device
        if to_device and name in FROM_HOST and NOW.recording:
            raise NOT_PERMITTED
        if "cuda" in named:
            args, kwargs = tree_map_only(DEVICE, lambda leaf: "cpu" if "cuda" in str(leaf) else leaf, (args, kwargs))
        value = func(*args, **kwargs)
        if not to_device:
            return value
        with NOW.executing():
            made = NOW.allocate(value.detach().clone().requires_grad_(value.requires_grad))
        NOW.enqueue(partial(made.data.copy_, value.detach().clone()))
        if name in FROM_HOST:
            NOW.wait()
        return made


@contextmanager
def simulated_cuda(policy: str | int = "late") -> Iterator[Simulator]:
    """Simulate a GPU inside: `torch.cuda`, and tensors on "cuda", are the simulation's."""
    global NOW
    NOW = Simulator(policy)
    NOW.default = NOW.current = Stream()
    generator, load, save = torch.Generator, torch.load, torch.save
    properties = SimpleNamespace(name="simulated", uuid="0", total_memory=2**37, major=9, minor=0)
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_name": "simulated",
               "get_device_properties": properties, "max_memory_allocated": 0, "set_rng_state": None}  # fmt: skip
    cuda = {name: lambda *_, answer=answer, **__: answer for name, answer in answers.items()} | {
        "Stream": Stream, "Event": Event, "CUDAGraph": CUDAGraph, "graph": record, "stream": NOW.on,
        "synchronize": lambda device=None: [NOW.wait(stream) for stream in NOW.streams],
        "current_stream": lambda device=None: NOW.current, "default_stream": lambda device=None: NOW.default,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
    }  # fmt: skip
    here = {"Generator": lambda device=None: generator(), "load": lambda f, map_location=None, **more: load(f, **more),
            "save": lambda *args: (NOW.wait(), NOW.executing()(save)(*args))}  # fmt: skip
    users = mock.patch.object(Tensor, "record_stream", lambda tensor, stream: NOW.find(tensor).users.add(stream))
    with users, mock.patch.multiple(torch.cuda, **cuda), mock.patch.multiple(torch, **here), Operators(), Devices():
        yield NOW
