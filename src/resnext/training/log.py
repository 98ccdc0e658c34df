"""[train] What a run leaves: numbers, pictures, model files.

In the run's folder: `config.json`, `data.json`, `metrics.jsonl`, TensorBoard events where
that is installed, `batch.png`, `curves.png`, `best.safetensors` and `last.safetensors`.
Progress goes to stderr. Only the first process writes or says anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from resnext.errors import OutputError, counted
from resnext.training import augment, plots, records
from resnext.training.dist import Processes
from resnext.training.feed import Pictures, feed
from resnext.training.loop import EpochReport, Listener, prepare
from resnext.training.outcome import write_model
from resnext.training.records import Record
from resnext.training.report import duration
from resnext.training.state import Run, TrainState

BEST, LAST = "best.safetensors", "last.safetensors"
CURVES, BATCH = "curves.png", "batch.png"

_ESTIMATE_AFTER = 20  # steps, where there is no terminal
_FORWARD = 1 / 3  # of the time of a training picture, before an evaluation was timed
_BETWEEN_LINES = 0.2  # seconds between changes of the line on a terminal
_BETWEEN_CURVES = 30.0  # seconds; drawing takes half of one


class RunLog(Listener):
    """Writes the folder of a run, and says on stderr how it goes.

    Args:
        folder: Of the run; made if missing.
        split: How the pictures were divided, to be recorded.
        provenance: What to record in model files beside config, data and software.
        files: Other JSON values to write when the run starts, by the name of their file.
        notes: What to say then.
        processes: Which process this is; None for the only one.
        stream: Where to talk; None for stderr.
    """

    def __init__(
        self,
        folder: Path,
        *,
        processes: Processes | None = None,
        split: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        stream: TextIO | None = None,
    ) -> None:
        self.folder = folder
        self._split = dict(split or {})
        self._provenance = dict(provenance or {})
        self._files, self._notes = dict(files or {}), tuple(notes)
        self._is_first = processes is None or processes.is_first
        self._talk = Talk(stream or sys.stderr)
        self._board: Any = None
        self._drawn = time.monotonic()
        self._has_started = False

    def say(self, text: str) -> None:
        """Say a line."""
        if self._is_first:
            self._talk.say(text)

    def warned(self, text: str) -> None:
        """Say what should be known."""
        self.say(f"warning: {text}")

    def started(self, state: TrainState, run: Run) -> None:
        """Write what is known before the first step."""
        self._has_started = True
        if not self._is_first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        data = records.describe_data(run.train, run.test, self._split)
        records.write_json(self.folder / records.CONFIG, run.config.to_json())
        records.write_json(self.folder / records.DATA, data)
        for name, values in self._files.items():
            records.write_json(self.folder / name, values)
        records.trim(self.folder / records.METRICS, state.epoch)
        self._provenance["dataset"] = {key: data[key] for key in data if key != "classes"}
        self._board = _open_board(self.folder, state.step)
        for sentence in self._notes:
            self.say(f"note: {sentence}")
        self.say(f"{run.config.model.architecture} on {run.processes.device.type}:"
                 f" {counted(len(run.train), 'picture')}, {counted(run.order.steps, 'step')} an"
                 f" epoch, {counted(run.config.schedule.epochs, 'epoch')}")  # fmt: skip
        if state.step:
            self.say(f"going on after step {state.step:,} of {num_steps(run):,}")
        if not (self.folder / BATCH).exists() or not state.step:
            draw_first_batch(run, self.folder / BATCH)
        self._talk.begin(state.step, run)

    def stepped(self, state: TrainState, loss: float, run: Run) -> None:
        """Move the line on the terminal."""
        if self._is_first:
            lr = max(group["lr"] for group in state.optimizer.param_groups)
            self._talk.step(state.step, loss, lr)

    def epoch_done(self, state: TrainState, report: EpochReport, run: Run) -> None:
        """Write the numbers and the model files of an epoch."""
        if not self._is_first:
            return
        record = to_record(report)
        records.append(self.folder / records.METRICS, record)
        for name in (LAST, BEST) if report.best else (LAST,):
            self._write_model(name, state, report, run)
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(key, value, report.step)
            self._board.flush()
        if time.monotonic() - self._drawn > _BETWEEN_CURVES:
            self._draw()
        self._talk.epoch_done(record)

    def close(self) -> None:
        """Draw the last curves and end what is open."""
        if not (self._is_first and self._has_started):
            return
        self._talk.clear()
        with contextlib.suppress(OutputError):  # another error may be on its way: it counts
            self._draw()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write_model(self, name: str, state: TrainState, report: EpochReport, run: Run) -> None:
        record = to_record(report)
        measured: dict[str, Any] = {
            key: record[key] for key in ("top1", "top5", "val_loss") if key in record
        }
        if report.scores is not None:
            chosen = ", which chose the epoch" if name == BEST else ""
            measured["data"] = (
                f"{counted(report.scores.pictures, 'validation picture')} of the run{chosen}"
            )
        metrics = {**measured, "epoch": report.epoch, "precision": run.config.precision}
        write_model(
            self.folder / name, state.evaluated, run, metrics=metrics, provenance=self._provenance
        )

    def _draw(self) -> None:
        lines = records.read(self.folder / records.METRICS)
        if lines:
            plots.draw_curves(lines, self.folder / CURVES)
        self._drawn = time.monotonic()


class Talk:
    """Says how a run goes: a line that changes on a terminal, and a line an epoch.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = 0.0
        self._epochs = self._steps = self._batch_size = self._num_test = 0
        self._first = self._step = 0  # before this process, and done
        self._mark, self._marked = 0, time.monotonic()  # a step from which on is timed, and when
        self._known = 0  # step at the beginning of this epoch, or of this process
        self._pace = 0.0  # seconds a step, in the last epoch; 0 before there is one
        self._evaluation = 0.0  # seconds of its evaluation

    def begin(self, step: int, run: Run) -> None:
        """Start to count at a step."""
        self._epochs, self._steps = run.config.schedule.epochs, run.order.steps
        self._batch_size = run.order.batch_size
        self._num_test = 0 if run.test is None else len(run.test)
        self._first = self._step = self._mark = self._known = step
        self._marked = time.monotonic()

    def step(self, step: int, loss: float, lr: float) -> None:
        """Show a step, on a terminal."""
        self._step = step
        now = time.monotonic()
        pace = (now - self._marked) / max(step - self._mark, 1)
        rate = self._batch_size / max(pace, 1e-9)
        if step == self._first + 1:  # before it, processes started and pictures were decoded
            self._mark, self._marked = step, now
        epoch, within = divmod(step - 1, self._steps)
        if not self._terminal:
            if step == self._first + _ESTIMATE_AFTER and not self._pace:
                self.say(f"{rate:,.0f} images/s at first: about {self._left(epoch, pace)} left")
            return
        if now - self._shown < _BETWEEN_LINES:
            return
        self._shown = now
        text = (
            f"epoch {epoch + 1}/{self._epochs}  step {within + 1}/{self._steps}"
            f"  loss {loss:.3f}  lr {lr:.3g}  {rate:,.0f} images/s  {self._left(epoch, pace)} left"
        )
        width = shutil.get_terminal_size().columns - 1
        self._write("\r\x1b[K" + text[:width])

    def epoch_done(self, record: Record) -> None:
        """Say what an epoch came to."""
        parts = [f"epoch {record['epoch']}/{self._epochs}:  loss {record['loss']:.3f}"]
        if "top1" in record:
            star = " (best)" if record["best"] else ""
            parts.append(f"top-1 {record['top1']:.2f} %{star}")
        parts += [f"lr {record['lr']:.3g}", f"{record['images_per_s']:,.0f} images/s"]
        done = record["step"] - self._known
        if done > 0 and record["images_per_s"]:  # none are left where it was stopped after them
            self._pace = self._batch_size / record["images_per_s"]
            self._evaluation = max(record["seconds"] - done * self._pace, 0.0)
        self._step = self._known = record["step"]
        if record["epoch"] < self._epochs and self._pace:
            parts.append(f"{self._left(record['epoch'], self._pace)} left")
        self.say("  ".join(parts))
        self._mark, self._marked = self._step, time.monotonic()  # evaluation is not training

    def say(self, text: str) -> None:
        """Say a line."""
        self.clear()
        self._write(text + "\n")

    def clear(self) -> None:
        """Take the changing line away."""
        if self._terminal and self._shown:
            self._write("\r\x1b[K")

    def _left(self, epochs: int, pace: float) -> str:
        """Return the time left after so many epochs, evaluations included.

        Args:
            epochs: That are done.
            pace: Seconds a step, now; counts as much as this epoch has steps, the last otherwise.
        """
        evaluation = self._evaluation or pace / self._batch_size * self._num_test * _FORWARD
        if self._pace:
            share = (self._step - self._known) / self._steps
            pace = share * pace + (1 - share) * self._pace
        steps = self._epochs * self._steps - self._step
        return duration(steps * pace + (self._epochs - epochs) * evaluation)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def num_steps(run: Run) -> int:
    """Return the steps of a whole run."""
    return run.order.steps * run.config.schedule.epochs


