"""SGD by a recipe: schedule, momentum and weight decay."""

from types import SimpleNamespace

import torch
from torch import nn

from .assembly import decayed


def learning_rate(schedule: list[list[float]], iteration: int) -> float:
    """The rate of an iteration, counted from 0; `schedule` is [[from iteration, rate], ...] in order."""
    return next(rate for start, rate in reversed(schedule) if iteration >= start)


class Optimizer:
    """SGD with the recipe's schedule. `step(iteration)` updates the weights from their gradients.

    Caffe keeps v = mu v + lr g and PyTorch v' = mu v' + g, w -= lr v'. They agree while the rate stands (v = lr v');
    Caffe's form is had by scaling PyTorch's buffers by old rate / new rate where the rate changes.
    """

    def __init__(self, network: nn.Module, recipe: SimpleNamespace):
        self.recipe = recipe
        with_decay, without = decayed(network, recipe.weight_decay_on)
        groups = [{"params": with_decay, "weight_decay": recipe.weight_decay}, {"params": without, "weight_decay": 0.0}]
        self.sgd = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=learning_rate(recipe.learning_rate, 0),
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def step(self, iteration: int) -> None:
        rate = learning_rate(self.recipe.learning_rate, iteration)
        for group in self.sgd.param_groups:
            if rate != group["lr"] and self.recipe.momentum_form == "caffe":
                for parameter in group["params"]:
                    buffer = self.sgd.state.get(parameter, {}).get("momentum_buffer")
                    if buffer is not None:
                        buffer.mul_(group["lr"] / rate)
            group["lr"] = rate
        self.sgd.step()

    def zero_grad(self) -> None:
        self.sgd.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return self.sgd.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.sgd.load_state_dict(state)
