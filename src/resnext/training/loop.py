"""[train] The training loop: one step, one epoch, one run.

Everything random in a step follows from seed, step and rank, so a run that was killed goes
on with the bits it would have had. N pictures, K classes.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from resnext.errors import TrainingError
from resnext.network import ResNeXt
from resnext.training import augment, checkpoint, dist, losses, optim
from resnext.training.feed import Pictures, feed
from resnext.training.score import Scores, evaluate
from resnext.training.state import Run, TrainState, start

_STEPS_BETWEEN_TALKS = 10  # processes ask each other about signals and time


def train_step(state: TrainState, pixels: Tensor, labels: Tensor, run: Run) -> float:
    """Change the weights once, by one batch.

    Args:
        state: Changed in place.
        pixels: (N, 3, S, S) uint8, this process's share of the batch.
        labels: (N,) class indices or (N, K) of 0 and 1.
        run: What stays the same.

    Returns:
        The mean loss of this share.

    Raises:
        TrainingError: The loss is no longer a number.
    """
    config = run.config
    torch.manual_seed(_key(config.seed, state.step, run.processes.rank))
    epoch = state.step / run.order.steps
    factor = optim.lr_factor(config.schedule, epoch)
    optim.set_lr(state.optimizer, factor)
    _set_mode(state.model, frozen=epoch < config.schedule.freeze_epochs)
    state.optimizer.zero_grad(set_to_none=True)

    total, parts = 0.0, max(config.optim.grad_accum_steps, 1)
    for index, (images, targets) in enumerate(zip(pixels.chunk(parts), labels.chunk(parts))):  # noqa: B905
        last = index == parts - 1
        quiet = contextlib.nullcontext() if last else _no_sync(state.parallel)
        with quiet:
            loss = _loss(state, images, targets, run, part=index) * (len(images) / len(pixels))
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if not torch.isfinite(torch.tensor(total)):
        raise TrainingError(
            f"the loss is {total} at step {state.step} (epoch {epoch:.2f}, learning rate"
            f" {config.optim.scaled_lr * factor:.3g})",
            hint="try a lower optim.lr, or optim.clip_norm=1",
        )
    if config.optim.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    if state.mean is not None and state.step % config.ema.every == 0:
        # While the rate still rises, the mean of what was is of no use.
        warm = state.step / run.order.steps >= config.schedule.warmup_epochs
        optim.update_mean(state.mean, state.model, config.ema.decay if warm else 0.0)
    return total


def _loss(state: TrainState, pixels: Tensor, labels: Tensor, run: Run, *, part: int) -> Tensor:
    images, targets = prepare(pixels, labels, run, step=state.step, part=part)
    with run.autocast:
        logits = state.parallel(images)
        with torch.no_grad():
            teacher = None if run.teacher is None else run.teacher(images)
    return losses.compute(
        logits, targets, run.config.loss, class_weights=run.class_weights, teacher=teacher
    )


def prepare(
    pixels: Tensor, labels: Tensor, run: Run, *, step: int, part: int = 0
) -> tuple[Tensor, Tensor]:
    """Make of a batch what the network and the loss get: normalized, smoothed, mixed.

    Args:
        pixels: (N, 3, S, S) uint8.
        labels: (N,) class indices or (N, K) of 0 and 1.
        run: What stays the same.
        step: Steps done before.
        part: Which part of this process's share of the batch.

    Returns:
        (N, 3, S, S) float32 pictures and (N, K) float32 targets, on the device.
    """
    config = run.config
    images = run.normalize(pixels)
    targets = losses.make_targets(
        labels.to(run.processes.device),
        run.train.num_classes,
        smoothing=config.loss.label_smoothing,
    )
    key = _key(config.seed, step, run.processes.rank) + part
    augment.mix(images, targets, config.augment, key)
    return images, targets


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What one epoch came to.

    Args:
        epoch: From 1.
        step: Steps done.
        loss: Mean training loss.
        lr: Learning rate of the classifier at its end.
        images_per_s: Training pictures a second, over all processes.
        seconds: Time of training and evaluation.
        scores: Of the evaluation, or None.
        best: Whether no evaluation was better.
    """

    epoch: int
    step: int
    loss: float
    lr: float
    images_per_s: float
    seconds: float
    scores: Scores | None
    best: bool


class Listener:
    """Hears what happens in a run; the first process's one may write and print."""

    def started(self, state: TrainState, run: Run) -> None:
        """Hear that a run starts, or goes on."""

    def stepped(self, state: TrainState, loss: float, run: Run) -> None:
        """Hear of a step."""

    def epoch_done(self, state: TrainState, report: EpochReport, run: Run) -> None:
        """Hear of an epoch, before its checkpoint is written."""