def to_record(report: EpochReport) -> Record:
    """Return what an epoch came to as plain JSON values, six digits each."""
    values: dict[str, Any] = {"loss": report.loss, "lr": report.lr}
    if report.scores is not None:
        values |= {
            "val_loss": report.scores.loss,
            "top1": report.scores.top1,
            "top5": report.scores.top5,
        }
    values |= {"images_per_s": report.images_per_s, "seconds": report.seconds}
    rounded = {key: float(f"{value:.6g}") for key, value in values.items() if math.isfinite(value)}
    return {"epoch": report.epoch, "step": report.step, **rounded, "best": report.best}


@torch.no_grad()
def draw_first_batch(run: Run, path: Path) -> None:
    """Draw the first training pictures as the network gets them, colors brought back.

    Args:
        run: What is trained.
        path: Where to, a PNG.

    Raises:
        DatasetError: A picture cannot be read.
        OutputError: It cannot be written.
    """
    config, processes = run.config, run.processes
    draws = run.order.share(0, 0, rank=processes.rank, world_size=processes.world_size)
    half = len(draws) // 2
    if len(draws) % 2 == 0 and half > plots.MAX_PICTURES // 2:
        # Each is mixed with the one half a batch away (`prepare`): the first of both halves
        # are mixed among themselves as they are in the whole.
        few = plots.MAX_PICTURES // 2
        draws = draws[:few] + draws[half : half + few]
    pictures = Pictures(run.train, augment.TrainTransform(config.data, config.augment))
    pixels, labels = next(feed(pictures, [draws], num_workers=0))
    images, targets = prepare(pixels, labels, run, step=0)
    mean, std = np.array(config.data.mean), np.array(config.data.std)
    shown = images[: plots.MAX_PICTURES].permute(0, 2, 3, 1).cpu().numpy() * std + mean
    names = run.train.labels.class_names
    floor = config.loss.label_smoothing / len(names)
    titles = [
        plots.describe_target(target, names, floor=floor)
        for target in targets[: plots.MAX_PICTURES].cpu().numpy()
    ]
    plots.draw_batch(shown.clip(0, 1), titles, path)


def _open_board(folder: Path, step: int) -> Any:
    """Open TensorBoard events, without those of steps that are done again."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
