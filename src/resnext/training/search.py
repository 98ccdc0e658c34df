"""[train] Found by trial: learning rate, device batch, test size.

Source: the sweep over learning rates arXiv:1506.01186; the gain from testing at a larger
size than was trained at arXiv:1906.06423.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed

from resnext.errors import ConfigError, OutOfMemoryError, TrainingError
from resnext.network import ResNeXt
from resnext.training import augment, memory, settings
from resnext.training.config import EMAConfig, ScheduleConfig
from resnext.training.dist import Processes
from resnext.training.feed import Batch, Pictures, feed
from resnext.training.loop import train_step
from resnext.training.score import Scores, evaluate
from resnext.training.state import Run, TrainState, start

CPU_PIXELS = 32 * 224 * 224  # of a device batch: 32 pictures of 224, about 3 GB in training

_LOWEST, _HIGHEST = 1e-3, 1e2  # of the sweep, as shares of the recipe's learning rate
_STEPS = 100
_SMOOTHING = 0.9  # share of the old mean of the loss that stays
_WINDOW = 4  # steps before and after that a slope is taken over: single ones are noise
_BLOWN_UP = 4.0  # times the lowest loss
_SAFE = 0.1  # of the rate at which the loss blows up


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What a sweep over learning rates found.

    Args:
        lrs: Learning rates tried, ascending.
        losses: Smoothed loss after each.
        suggested: The one to train with.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


def find_lr(run: Run, *, num_steps: int = _STEPS) -> Sweep:
    """Try learning rates from low to high, a step each, on a network that is thrown away.

    Every process does the same on the whole batch, so no process waits for another.

    Args:
        run: What is to be trained; its learning rate is the middle of what is tried.
        num_steps: Steps of the sweep.

    Raises:
        ConfigError: The loss never falls.
    """
    alone = _alone(run)
    state = start(alone)
    base = [group["base_lr"] for group in state.optimizer.param_groups]
    center = run.config.optim.scaled_lr
    lrs: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for index, (pixels, labels) in enumerate(_batches(alone, num_steps)):
        factor = _LOWEST * (_HIGHEST / _LOWEST) ** (index / max(num_steps - 1, 1))
        for group, lr in zip(state.optimizer.param_groups, base, strict=True):
            group["base_lr"] = lr * factor
        try:
            loss = train_step(state, pixels, labels, alone)
        except TrainingError:
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        lrs.append(center * factor)
        losses.append(mean / (1 - _SMOOTHING ** (index + 1)))
        if losses[-1] > _BLOWN_UP * min(losses):
            break
    return Sweep(lrs=tuple(lrs), losses=tuple(losses), suggested=choose_lr(lrs, losses))


def choose_lr(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Choose where the loss falls fastest, or a tenth of where it blows up if that is more.

    Never more than the rate with the lowest loss.

    Args:
        lrs: Learning rates, ascending by a constant factor; the last is where it blew up,
            or the highest tried.
        losses: Smoothed loss after each.

    Raises:
        ConfigError: The loss never falls.
    """
    # The first few are means of few losses, each of another batch.
    late = range(_WINDOW, len(losses))
    lowest = min(late, key=losses.__getitem__, default=0)
    if not late or losses[lowest] >= max(losses[:_WINDOW]):
        raise ConfigError(
            f"none of {len(lrs)} learning rates lowers the loss",
            hint="give --lr a number, or look at the pictures and labels",
        )
    slopes = [
        losses[min(index + _WINDOW, lowest)] - losses[max(index - _WINDOW, 0)]
        for index in range(lowest + 1)
    ]
    steepest = min(range(len(slopes)), key=slopes.__getitem__)
    return min(lrs[lowest], max(lrs[steepest], lrs[-1] * _SAFE))


