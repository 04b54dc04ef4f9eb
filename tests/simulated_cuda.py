"""A GPU that is simulated on the CPU, as unkind as the rules of CUDA allow: it shows missing waits between streams.

    with simulated_cuda("late"):
        train(experiment, 0, Options(results, device="gpu"))

A real GPU hides most mistakes in the order of work: a stream that is not waited for has usually finished. Here every
operator on a tensor of the device is queued on the current stream, and executed only when a rule forces it: a
synchronize, an event, or a read on the host, which waits for the current stream alone. Until then its outputs hold NaN
(0 for integers), which is what anybody sees who reads too early. Numbers are the CPU's, so that a correct program gives
the bits of a plain run on the CPU, whatever the policy, and a mistake gives others, or NaN.

Policies say which streams run as early as their waits permit: "late": none; "default": the default stream; "side": all
others; a number: at each step streams that this seed draws.

What is simulated, by patching `torch.cuda` and with a TorchFunctionMode (devices, reads on the host) and a
TorchDispatchMode (operators):

- `Stream`, `stream`, `current_stream`, `wait_stream`, `wait_event`, `Event`, `synchronize`.
- `CUDAGraph` and `graph`: a recording keeps work and executes nothing; a replay queues it. Memory of a recording is
  garbage again when a replay begins. What waits for the device, or copies from the host, ends a recording, as does a
  graph that is freed meanwhile; after a failed recording no memory can be had any more.
- Generators: numbers are drawn from where the generator stands when a kernel is launched; in a graph from where a
  registered one stands at the replay. Others end a recording.
- The caching allocator: memory that is freed on the host belongs to the stream that allocated it, and may be
  overwritten while another stream still reads it, unless `record_stream` says so.
- Copies: from pageable memory the host's content is taken at the call, from pinned memory (`pin_memory`, with
  `non_blocking`) when the copy is executed; all but non-blocking ones wait for the current stream.

Not simulated: several devices, other threads, what kernels compute on a GPU, and the sizes of its memory.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # modes import it, which must not see what is patched here
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
# Shapes of their outputs depend on numbers, which the host reads.
DYNAMIC = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}
NOT_PERMITTED = "operation not permitted when stream is capturing"


class Block(SimpleNamespace):
    """The memory of a tensor of the device: its reference, the stream that allocated it, others that may use it, and
    how many operators that are queued hold it."""


class Simulator:
    """The present simulation."""

    def __init__(self, policy: str | int):
        self.policy, self.random = policy, random.Random(policy if isinstance(policy, int) else 0)
        self.streams: list[Stream] = []
        self.default = self.current = Stream(simulator=self)
        self.blocks: dict[int, Block] = {}
        self.pinned: dict[int, StorageWeakRef] = {}
        self.recording: CUDAGraph | None = None
        self.spoilt: str | None = None  # why a recording failed
        self.replays = 0
        self.inside = False  # whether operators are executed, not queued

    def allocate(self, tensor: Tensor) -> None:
        if self.spoilt and not self.recording:
            raise RuntimeError(f"the allocator still records ({self.spoilt})")
        storage = tensor.untyped_storage()
        block = Block(reference=StorageWeakRef(storage), stream=self.current, users=set(), held=0)
        self.blocks[storage._cdata] = block
        if self.recording:
            self.recording.pool.append(tensor.data)

    def find(self, tensor: Tensor) -> Block | None:
        block = self.blocks.get(tensor.untyped_storage()._cdata)
        return None if block is None or block.reference.expired() else block

    def is_pinned(self, tensor: Tensor) -> bool:
        found = self.pinned.get(tensor.untyped_storage()._cdata)
        return found is not None and not found.expired()

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.recording and self.current is self.recording.stream:
            self.recording.nodes.append(work)
            return
        self.current.queue.append(work)
        if isinstance(self.policy, int):
            for stream in self.streams:
                stream.advance(self.random.choice((0, 0, 1, 5, 1000)))
        elif self.policy != "late":
            for stream in self.streams:
                if (stream is self.default) == (self.policy == "default"):
                    stream.advance()

    def wait_on_host(self, stream: "Stream | None" = None) -> None:
        if self.recording:
            raise RuntimeError(NOT_PERMITTED)
        (stream or self.current).finish()

    @contextmanager
    def executing(self) -> Iterator[None]:
        before, self.inside = self.inside, True
        try:
            yield
        finally:
            self.inside = before


NOW: Simulator | None = None


class Stream:
    """A queue of work, and of places of other queues that it waits for."""

    def __init__(self, device: Any = None, priority: int = 0, simulator: Simulator | None = None):
        self.device, self.queue, self.done = CUDA, [], 0
        self.simulator = simulator or NOW
        self.simulator.streams.append(self)

    def advance(self, most: int | None = None) -> None:
        """Execute what need not wait for other streams."""
        while self.done < len(self.queue) and most != 0:
            work = self.queue[self.done]
            if isinstance(work, tuple) and work[0].done < work[1]:
                return
            self.finish(self.done + 1)
            most = most and most - 1

    def finish(self, place: int | None = None) -> None:
        """Execute all work up to a place of the queue, and what it waits for."""
        place = len(self.queue) if place is None else place
        while self.done < place:
            work = self.queue[self.done]
            if isinstance(work, tuple):
                work[0].finish(work[1])
            else:
                with self.simulator.executing():
                    work()
            self.queue[self.done] = None
            self.done += 1

    def wait_stream(self, other: "Stream") -> None:
        self.queue.append((other, len(other.queue)))

    def wait_event(self, event: "Event") -> None:
        event.wait(self)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.simulator.wait_on_host(self)

    def query(self) -> bool:
        return self.done == len(self.queue)


class Event:
    def __init__(self, **_: Any):
        self.place: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or NOW.current
        self.place = stream, len(stream.queue)

    def wait(self, stream: Stream | None = None) -> None:
        if self.place:
            (stream or NOW.current).queue.append(self.place)

    def synchronize(self) -> None:
        if self.place:
            NOW.wait_on_host(self.place[0]) if NOW.recording else self.place[0].finish(self.place[1])

    def query(self) -> bool:
        return self.place is None or self.place[0].done >= self.place[1]


@contextmanager
def use_stream(stream: Stream | None) -> Iterator[None]:
    before = NOW.current
    NOW.current = stream or before
    try:
        yield
    finally:
        NOW.current = before


class CUDAGraph:
    """Recorded work: functions, and random operators that draw where their generator stands at a replay."""

    def __init__(self) -> None:
        self.nodes, self.pool, self.generators, self.simulator = [], [], [], NOW

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator._cdata)

    def replay(self) -> None:
        drawn = [node.draw() if isinstance(node, Draw) else node for node in self.nodes]

        def work() -> None:
            for tensor in self.pool:
                spoil(tensor)
            for node in drawn:
                node()

        NOW.replays += 1
        NOW.enqueue(work)

    def reset(self) -> None:
        self.nodes, self.pool = [], []

    def __del__(self) -> None:
        if self.simulator.recording:
            self.simulator.spoilt = "a graph was freed while another was recorded"


class record:
    """torch.cuda.graph."""

    def __init__(self, graph: CUDAGraph, pool: Any = None, stream: Stream | None = None, **_: Any):
        self.graph, self.graph.stream = graph, stream or Stream()

    def __enter__(self) -> None:
        synchronize()
        self.scope = use_stream(self.graph.stream)
        self.scope.__enter__()
        NOW.recording = self.graph

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        NOW.recording = None
        self.scope.__exit__(kind, error, trace)
        if error is not None:
            NOW.spoilt = str(error)
        if NOW.spoilt:
            raise RuntimeError(f"CUDA error: operation failed due to a previous error during capture: {NOW.spoilt}")


class Draw:
    """A random operator in a graph."""

    def __init__(self, operator: Any, target: Tensor, arguments: tuple, keywords: dict[str, Any]):
        self.operator, self.target, self.arguments, self.keywords = operator, target, arguments, keywords

    def draw(self) -> Callable[[], None]:
        with NOW.executing():
            values = self.operator(torch.empty_like(self.target), *self.arguments, **self.keywords)
        return lambda: self.target.copy_(values)


def spoil(tensor: Tensor) -> None:
    tensor.fill_(torch.nan if tensor.dtype.is_floating_point else 0)


def synchronize(device: Any = None) -> None:
    for stream in list(NOW.streams):
        NOW.wait_on_host(stream)


class Operators(TorchDispatchMode):
    """Queues operators on tensors of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if NOW.inside or not any(map(NOW.find, tensors)):
            return func(*args, **kwargs)
        schema = func._schema
        writes = [bool(a.alias_info and a.alias_info.is_write) for a in schema.arguments]
        if func is aten._unsafe_view.default or (any(r.alias_info for r in schema.returns) and not any(writes)):  # a view
            return func(*args, **kwargs)
        reads = not all("Tensor" in str(r.type) for r in schema.returns) or func in DYNAMIC or (
            func is aten.index.Tensor and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        )
        to_host = func is aten.copy_.default and not NOW.find(args[0])
        blocking = func is aten.copy_.default and bool(NOW.find(args[0])) != bool(NOW.find(args[1]))
        asynchronous = blocking and bool(kwargs.get("non_blocking", args[2:3] == (True,)))
        if reads or (to_host and not asynchronous):
            NOW.wait_on_host()
            with NOW.executing():
                found = func(*args, **kwargs)
            tree_map(lambda leaf: NOW.allocate(leaf) if isinstance(leaf, Tensor) and not to_host else None, found)
            return found
        if blocking and NOW.recording and not (asynchronous and NOW.is_pinned(args[1 if not to_host else 0])):
            raise RuntimeError(NOT_PERMITTED)
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self.draw(func, *args, **kwargs)

        def take(leaf: Any) -> Any:
            """A tensor that operators execute on later: the same memory, or for the host's the present content."""
            if not isinstance(leaf, Tensor):
                return leaf
            return leaf.data if NOW.find(leaf) or to_host or (asynchronous and NOW.is_pinned(leaf)) else leaf.clone()

        with NOW.executing():
            taken, more = tree_map(take, (args, kwargs))
            changes = any(writes) or func is aten.native_batch_norm.default
            outputs = []
            if len(schema.returns) > sum(bool(r.alias_info) for r in schema.returns):  # for shapes and strides
                copied = tree_map(lambda leaf: leaf.clone() if changes and isinstance(leaf, Tensor) else leaf, taken)
                found = func(*copied, **more)
                known = {leaf.untyped_storage()._cdata for leaf in tree_leaves(copied) if isinstance(leaf, Tensor)}
                outputs = [o for o in tree_leaves(found) if isinstance(o, Tensor)]
                outputs = [o for o in outputs if o.untyped_storage()._cdata not in known]
                for output in outputs:
                    NOW.allocate(output)
                    spoil(output)
        held = [NOW.find(leaf) for leaf in tree_leaves((taken, more)) if isinstance(leaf, Tensor) and NOW.find(leaf)]
        stream, results = NOW.current, [output.data for output in outputs]
        for block in held:
            block.held += 1

        def work() -> None:
            for leaf in tree_leaves((taken, more)):
                if isinstance(leaf, Tensor) and (block := NOW.find(leaf)) and is_reused(leaf, block, stream):
                    spoil(leaf)
            computed = [o for o in tree_leaves(func(*taken, **more)) if isinstance(o, Tensor)]
            for output, value in zip(results, computed[len(computed) - len(results) :], strict=True):
                output.copy_(value)
            for block in held:
                block.held -= 1

        NOW.enqueue(work)
        if not asynchronous and blocking:
            NOW.wait_on_host()
        if not any(writes):
            return found
        changed = [a for a, w in zip([*args, *kwargs.values()], writes, strict=False) if w and isinstance(a, Tensor)]
        if not schema.returns:
            return None
        if outputs:
            return (*outputs,) if len(schema.returns) == len(outputs) else (*changed, *outputs)
        return kwargs.get("out", changed[0])

    def draw(self, func: Any, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert func._schema.arguments[0].alias_info, f"{func} draws into new memory: not simulated"
        node = Draw(func, target.data, args, kwargs)
        if not NOW.recording:
            NOW.enqueue(node.draw())
        elif kwargs["generator"]._cdata not in NOW.recording.generators:
            raise RuntimeError("the generator is not registered with the graph")
        else:
            NOW.enqueue(node)
        return target


def is_reused(tensor: Tensor, block: Block, stream: Stream) -> bool:
    """Whether the host has freed memory that another stream allocated, before an operator on `stream` reads it."""
    if block.stream is stream or stream in block.users or isinstance(stream, type(None)):
        return False
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) <= block.held