def fit(
    run: Run,
    folder: Path,
    *,
    resume: bool = True,
    keep: int = 2,
    checkpoint_seconds: float = 600.0,
    listener: Listener | None = None,
) -> TrainState:
    """Train from the start, or from the last whole checkpoint, to the end.

    Args:
        run: What to do.
        folder: Of the run; `checkpoints/` in it is written by the first process.
        resume: Whether to go on from a checkpoint that is there.
        keep: Checkpoints that stay.
        checkpoint_seconds: Longest time between two of them.
        listener: Hears of steps and epochs.

    Raises:
        ModelFileError: There are checkpoints, and none is whole.
        DatasetError: A picture cannot be read, or the data is not what the run began with.
        TrainingError: The loss is no longer a number.
        Stopped: SIGTERM came; a checkpoint was written.
    """
    listener = listener or Listener()
    state = start(run)
    places = folder / "checkpoints"
    if resume:
        _resume(state, run, places)
    listener.started(state, run)
    pictures = Pictures(
        run.train,
        augment.TrainTransform(run.config.data, run.config.augment),
        cache=run.config.data.cache,
    )
    steps = run.order.steps * run.config.schedule.epochs
    with _catching_sigterm() as stopped:
        saver = _Saver(run, places, stopped, keep=keep, seconds=checkpoint_seconds)
        while state.step < steps:
            _epoch(state, run, pictures, listener, saver)
            saver.save(state)
            if run.config.patience and state.waited >= run.config.patience:
                break
    return state


def _epoch(
    state: TrainState, run: Run, pictures: Pictures, listener: Listener, saver: _Saver
) -> None:
    order, processes = run.order, run.processes
    epoch, first = divmod(state.step, order.steps)
    batches = [
        order.share(epoch, step, rank=processes.rank, world_size=processes.world_size)
        for step in range(first, order.steps)
    ]
    began, total = time.monotonic(), 0.0
    for pixels, labels in feed(pictures, batches, num_workers=run.config.data.num_workers):
        loss = train_step(state, pixels, labels, run)
        total += loss
        listener.stepped(state, loss, run)
        if state.step % order.steps:  # at the end of an epoch it is saved anyway
            saver.consider(state)
    trained = time.monotonic() - began
    dist.average_statistics(state.model, processes)
    scores = evaluate(state.evaluated, run) if run.test is not None else None
    best = scores is not None and scores.top1 > state.best
    if best and scores is not None:
        state.best = scores.top1
    state.waited = 0 if best else state.waited + 1
    report = EpochReport(
        epoch=epoch + 1,
        step=state.step,
        loss=total / len(batches),
        lr=max(group["lr"] for group in state.optimizer.param_groups),
        images_per_s=len(batches) * order.batch_size / max(trained, 1e-9),
        seconds=time.monotonic() - began,
        scores=scores,
        best=best,
    )
    listener.epoch_done(state, report, run)


class _Saver:
    """Writes checkpoints: after epochs, after a time, and before the process is ended."""

    def __init__(
        self, run: Run, places: Path, stopped: Callable[[], bool], *, keep: int, seconds: float
    ) -> None:
        self.run, self.places, self.stopped = run, places, stopped
        self.keep, self.seconds = keep, seconds
        self.saved = time.monotonic()

    def save(self, state: TrainState) -> None:
        """Write a checkpoint; every process must come here at the same step."""
        run = self.run
        if run.processes.is_first:
            saved = state.to_save() | {
                "config": run.config.to_json(),
                "data": run.train.fingerprint,
            }
            checkpoint.save(self.places, state.step, saved, keep=self.keep)
        run.processes.wait()
        self.saved = time.monotonic()

    def consider(self, state: TrainState) -> None:
        """Save, or save and stop, if it is time for that in any process.

        Raises:
            Stopped: SIGTERM came to a process.
        """
        processes = self.run.processes
        if processes.world_size > 1 and state.step % _STEPS_BETWEEN_TALKS:
            return
        late = time.monotonic() - self.saved > self.seconds
        wishes = torch.tensor([float(self.stopped()), float(late)], device=processes.device)
        stop, save = (float(wish) > 0 for wish in processes.sum(wishes))
        if stop or save:
            self.save(state)
        if stop:
            raise Stopped(state.step)


class Stopped(Exception):
    """SIGTERM came, and a checkpoint was written.

    Args:
        step: Steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; a checkpoint was written")
        self.step = step


def _resume(state: TrainState, run: Run, places: Path) -> None:
    loaded = checkpoint.load_latest(places)
    if loaded is None:
        return
    path, saved, _refused = loaded
    if saved["data"] != run.train.fingerprint:
        raise TrainingError(
            f"{path}: was trained on other pictures or classes than these",
            hint="bring the data back as it was, or start anew in another folder",
        )
    if saved["config"]["model"] != run.config.to_json()["model"]:
        raise TrainingError(
            f"{path}: is of another network, {saved['config']['model']['architecture']}",
            hint="start anew in another folder",
        )
    state.restore(saved)


@contextlib.contextmanager
def _catching_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came, instead of ending the process."""
    came = False

    def remember(_signal: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    try:
        before = signal.signal(signal.SIGTERM, remember)
    except ValueError:  # not in the main thread, where signals are not heard
        yield lambda: False
        return
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)


def _no_sync(parallel: nn.Module) -> Any:
    if isinstance(parallel, nn.parallel.DistributedDataParallel):
        return parallel.no_sync()
    return contextlib.nullcontext()


def _set_mode(model: ResNeXt, *, frozen: bool) -> None:
    """Let all of a network learn, or only its classifier on a body that stays as it is."""
    model.train(not frozen)
    model.fc.train()
    for name, parameter in model.named_parameters():
        if not name.startswith("fc."):
            parameter.requires_grad_(not frozen)


def _key(seed: int, step: int, rank: int) -> int:
    """Return the seed of what is random in one step of one process."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) * 64 % (2**63 - 64)
