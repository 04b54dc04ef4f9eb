"""SGD by a recipe: schedule, momentum and weight decay."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.optim.sgd import sgd

from .assembly import decayed


def learning_rate(schedule: list[list[float]], iteration: int) -> float:
    """The rate of an iteration, counted from 0; `schedule` is [[from iteration, rate], ...] in order."""
    return next(rate for start, rate in reversed(schedule) if iteration >= start)


class Optimizer:
    """SGD with the recipe's schedule.

    Caffe keeps v = mu v + lr g and PyTorch v' = mu v' + g, w -= lr v'. They agree while the rate stands (v = lr v');
    Caffe's form is had by scaling PyTorch's buffers by old rate / new rate where the rate changes.
    """

    def __init__(self, network: nn.Module, recipe: SimpleNamespace):
        self.recipe = recipe
        self.rate = learning_rate(recipe.learning_rate, 0)
        # On the device, so that a captured step reads the rate that is there when it is replayed. The fused update of a
        # GPU reads float32.
        device = next(network.parameters()).device
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.device_rate = torch.tensor(self.rate, dtype=dtype, device=device)
        with_decay, without = decayed(network, recipe.weight_decay_on)
        self.groups = [  # parameters, their momentum, their weight decay
            (parameters, [torch.zeros_like(parameter) for parameter in parameters], weight_decay)
            for parameters, weight_decay in ((with_decay, recipe.weight_decay), (without, 0.0))
        ]
        self.parameters = [parameter for parameters, _, _ in self.groups for parameter in parameters]
        self.momentum = [buffer for _, buffers, _ in self.groups for buffer in buffers]

    def prepare(self, iteration: int) -> None:
        """Set the rate of an iteration, from the host."""
        rate = learning_rate(self.recipe.learning_rate, iteration)
        if rate == self.rate:
            return
        if self.recipe.momentum_form == "caffe":
            for buffer in self.momentum:
                buffer.mul_(self.rate / rate)
        self.rate = rate
        self.device_rate.fill_(rate)

    @torch.no_grad()
    def update(self) -> None:
        """Update the weights that have gradients.

        By the function behind `torch.optim.SGD`, whose class imports the compiler: 1.5 s at the start of every run.
        """
        for parameters, buffers, weight_decay in self.groups:
            updated = [pair for pair in zip(parameters, buffers, strict=True) if pair[0].grad is not None]
            sgd(
                [parameter for parameter, _ in updated],
                [parameter.grad for parameter, _ in updated if parameter.grad is not None],
                [buffer for _, buffer in updated],
                fused=True,
                lr=self.device_rate,  # type: ignore[arg-type]  # a tensor will do
                momentum=self.recipe.momentum,
                nesterov=self.recipe.nesterov,
                weight_decay=weight_decay,
                dampening=0.0,
                maximize=False,
            )

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict:
        return {"rate": self.rate, "momentum": self.momentum}

    def load_state_dict(self, state: dict) -> None:
        self.rate = state["rate"]
        self.device_rate.fill_(self.rate)
        for buffer, saved in zip(self.momentum, state["momentum"], strict=True):
            buffer.copy_(saved)
