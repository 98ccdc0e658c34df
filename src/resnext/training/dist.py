"""[torch] The processes of a run: one, or as many as torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

TIMEOUT = timedelta(minutes=10)  # after which a process that waits gives up


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Which process this is.

    Args:
        rank: From 0; 0 writes files and prints.
        world_size: How many there are.
        device: What this one computes on.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, value: object) -> bool:
        """Tell whether all processes have the same value."""
        if self.world_size == 1:
            return True
        values: list[object] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return all(other == value for other in values)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: "cpu" or "cuda"; None for CUDA where there is one.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes(device=torch.device(kind))
        return
    chosen = torch.device(kind)
    if kind == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(
            rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=chosen
        )
    finally:
        distributed.destroy_process_group()


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """Return a model whose gradients are means over all processes."""
    if processes.world_size == 1:
        return model
    ids = [processes.device] if processes.device.type == "cuda" else None
    # Batch norm statistics stay those of each process until they are averaged.
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


@torch.no_grad()
def average_statistics(model: nn.Module, processes: Processes) -> None:
    """Give the batch norms of all processes the mean of their running statistics."""
    if processes.world_size == 1:
        return
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            distributed.all_reduce(buffer)
            buffer.div_(processes.world_size)


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm whose statistics are over the batches of all processes, on any device.

    torch's own works on CUDA only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        if not self.training or not distributed.is_initialized():
            return super().forward(input)
        x = input.float()
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        sums = torch.cat([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), count])
        sums = distributed.nn.functional.all_reduce(sums)  # type: ignore[attr-defined]
        channels, total = x.shape[1], sums[-1]
        mean = sums[:channels] / total
        variance = sums[channels : 2 * channels] / total - mean * mean
        self._remember(mean.detach(), variance.detach(), float(total))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, channels, 1, 1)
        result = (x - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        typed: Tensor = result.to(input.dtype)
        return typed

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Make every batch norm take its statistics over all processes, in place."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.to(child.weight.device))
        else:
            synchronize_batch_norm(child)