def find_parts(run: Run) -> int:
    """Return in how many parts a device's share of a batch is computed.

    On CUDA, as few as fit into memory, by trial: 1, 2, 4 and so on. On the processor, as
    many as make a part of `CPU_PIXELS`. No part is too small for a batch norm. All processes
    get the same answer.

    Args:
        run: What is to be trained.

    Raises:
        OutOfMemoryError: Not even the fewest pictures fit.
    """
    share = math.ceil(run.config.optim.batch_size / run.processes.world_size)
    most = settings.most_parts(run.config, run.processes.world_size)
    if run.processes.device.type == "cuda":
        found = _largest(run, share, most)
    else:
        found = min(math.ceil(share * run.config.data.train_size**2 / CPU_PIXELS), most)
    agreed: int = max(run.processes.gather(found))
    return agreed


def _largest(run: Run, share: int, most: int) -> int:
    """Try one step with ever smaller parts until one fits."""
    parts = 1
    while not _fits(run, share, parts):
        if parts == most:
            raise OutOfMemoryError(
                f"{math.ceil(share / parts)} pictures of {run.config.data.train_size} pixels, the"
                " fewest for a batch norm, do not fit into the memory of the device",
                hint="try a smaller data.train_size or another --model",
            )
        parts = min(parts * 2, most)
    return parts


def _fits(run: Run, share: int, parts: int) -> bool:
    """Tell whether there is memory enough for steps of a network that is thrown away."""
    trial = _alone(run)
    optim = replace(trial.config.optim, grad_accum_steps=parts)
    # The mean is a second network, which takes its memory too.
    config = replace(trial.config, optim=optim, ema=run.config.ema)
    try:
        _try_steps(replace(trial, config=config), share, parallel=run.processes.world_size > 1)
        fits = True
    except RuntimeError as error:
        if not memory.is_short(error):
            raise
        fits = False
    if run.processes.device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _try_steps(run: Run, share: int, *, parallel: bool) -> None:
    size, classes = run.config.data.train_size, run.train.num_classes
    pixels = torch.zeros(share, 3, size, size, dtype=torch.uint8)
    several = run.train.multi_label
    labels = torch.zeros(share, classes) if several else torch.zeros(share, dtype=torch.long)
    state = start(run)
    buckets = _buckets(state) if parallel else []
    for _ in range(2):  # the optimizer takes its memory in the first
        train_step(state, pixels, labels, run)
    del buckets


def _buckets(state: TrainState) -> list[Tensor]:
    """Take the memory in which processes exchange gradients, as large as these."""
    return [torch.empty_like(parameter) for parameter in state.model.parameters()]


@torch.no_grad()
def find_test_size(model: ResNeXt, run: Run, sizes: Sequence[int]) -> dict[int, Scores]:
    """Evaluate a network at several test sizes, with the same share cut away.

    Args:
        model: The network, with the weights that the first process has.
        run: Has the test pictures.
        sizes: Sides of the test crops.

    Returns:
        The scores of each size, ascending; the run's own size is always among them.
    """
    if run.processes.world_size > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)
    found = {}
    for size in sorted({*sizes, run.config.data.test_size}):
        found[size] = evaluate(model, at_test_size(run, size))
    return found


def at_test_size(run: Run, size: int) -> Run:
    """Return a run that is evaluated at another size, with the same share cut away."""
    return replace(run, config=replace(run.config, data=run.config.data.at_test_size(size)))


def _alone(run: Run) -> Run:
    """Return the run as one process would do it, at a constant rate and without a mean."""
    config = replace(
        run.config,
        compile="",  # which would take longer than the trial
        schedule=ScheduleConfig(epochs=1, kind="step"),
        ema=EMAConfig(),
        model=replace(run.config.model, sync_batch_norm=False),
        optim=replace(
            run.config.optim,
            grad_accum_steps=max(run.config.optim.grad_accum_steps, 1) * run.processes.world_size,
        ),
    )
    return replace(run, config=config, processes=Processes(device=run.processes.device))


def _batches(run: Run, count: int) -> Iterator[Batch]:
    order, config = run.order, run.config
    pictures = Pictures(run.train, augment.TrainTransform(config.data, config.augment))
    places = [divmod(index, order.steps) for index in range(count)]
    batches = [order.share(epoch, step, rank=0, world_size=1) for epoch, step in places]
    return feed(pictures, batches, num_workers=config.data.num_workers)
