"""The processes that train one run together, one for each device: started by `torchrun`, or one alone."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError

TIMEOUT = timedelta(minutes=10)  # of an exchange: who waits longer has lost another
STARTED_BY = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"  # what torchrun sets


class Group:
    """One process of several that compute one step together.

    The replicas of a recipe (batch_size / batch_norm_samples; he2016: 8 of 32 images) are dealt out to the processes;
    the gradients are summed over all. So a run computes the same function whatever their number is, up to the order in
    which sums are rounded.

    Args:
        rank, size: of this process, and how many there are.
        local_rank, local_size: on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1):
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self.votes: distributed.ProcessGroup | None = None

    @classmethod
    def from_environment(cls) -> "Group":
        """As torchrun's environment says; alone where there is none."""
        if not all(name in os.environ for name in STARTED_BY):
            return cls()
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in STARTED_BY)
        return cls(rank, size, local_rank, local_size)

    @property
    def leads(self) -> bool:
        """Whether this process writes the record and speaks for all."""
        return self.rank == 0

    @contextmanager
    def joined(self, device: torch.device) -> Iterator["Group"]:
        """Meet the others; leave them in the end."""
        if self.size == 1:
            yield self
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        # Decisions are made on the host: they must not wait for a GPU's queue.
        self.votes = distributed.new_group(backend="gloo", timeout=TIMEOUT)
        try:
            yield self
        finally:
            if sys.exc_info()[0] is None:
                distributed.destroy_process_group()
            # Otherwise others may be gone, and leaving in order would wait for them.

    def get_share(self, replicas: int) -> list[int]:
        """The replicas that this process computes.

        Raises:
            UserError: there are more processes than replicas.
        """
        if self.size > replicas:
            raise UserError(
                f"{self.size} processes, but the recipe's batch has {replicas} part(s) with batch norm of their own: "
                f"start at most {replicas} (torchrun --nproc-per-node)"
            )
        return list(range(self.rank, replicas, self.size))

    def model(self, network: nn.Module) -> nn.Module:
        """The network, whose gradients are averaged over the processes in the last backward pass of a step."""
        if self.size == 1:
            return network
        devices = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
        # `find_unused_parameters` for its side effect: buckets stay as they are built, where otherwise the second step
        # regroups them, and a sum over more than two processes depends on a gradient's place in its bucket.
        return DistributedDataParallel(
            network, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True
        )

    def accumulating(self, model: nn.Module, last: bool) -> AbstractContextManager:
        """Around the forward and backward pass of a replica: gradients are exchanged behind the `last` only."""
        return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def same(self, value: object) -> bool:
        """Whether all processes have the same value."""
        if self.size == 1:
            return True
        values: list[object] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.votes)
        return values.count(value) == self.size

    def any(self, *flags: bool) -> Sequence[bool]:
        """For each flag, whether a process has it set."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self.votes)
        return [bool(vote) for vote in votes]


def is_lost_worker(error: RuntimeError, group: Group) -> bool:
    """Whether an error says that another process of the group is gone."""
    text = str(error)
    # gloo has no class of its own
    lost = isinstance(error, distributed.DistError) or "gloo" in text.lower() or "closed by peer" in text
    return group.size > 1 and lost


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