class Devices(TorchFunctionMode):
    """Gives tensors of the simulated device, and lets the host read them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name, owner = getattr(func, "__name__", ""), getattr(func, "__self__", None)
        on_device = bool(args) and isinstance(args[0], Tensor) and NOW.find(args[0]) is not None
        if NOW.inside or name == "_parse_to" or func is torch.device:
            return func(*args, **kwargs)
        if name == "__get__" and on_device and owner in (Tensor.device, Tensor.is_cuda):
            return CUDA if owner is Tensor.device else True
        wanted = [leaf for leaf in (*args[1:], *kwargs.values()) if is_device(leaf)]
        to_host = name == "cpu" or (name == "to" and any(torch.device(leaf).type == "cpu" for leaf in wanted))
        if on_device and (to_host or name in ("tolist", "numpy", "__deepcopy__", "record_stream")):
            return self.read(name, func, args, kwargs)
        if name == "pin_memory":
            copy = args[0].clone()
            NOW.pinned[copy.untyped_storage()._cdata] = StorageWeakRef(copy.untyped_storage())
            return copy
        if not any(torch.device(leaf).type == "cuda" for leaf in (*wanted, *args[:1]) if is_device(leaf)):
            return func(*args, **kwargs)
        if NOW.recording and name in ("tensor", "as_tensor", "to", "cuda") and not on_device:
            raise RuntimeError(NOT_PERMITTED)  # a copy from the host
        args, kwargs = tree_map(lambda leaf: torch.device("cpu") if is_cuda(leaf) else leaf, (args, kwargs))
        found = func(*args, **kwargs)
        if on_device or not isinstance(found, Tensor):
            return found
        with NOW.executing():
            value = found.detach().clone()
            made = value.clone().requires_grad_(found.requires_grad)
            NOW.allocate(made)
            spoil(made.data)
            target = made.data
        NOW.enqueue(lambda: target.copy_(value))
        if name in ("tensor", "as_tensor", "to", "cuda") and not NOW.recording:
            NOW.wait_on_host()  # copies from the host are blocking
        return made

    def read(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        if name == "record_stream":
            NOW.find(tensor).users.add(args[1])
            return None
        if name == "__deepcopy__":
            return args[1].setdefault(id(tensor), tensor.detach().clone().requires_grad_(tensor.requires_grad))
        if name == "numpy":
            raise TypeError("can't convert a cuda tensor to numpy: use cpu() first")
        NOW.wait_on_host()
        with NOW.executing():
            copy = tensor.clone()
            return copy if name == "cpu" else func(copy, *args[1:], **kwargs)


def is_device(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf.partition(":")[0] in ("cuda", "cpu"))


def is_cuda(leaf: Any) -> bool:
    return is_device(leaf) and torch.device(leaf).type == "cuda"


@contextmanager
def simulated_cuda(policy: str | int = "late") -> Iterator[Simulator]:
    """Simulate a GPU inside; `torch.cuda` and tensors on "cuda" are the simulation's."""
    global NOW
    generator, load, save = torch.Generator, torch.load, torch.save

    def save_tensors(*args: Any, **kwargs: Any) -> None:
        NOW.wait_on_host()
        with NOW.executing():
            save(*args, **kwargs)

    properties = SimpleNamespace(name="simulated", uuid="0", total_memory=2**37, major=9, minor=0)
    cuda = {
        "Stream": Stream, "Event": Event, "CUDAGraph": CUDAGraph, "graph": record, "stream": use_stream,
        "synchronize": synchronize, "current_stream": lambda device=None: NOW.current,
        "default_stream": lambda device=None: NOW.default, "is_available": lambda: True, "device_count": lambda: 1,
        "current_device": lambda: 0, "set_device": lambda device: None, "empty_cache": lambda: None,
        "get_device_name": lambda device=None: "simulated", "get_device_properties": lambda device=None: properties,
        "max_memory_allocated": lambda device=None: 0, "reset_peak_memory_stats": lambda device=None: None,
        "is_current_stream_capturing": lambda: NOW.recording is not None,
        "get_rng_state": lambda device=None: torch.get_rng_state(), "set_rng_state": lambda state, device=None: None,
    }  # fmt: skip
    with ExitStack() as stack:
        before, NOW = NOW, Simulator(policy)
        stack.callback(globals().__setitem__, "NOW", before)
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        made = lambda device="cpu": generator()  # noqa: E731
        stack.enter_context(mock.patch.object(torch, "Generator", made))
        on_host = lambda file, map_location=None, **more: load(file, map_location="cpu", **more)  # noqa: E731
        stack.enter_context(mock.patch.object(torch, "load", on_host))
        stack.enter_context(mock.patch.object(torch, "save", save_tensors))
        stack.enter_context(Operators())
        stack.enter_context(Devices())
        yield NOW
