"""SGD by a recipe: schedule, momentum and weight decay."""

from types import SimpleNamespace

import torch
from torch import nn

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
        groups = [{"params": with_decay, "weight_decay": recipe.weight_decay}, {"params": without, "weight_decay": 0.0}]
        self.sgd = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.device_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            fused=True,
        )
        self.parameters = [parameter for group in self.sgd.param_groups for parameter in group["params"]]
        for parameter in self.parameters:  # at once, not in the first step: every step is the same work
            self.sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def prepare(self, iteration: int) -> None:
        """Set the rate of an iteration, from the host."""
        rate = learning_rate(self.recipe.learning_rate, iteration)
        if rate == self.rate:
            return
        if self.recipe.momentum_form == "caffe":
            for parameter in self.parameters:
                self.sgd.state[parameter]["momentum_buffer"].mul_(self.rate / rate)
        self.rate = rate
        self.device_rate.fill_(rate)

    def update(self) -> None:
        """Update the weights from their gradients."""
        self.sgd.step()

    def zero_grad(self) -> None:
        self.sgd.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return {"rate": self.rate, "momentum": [self.sgd.state[p]["momentum_buffer"] for p in self.parameters]}

    def load_state_dict(self, state: dict) -> None:
        self.rate = state["rate"]
        self.device_rate.fill_(self.rate)
        for parameter, buffer in zip(self.parameters, state["momentum"], strict=True):
            self.sgd.state[parameter]["momentum_buffer"].copy_(buffer)
