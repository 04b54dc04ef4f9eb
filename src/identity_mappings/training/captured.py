"""Work that is recorded once as a CUDA graph and replayed, so that a step costs one launch and not a thousand."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import RecordingFailed, UserError
from .group import first_line

WARM_UP = 2  # calls before a recording: libraries choose algorithms and take workspaces in the first ones
CHECKED = 2  # first calls for a key whose graph is compared with the function


class Kept(NamedTuple):
    """Copies of all that a call changes."""

    tensors: list[Tensor]
    generators: list[Tensor]  # their states


class Graph(NamedTuple):
    """A recorded call."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]  # where a replay reads them
    outputs: list[Tensor]  # where it leaves them: the next replay writes there again

    def replay(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for tensor, given in zip(self.inputs, inputs, strict=True):
            tensor.copy_(given)
        self.graph.replay()
        return [output.clone() for output in self.outputs]


class Captured:
    """A function of tensors of fixed shapes, replayed as a CUDA graph; where there is no GPU it is simply called.

    The function must be the same work at every call: it reads what its inputs, and what it closes over, hold then.
    All calls belong on one stream, the one that is current. A graph is recorded for each key.

    Calls check themselves: the first `CHECKED` ones for a key are also made without the graph, from the same state, and
    compared bit by bit. The calls that warm up for the recording are among them. Where they differ, the result of the
    function stands, nothing is replayed any more, and `failure` says why.

    Args:
        function: of the key and the input tensors, to tensors.
        state: all tensors that the function changes besides its outputs.
        device: "cuda" records, others call.
        generators: random number generators that the function draws from.

    Raises:
        RecordingFailed: the function cannot be recorded (it waits for the device, as `item()` does).
        UserError: the function cannot be computed on this device.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        state: Callable[[], Sequence[Tensor]],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
    ):
        self.function, self.state, self.generators = function, state, generators
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # that records
        self.graphs: dict[Any, Graph] = {}
        self.calls: dict[Any, int] = {}  # that were checked, by key
        self.failure: str | None = None

    def __call__(self, key: Any, *inputs: Tensor) -> list[Tensor]:
        if self.stream is None or self.failure:
            return list(self.function(key, *inputs))
        if self.calls.get(key, 0) < CHECKED:
            return self._check(key, inputs)
        return self.graphs[key].replay(inputs)

    def clear(self) -> None:
        """Forget the graphs, and with them their memory."""
        self.graphs.clear()
        self.calls.clear()

    def _check(self, key: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call the function and replay its graph, both from the present state, and compare."""
        before = self._keep()
        for _ in range(1 if key in self.graphs else WARM_UP):
            self._restore(before)
            called, after = self._call(key, inputs), self._keep()
        self._restore(before)
        del before
        if key not in self.graphs:
            self.graphs[key] = self._record(key, inputs)
        replayed = self.graphs[key].replay(inputs)
        self.calls[key] = self.calls.get(key, 0) + 1
        if not self._is_same([*called, *after.tensors], [*replayed, *self.state()], after.generators):
            self.failure = "the CUDA graph of a step gives other bits than the step itself"
            self._restore(after)
            self.clear()
        return called

    def _call(self, key: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call the function on the stream that records: autograd's nodes keep the stream of their first call."""
        try:
            with self._on_recording_stream():
                return list(self.function(key, *inputs))
        except RuntimeError as error:
            cure = ""
            if isinstance(error, torch.OutOfMemoryError):
                cure = ": train fewer runs at once (--config runs_per_gpu=1), or compute units again (--recompute)"
            raise UserError(f"a step cannot be computed on this device ({first_line(error)}){cure}") from error

    @contextmanager
    def _on_recording_stream(self) -> Iterator[None]:
        assert self.stream is not None, "work is recorded on GPUs only"
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def _record(self, key: Any, inputs: Sequence[Tensor]) -> Graph:
        held = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        gc.collect()  # a graph that is freed while another is recorded spoils it
        gc.disable()
        try:
            # "thread_local": another thread, which pins the next batch's memory, may go on meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                outputs = list(self.function(key, *held))
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # leaving torch.cuda.graph raises an error of its own
                cause = cause.__context__
            raise RecordingFailed(f"the step cannot be recorded as a CUDA graph ({first_line(cause)})") from error
        finally:
            gc.enable()
        return Graph(graph, held, outputs)

    @torch.no_grad()
    def _keep(self) -> Kept:
        return Kept([tensor.clone() for tensor in self.state()], [g.get_state() for g in self.generators])

    @torch.no_grad()
    def _restore(self, kept: Kept) -> None:
        for tensor, old in zip(self.state(), kept.tensors, strict=True):
            tensor.copy_(old)
        for generator, old in zip(self.generators, kept.generators, strict=True):
            generator.set_state(old)

    @torch.no_grad()
    def _is_same(self, first: Sequence[Tensor], second: Sequence[Tensor], generators: Sequence[Tensor]) -> bool:
        """Whether all bits are the same, also of what is no number."""
        return all(
            torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
            for a, b in zip(first, second, strict=True)
        ) and all(torch.equal(old, g.get_state()) for g, old in zip(self.generators, generators, strict=True))
