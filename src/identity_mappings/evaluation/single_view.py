"""CIFAR's protocol: the single original view of every test image (he2015, Section 4.2)."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.batch_norm import BatchNorm2d


class Result(NamedTuple):
    """Wrong predictions, images, and the mean loss; a prediction from numbers that are not finite is wrong.

    `wrong_top_5`, where a protocol counts it: images whose label is not among the first five.
    """

    wrong: int
    images: int
    loss: float
    wrong_top_5: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As records state it, the errors in percent."""
        numbers = {
            "test_error": round(100 * self.wrong / self.images, 6),
            "wrong": self.wrong,
            "images": self.images,
            "test_loss": self.loss if math.isfinite(self.loss) else None,
        }
        if self.wrong_top_5 is not None:
            numbers["top_5_error"] = round(100 * self.wrong_top_5 / self.images, 6)
            numbers["wrong_top_5"] = self.wrong_top_5
        return numbers


def count_errors(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (N, classes) and labels (N): number of wrong predictions, and sum of the losses."""
    correct = (scores.argmax(1) == labels) & scores.isfinite().all(1)
    return (~correct).sum(), F.cross_entropy(scores, labels, reduction="sum")


@torch.no_grad()
def test_single_view(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    normalize: Callable[[Tensor], Tensor],
    batch_size: int = 500,
    counted: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Result:
    """Test error over `images`, uint8 (N, C, H, W), with `labels` (N); leaves the network in training mode.

    Args:
        counted: `count_errors` of the network's scores for images and labels, where that is done in a way of its own.
    """
    network.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        found = counted(x, y) if counted else count_errors(network(normalize(x)).float(), y)
        wrong += found[0]
        loss += found[1]
    network.train()
    return Result(int(wrong), len(labels), float(loss) / len(labels))


@torch.no_grad()
def recompute_statistics(
    network: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object] | None = None
) -> None:
    """Replace batch norm's moving averages by plain ones over the batches, as the authors did for released models.

    Args:
        forward: passes a batch through the network; None: the batch is its input.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()  # no dropout
    for norm in norms:
        norm.train()
        norm.running_mean.zero_()  # so that nothing of the old is left, were it not a number
        norm.running_var.zero_()
    for count, batch in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / count
        (forward or network)(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train()
