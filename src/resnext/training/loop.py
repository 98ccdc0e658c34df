"""[train] The training loop: one step, one epoch, one run.

Everything random in a step follows from seed, step and rank, so a run that was killed goes
on with the bits it would have had. Several processes do what one does, up to rounding, where
batch norms are synchronized, nothing is dropped by chance, and the share of each is even if
pictures are mixed. N pictures, K classes.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from resnext.errors import TrainingError
from resnext.network import ResNeXt
from resnext.training import augment, checkpoint, dist, losses, optim
from resnext.training.feed import Pictures, feed, naming_lost_workers
from resnext.training.memory import naming_short_memory
from resnext.training.resume import check_alike, restore_latest
from resnext.training.score import Scores, evaluate
from resnext.training.state import Run, TrainState, start

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def train_step(state: TrainState, pixels: Tensor, labels: Tensor, run: Run) -> float:
    """Change the weights once, by one batch.

    Args:
        state: Changed in place.
        pixels: (N, 3, S, S) uint8, this process's share of the batch.
        labels: (N,) class indices or (N, K) of 0 and 1.
        run: What stays the same.

    Returns:
        The mean loss over the batch, of all processes.

    Raises:
        TrainingError: The loss is no longer a number.
    """
    config, processes = run.config, run.processes
    torch.manual_seed(_key(config.seed, state.step, processes.rank))
    epoch = state.step / run.order.steps
    factor = optim.lr_factor(config.schedule, epoch)
    optim.set_lr(state.optimizer, factor)
    _set_mode(state.model, frozen=epoch < config.schedule.freeze_epochs)
    state.optimizer.zero_grad(set_to_none=True)
    loss = _backward(state, pixels, labels, run)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {state.step} (epoch {epoch:.2f}, learning rate"
            f" {config.optim.scaled_lr * factor:.3g})",
            hint="start anew in another folder, with a lower optim.lr or optim.clip_norm=1",
        )
    if config.optim.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    dist.average_statistics(state.model, processes)
    if state.mean is not None and state.step % run.order.steps % config.ema.every == 0:
        decay = config.ema_decay if _has_mean(state, run) else 0.0
        optim.update_mean(state.mean, state.model, decay)
    state.step += 1
    return loss


def _has_mean(state: TrainState, run: Run) -> bool:
    """Tell whether the mean holds weights from after the warm-up, before which none count."""
    return state.step > math.ceil(run.config.schedule.warmup_epochs) * run.order.steps


def _backward(state: TrainState, pixels: Tensor, labels: Tensor, run: Run) -> float:
    """Add up the gradients of a batch part by part; return its mean loss."""
    config = run.config
    images, targets = prepare(pixels, labels, run, step=state.step)
    num_parts = min(max(config.optim.grad_accum_steps, 1), len(images))
    # Even ones: a part of one picture would be too small for a batch norm.
    parts = zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
    total = torch.zeros((), device=images.device)
    for index, (part, part_targets) in enumerate(parts):
        last = index == num_parts - 1
        with contextlib.nullcontext() if last else _no_sync(state.parallel):
            loss = _loss(state, part, part_targets, run) * (len(part) / len(images))
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(run.processes.mean(total))


def _loss(state: TrainState, images: Tensor, targets: Tensor, run: Run) -> Tensor:
    with run.autocast:
        logits = state.parallel(images)
        with torch.no_grad():
            teacher = None if run.teacher is None else run.teacher(images)
    return losses.compute(
        logits, targets, run.config.loss, class_weights=run.class_weights, teacher=teacher
    )


def prepare(pixels: Tensor, labels: Tensor, run: Run, *, step: int) -> tuple[Tensor, Tensor]:
    """Make of a batch what the network and the loss get: normalized, smoothed, mixed.

    Each picture is mixed with the one half a batch away: a process has both in its share,
    and repeated appearances of a picture, which are neighbours, are not mixed.

    Args:
        pixels: (N, 3, S, S) uint8, this process's share of the batch.
        labels: (N,) class indices or (N, K) of 0 and 1.
        run: What stays the same.
        step: Steps done before.

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
    pairs = (images, targets)
    if len(images) % 2 == 0:  # `mix` takes neighbours: now the two halves are
        pairs = (images.view(2, -1, *images.shape[1:]), targets.view(2, -1, targets.shape[1]))
    augment.mix(*pairs, config.augment, _key(config.seed, step, 0))
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

    def warned(self, text: str) -> None:
        """Hear of what does not stop the run, but should be known."""
        print(f"warning: {text}", file=sys.stderr)


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
        ConfigError: The batch suits neither the pictures nor the processes, or other settings
            than those that the run began with would change what it learns.
        DatasetError: A picture cannot be read, or the data is not what the run began with, or
            not the same for all processes.
        ModelFileError: There are checkpoints, and none can be used.
        OutOfMemoryError: A part of a batch, or what is to be kept in memory, does not fit.
        OutputError: A checkpoint cannot be written; the last one is as it was.
        TrainingError: The loss is no longer a number, or another process was lost.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written.
    """
    listener = listener or Listener()
    places = folder / "checkpoints"
    with (
        dist.naming_lost_processes(run.processes),
        naming_lost_workers(),
        naming_short_memory(run.config),
    ):
        check_alike(run)
        state = start(run)
        warning = restore_latest(state, run, places) if resume else ""
        if warning and run.processes.is_first:
            listener.warned(warning)
        listener.started(state, run)
        pictures = Pictures(
            run.train,
            augment.TrainTransform(run.config.data, run.config.augment),
            cache=run.config.data.cache,
        )
        with _catching_signals() as came:
            saver = _Saver(run, places, came, keep=keep, seconds=checkpoint_seconds)
            while not _is_done(state, run):
                began = time.monotonic()
                images_per_s = _train(state, run, pictures, listener, saver)
                _finish_epoch(state, run, listener, images_per_s=images_per_s, began=began)
                saver.consider(state, due=True)
    return state


def _is_done(state: TrainState, run: Run) -> bool:
    patience = run.config.patience
    return state.epoch >= run.config.schedule.epochs or 0 < patience <= state.waited


def _train(
    state: TrainState, run: Run, pictures: Pictures, listener: Listener, saver: _Saver
) -> float:
    """Do the steps that are left of an epoch; return training pictures a second."""
    order, processes = run.order, run.processes
    first = state.step - state.epoch * order.steps
    batches = (
        order.share(state.epoch, step, rank=processes.rank, world_size=processes.world_size)
        for step in range(first, order.steps)
    )
    began = time.monotonic()
    for pixels, labels in feed(pictures, batches, num_workers=run.config.data.num_workers):
        loss = train_step(state, pixels, labels, run)
        state.loss_sum += loss
        listener.stepped(state, loss, run)
        saver.consider(state)
    seconds = max(time.monotonic() - began, 1e-9)
    return (order.steps - first) * order.batch_size / seconds


def _finish_epoch(
    state: TrainState, run: Run, listener: Listener, *, images_per_s: float, began: float
) -> None:
    """Evaluate, and report."""
    scores = evaluate(state.evaluated, run) if run.test is not None else None
    best = scores is not None and scores.top1 > state.best
    if scores is not None:
        state.best = max(scores.top1, state.best)
        state.waited = 0 if best else state.waited + 1
    report = EpochReport(
        epoch=state.epoch + 1,
        step=state.step,
        loss=state.loss_sum / run.order.steps,
        lr=max(group["lr"] for group in state.optimizer.param_groups),
        images_per_s=images_per_s,
        seconds=time.monotonic() - began,
        scores=scores,
        best=best,
    )
    state.epoch, state.loss_sum = state.epoch + 1, 0.0
    listener.epoch_done(state, report, run)


class _Saver:
    """Writes checkpoints: after epochs, after a time, and before the process is ended."""

    def __init__(
        self, run: Run, places: Path, came: set[int], *, keep: int, seconds: float
    ) -> None:
        self.run, self.places, self.came = run, places, came
        self.keep, self.seconds = keep, seconds
        self.origin = run.origin
        self.saved = time.monotonic()

    def consider(self, state: TrainState, *, due: bool = False) -> None:
        """Save, or save and stop, if it is time for that in any process.

        Every process must come here at the same step.

        Args:
            state: What to save.
            due: Whether to save in any case.

        Raises:
            Stopped: A signal came to a process.
        """
        late = time.monotonic() - self.saved > self.seconds
        *stop, save = self.run.processes.any(*(number in self.came for number in _SIGNALS), late)
        if any(stop) or save or due:
            self._save(state)
        for number, stops in zip(_SIGNALS, stop, strict=True):
            if stops:
                raise Stopped(state.step, number)

    def _save(self, state: TrainState) -> None:
        processes = self.run.processes
        if processes.is_first:
            saved = state.to_save() | self.origin
            checkpoint.save(self.places, state.step, saved, keep=self.keep)
        processes.wait()
        self.saved = time.monotonic()


class Stopped(Exception):
    """A signal came, and a checkpoint was written.

    Args:
        step: Steps done.
        signal_number: SIGTERM, or SIGINT for Ctrl-C.
    """

    def __init__(self, step: int, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped after step {step}; a checkpoint was written")
        self.step = step
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def _catching_signals() -> Iterator[set[int]]:
    """Collect the signals that came, instead of ending the process; a second one ends it."""
    came: set[int] = set()
    before: dict[signal.Signals, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        if number in came and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        came.add(number)

    try:
        for one in _SIGNALS:
            before[one] = signal.signal(one, remember)
    except ValueError:  # not in the main thread, where signals are not heard
        yield came
        return
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler or signal.SIG_DFL)


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
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
