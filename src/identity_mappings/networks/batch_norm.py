"""Batch normalization whose statistics are those of several devices, computed on one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Scope:
    """What all batch norms of a network see: whole batches, or the samples of one replica.

    Attributes:
        replica: whose samples come; None: whole batches.
        frozen: whether the moving statistics stay as they are, as in a forward pass that is made a second time.
    """

    def __init__(self) -> None:
        self.replica: int | None = None
        self.frozen = False

    @contextmanager
    def select(self, replica: int, repeated: bool = False) -> Iterator[None]:
        """Inside, the samples of one replica pass; `repeated`: for the second time."""
        before, self.replica, self.frozen = self.replica, replica, repeated
        try:
            yield
        finally:
            self.replica, self.frozen = before, False


class BatchNorm2d(nn.Module):
    """Batch norm over each of `replicas` parts of a batch, as data parallelism over so many devices computes it.

    he2016 (Appendix) trains with batches of 128 on 2 GPUs: each GPU normalizes its own 64 samples. Here sample i of a
    batch belongs to replica i mod `replicas`; the order of samples is random. A training step calls the network once a
    replica, with that replica's samples alone, which suits caches and needs no copy (`Scope.select`). A whole batch
    gives the same: (N, C, H, W) is (N / replicas, replicas * C, H, W) in memory.

    Args:
        channels: C of the input.
        replicas: number of parts, each normalized by itself; N must be a multiple of it in training.
        eps, momentum: as in torch.nn.BatchNorm2d.
        kept: whose moving statistics the test uses: "first-replica", or the "mean" over replicas.
        scope: shared by the batch norms of a network.

    Shape: (N, C, H, W) to the same. Buffers `running_mean` and `running_var` are (replicas, C).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        replicas: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        kept: str = "first-replica",
        scope: Scope | None = None,
    ):
        super().__init__()
        self.channels, self.replicas, self.eps, self.momentum, self.kept = channels, replicas, eps, momentum, kept
        self.scope = scope or Scope()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(replicas, channels))
        self.register_buffer("running_var", torch.ones(replicas, channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            statistics = self.running_mean, self.running_var
            mean, var = (s[0] if self.kept == "first-replica" else s.mean(0) for s in statistics)
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        if self.scope.replica is not None:
            mean, var = (s[self.scope.replica] for s in (self.running_mean, self.running_var))
            return self._normalize(x, mean, var, self.weight, self.bias)
        n, c, h, w = x.shape
        if n % self.replicas:
            raise ValueError(f"a batch of {n} cannot be split evenly over {self.replicas} replicas of batch norm")
        y = self._normalize(
            x.reshape(n // self.replicas, self.replicas * c, h, w),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.repeat(self.replicas),
            self.bias.repeat(self.replicas),
        )
        return y.reshape(n, c, h, w)

    def _normalize(self, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        momentum = 0 if self.scope.frozen else self.momentum
        return F.batch_norm(x, mean, var, weight, bias, training=True, momentum=momentum, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.channels}, replicas={self.replicas}"
