"""[torch] The processes of a run: one, or as many as torchrun started."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from resnext.errors import ConfigError, ResNeXtError, TrainingError

TIMEOUT = 600.0  # seconds after which a process that waits for another gives up


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

    def mean(self, values: Tensor) -> Tensor:
        """Average over all processes, in place."""
        return self.sum(values).div_(self.world_size)

    def any(self, *wishes: bool) -> list[bool]:
        """Tell of each wish whether any process has it."""
        if self.world_size == 1:
            return list(wishes)
        counts = self.sum(torch.tensor([float(wish) for wish in wishes], device=self.device))
        return [count > 0 for count in counts.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the value that each process has, by rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value)
        return values

    def agree(self, value: object) -> bool:
        """Tell whether all processes have the same value."""
        return all(other == value for other in self.gather(value))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            distributed.barrier()


def has_cuda() -> bool:
    """Tell whether there is a CUDA device."""
    return torch.cuda.is_available()


def kind_of(device: torch.device) -> str:
    """Return the name of what computes, which devices of the same kind share."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _check_device(kind: str) -> None:
    if kind not in ("cpu", "cuda"):
        raise ConfigError(
            f"the device is {kind!r}; expected cpu or cuda",
            hint="one of several GPUs is chosen with CUDA_VISIBLE_DEVICES=1",
        )
    if kind == "cuda" and not has_cuda():
        raise ConfigError(
            "the device is cuda, and torch finds none here",
            hint="try --device cpu, or install a torch that is built for this GPU's driver",
        )


@contextlib.contextmanager
def joined(device: str | None = None, *, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: "cpu" or "cuda"; None for CUDA where there is one.
        timeout: Seconds after which a process that waits for another gives up.

    Raises:
        ConfigError: There is no such device.
        TrainingError: The others cannot be reached.
    """
    kind = device or ("cuda" if has_cuda() else "cpu")
    _check_device(kind)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes(device=torch.device(kind))
        return
    chosen = torch.device(kind)
    if kind == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    try:
        distributed.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout),
            device_id=chosen if kind == "cuda" else None,
        )
    except distributed.DistError as error:
        raise TrainingError(
            f"process {os.environ['RANK']} cannot reach the others:"
            f" {(str(error) or type(error).__name__).splitlines()[0]}",
            hint="look at what torchrun was told: --nnodes, --rdzv-endpoint, --master-addr",
        ) from error
    try:
        yield Processes(
            rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=chosen
        )
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def naming_lost_processes(processes: Processes) -> Iterator[None]:
    """Say so when another process of the run ended or no longer answers.

    Raises:
        TrainingError: That is what happened.
    """
    try:
        yield
    except ResNeXtError:
        raise
    except RuntimeError as error:
        # gloo has no exception of its own.
        lost = isinstance(error, distributed.DistError) or "gloo" in str(error)
        if processes.world_size == 1 or not lost:
            raise
        raise TrainingError(
            f"process {processes.rank} lost another of the {processes.world_size} processes, which"
            f" ended or no longer answers: {str(error).splitlines()[0]}",
            hint="the others' output says why; the same command goes on from the last checkpoint",
        ) from error


def wrap(model: nn.Module, processes: Processes, *, partly_frozen: bool = False) -> nn.Module:
    """Return a model whose gradients are means over all processes.

    Args:
        model: On its device.
        processes: That have the same model.
        partly_frozen: Whether there are steps in which some parameters get no gradient.
    """
    if processes.world_size == 1:
        return model
    parallel = nn.parallel.DistributedDataParallel
    options: dict[str, Any] = {"find_unused_parameters": partly_frozen}
    if processes.device.type == "cuda":
        options["device_ids"] = [processes.device]
    # Buffers stay those of each process: `average_statistics` does better. torch 2.15 renamed it.
    names = ("forward_sync_buffers", "broadcast_buffers")
    options[next(n for n in names if n in inspect.signature(parallel).parameters)] = False
    return parallel(model, **options)


@torch.no_grad()
def average_statistics(model: nn.Module, processes: Processes) -> None:
    """Give the batch norms of all processes the mean of their running statistics.

    Done after every step, all processes have the same model at any time, so the checkpoint
    of one is that of all. Synchronized and frozen batch norms have the same ones anyway.
    """
    if processes.world_size == 1:
        return
    norms = [m for m in model.modules() if type(m) is nn.BatchNorm2d and m.training]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if not buffers:
        return
    means = processes.mean(torch.cat(buffers))
    for buffer, mean in zip(buffers, torch.split(means, [len(b) for b in buffers]), strict=True):
        buffer.copy_(mean)


class _Sum(torch.autograd.Function):
    """The sum over all processes; the gradient of each is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm whose statistics are over the batches of all processes, on any device.

    torch's own works on CUDA only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        if not self.training or not distributed.is_initialized():
            return super().forward(input)
        assert self.running_mean is not None
        channels = input.shape[1]
        # Around the running mean, or the difference of two large numbers would be the variance.
        shift = self.running_mean.clone()
        x = input.float() - shift.reshape(1, channels, 1, 1)
        count = torch.tensor([float(x.numel() // channels)], device=x.device)
        sums = torch.cat([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), count])
        sums = _Sum.apply(sums)
        total = sums[-1]
        mean = sums[:channels] / total
        variance = (sums[channels : 2 * channels] / total - mean * mean).clamp(min=0)
        self._remember(shift + mean.detach(), variance.detach(), total.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, channels, 1, 1)
        result = (x - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        typed: Tensor = result.to(input.dtype)
        return typed

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
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
