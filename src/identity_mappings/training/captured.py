"""Work that is recorded once as a CUDA graph and replayed, so that a step costs one launch and not a thousand."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

WARM_UP = 2  # calls before the recording: libraries choose algorithms and take workspaces in the first ones


class Captured:
    """A function of tensors of fixed shapes, replayed as a CUDA graph; where there is no GPU it is simply called.

    The function must be the same work at every call: it reads what its inputs, and what it closes over, hold then.
    A graph is recorded for each key. Its outputs stay the same memory: they are copied before they are returned.

    Args:
        function: of the key and the input tensors, to tensors.
        state: all tensors that the function changes besides its outputs: put back after the warm-up.
        device: "cuda" records, others call.
        generators: random number generators that the function draws from.

    Raises:
        UserError: the function cannot be recorded (it waits for the device, as `item()` does).
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        state: Callable[[], Sequence[Tensor]],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
    ):
        self.function, self.state, self.generators = function, state, generators
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graphs: dict[Any, tuple[Any, list[Tensor], list[Tensor]]] = {}

    def __call__(self, key: Any, *inputs: Tensor) -> list[Tensor]:
        if self.stream is None:
            return list(self.function(key, *inputs))
        if key not in self.graphs:
            self.graphs[key] = self._record(key, inputs)
        graph, held, outputs = self.graphs[key]
        with self.before():  # on a stream of its own: those of several runs overlap
            for tensor, given in zip(held, inputs, strict=True):
                tensor.copy_(given)
            graph.replay()
            return [output.clone() for output in outputs]

    def before(self) -> AbstractContextManager:
        """Context for writing the next call's inputs: after all calls so far, which may still read the last ones."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        return torch.cuda.stream(self.stream)

    def wait(self) -> None:
        """Let the current stream see what was replayed."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)

    def _record(self, key: Any, inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor], list[Tensor]]:
        held = [tensor.clone() for tensor in inputs]
        with torch.no_grad():
            before = [tensor.clone() for tensor in self.state()]
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        try:
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UP):
                    self.function(key, *held)
                with torch.no_grad():
                    for tensor, old in zip(self.state(), before, strict=True):
                        tensor.copy_(old)
            self.stream.synchronize()
            # "thread_local": another thread, which pins the next batch's memory, may go on meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                outputs = list(self.function(key, *held))
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise UserError(f"the step cannot be captured as a CUDA graph ({first}): call with --eager") from None
        return graph, held, outputs
