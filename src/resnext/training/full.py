"""[train] A whole run: opened pictures to a folder with models.

Training from scratch and full fine-tuning are the same but for `model.pretrained`.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnext import modelfile, weights
from resnext.errors import ConfigError, TrainingError, counted
from resnext.training import (
    augment,
    checkpoint,
    dist,
    loop,
    recipes,
    records,
    registry,
    report,
    search,
    settings,
)
from resnext.training.config import TrainConfig
from resnext.training.data import Data
from resnext.training.dist import Processes
from resnext.training.log import BEST, LAST, RunLog
from resnext.training.loop import Stopped
from resnext.training.memory import naming_short_memory
from resnext.training.outcome import tensors_of
from resnext.training.scan import Problem, scan
from resnext.training.state import Run, TrainState
from resnext.training.teacher import load_teacher

__all__ = ["Outcome", "Stopped", "run"]

SWEEP = "lr.json"  # what was tried to find the learning rate
LEFT_OUT = "left-out.json"  # pictures that could not be read when the run began
DEVICES = "devices.json"  # what the parts of a batch were found for

_MANY = 20_000  # pictures whose decoding takes long enough to be announced
_BETWEEN = 0.2  # seconds between changes of a line on a terminal


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came out of a run.

    Args:
        folder: Its folder.
        model: The model file: the best, or the last where nothing was evaluated.
        report: The page that shows it all.
        config: What was done, with what was found by trial.
        metrics: As in the model file: `epoch`, and `top1`, `top5`, `val_loss` of the best.
        promised: Published top-1 of the recipe, where the run kept to it; else None.
        deviations: What it changed against its recipe, and what that means.
        left_out: Pictures that could not be read.
    """

    folder: Path
    model: Path
    report: Path
    config: TrainConfig
    metrics: dict[str, Any]
    promised: float | None
    deviations: tuple[str, ...]
    left_out: tuple[Problem, ...] = ()

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know."""
        facts = {**self.metrics, "model": self.model, "report": self.report}
        count = len(self.left_out)
        return [*facts.items(), ("left out", f"{count} that cannot be read" if count else "")]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "report": str(self.report),
            "metrics": self.metrics,
            "promised": self.promised,
            "deviations": list(self.deviations),
            "left_out": [{"source": one.name, "error": one.reason} for one in self.left_out],
        }


def run(
    data: Data,
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = True,
    find_lr: bool = False,
    processes: Processes | None = None,
    checkpoint_seconds: float = 600.0,
) -> Outcome:
    """Train a network, and leave all of it in a folder.

    Args:
        data: What `open_data` returned.
        config: What to do.
        folder: Where to; made if missing.
        resume: Whether to go on where an earlier run in the folder was stopped.
        find_lr: Find the learning rate by a sweep instead of taking the config's.
        processes: Which process this is; None for the only one.
        checkpoint_seconds: Longest time between two checkpoints.

    Returns:
        What came out; in processes other than the first, the files are the first one's.

    Raises:
        ConfigError: The config does not fit the data or the device; or a run is in the folder
            and `resume` is False.
        ModelNotFoundError: No such architecture, weights or teacher.
        DatasetError: A picture cannot be read.
        OutOfMemoryError: The network, or what is to be kept in memory, does not fit.
        TrainingError: The loss is no longer a number, the folder's run was another one, or not
            all processes see the same folder.
        OutputError: A file cannot be written.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written.
    """
    processes = processes or Processes()
    begun = _agree_on_folder(folder, processes)
    if begun and not resume:
        raise ConfigError(
            f"{folder} has a run already",
            hint="choose another folder with -o, or go on with --resume auto",
        )
    notes = _Notes(folder, processes)
    settings.check(config, data, world_size=processes.world_size)
    config = _suited(config, notes, begun=begun)
    _set_backends(config)
    this = make_run(data, config, processes)
    data, left_out = _readable(data, config, notes, begun=begun)
    if left_out:
        settings.check(config, data, world_size=processes.world_size)
        # Classes weigh by the pictures that are left.
        this = replace(this, train=data.train, test=data.val, class_weights=None)
    this = _decide(this, notes, begun=begun, find_lr=find_lr)
    deviations = tuple(
        recipes.deviations(
            this.config,
            num_classes=data.train.num_classes,
            num_pictures=len(data.train),
            world_size=processes.world_size,
        )
    )
    _tell(this.config, data, notes, deviations)
    log = RunLog(
        folder,
        processes=processes,
        split=data.split,
        provenance={"deviations": list(deviations)},
        files=notes.files,
        notes=notes.late,
    )
    try:
        state = loop.fit(
            this, folder, resume=resume, listener=log, checkpoint_seconds=checkpoint_seconds
        )
    finally:
        log.close()
    outcome = _finish(this, state, folder, notes, deviations)
    return replace(outcome, left_out=left_out)


def _agree_on_folder(folder: Path, processes: Processes) -> bool:
    """Tell whether a run is in the folder, which all processes must see.

    Raises:
        TrainingError: They do not see the same.
    """
    begun = bool(checkpoint.found(folder / "checkpoints"))
    names = (records.CONFIG, LEFT_OUT, DEVICES) if begun else ()
    seen = (begun, [records.read_json(folder / name) for name in names])
    if not processes.agree(seen):
        raise TrainingError(
            f"{folder}: process {processes.rank} sees another run there than other processes",
            hint="the folder of the run must be one that all processes share",
        )
    return begun


def _readable(
    data: Data, config: TrainConfig, notes: _Notes, *, begun: bool
) -> tuple[Data, tuple[Problem, ...]]:
    """Leave out the pictures that cannot be read: those that the run began without, or all.

    Of a run that has no checkpoint nothing counts: pictures may have been mended since.
    """
    processes, path = notes.processes, notes.folder / LEFT_OUT
    known = records.read_json(path) if begun else None
    if known is not None:
        problems = [Problem(one["source"], one["error"]) for one in known]
    else:
        problems = _look_through(data, notes) if config.data.scan else []
        if processes.is_first:
            notes.folder.mkdir(parents=True, exist_ok=True)
            plain = [{"source": one.name, "error": one.reason} for one in problems]
            records.write_json(path, plain)
    processes.wait()
    return (data.without(problems) if problems else data), tuple(problems)


def _look_through(data: Data, notes: _Notes) -> list[Problem]:
    """Decode all pictures, each process its share of them; all get all problems."""
    sets = [part for part in (data.train, data.val) if part is not None]
    rank, size = notes.processes.rank, notes.processes.world_size
    total, before = sum(map(len, sets)), 0
    if total > _MANY:
        notes.say(f"looking through {counted(total, 'picture')} first (data.scan=false skips that)")
    own: list[Problem] = []
    for part in sets:

        def show(done: int, _own: int, *, before: int = before) -> None:
            notes.show(
                f"{min(before + done * size, total):,} of {counted(total, 'picture')} looked"
                " through"
            )

        own += scan(part, share=slice(rank, None, size), progress=show)
        before += len(part)
    notes.show("")
    found = {problem for each in notes.processes.gather(own) for problem in each}
    return sorted(found, key=lambda problem: problem.name)


def make_run(data: Data, config: TrainConfig, processes: Processes) -> Run:
    """Bring together what a run needs.

    Raises:
        ConfigError: The teacher does not know a class.
        ModelNotFoundError: There is no such teacher.
    """
    teacher = None
    if config.loss.teacher:
        teacher = load_teacher(config.loss.teacher, data.train.labels, config.data)
        teacher.to(processes.device)
    return Run(
        config=config,
        train=data.train,
        test=data.val,
        processes=processes,
        teacher=teacher,
    )


class _Notes:
    """Says what one should know on stderr, once, not once a process.

    `files` and `late` are written and said when the run starts: one that is in the folder may
    still refuse to go on.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.files: dict[str, Any] = {}
        self.late: list[str] = []
        self._shown = 0.0

    def show(self, text: str) -> None:
        """Show on a terminal, for a moment, how far it is; "" takes it away."""
        if not self.processes.is_first or not sys.stderr.isatty():
            return
        if not text or time.monotonic() - self._shown > _BETWEEN:
            self._shown = time.monotonic()
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def say(self, *sentences: str) -> None:
        if self.processes.is_first:
            for sentence in sentences:
                print(f"note: {sentence}", file=sys.stderr)


def _suited(config: TrainConfig, notes: _Notes, *, begun: bool) -> TrainConfig:
    """Return the config as this device computes it, if the run began so.

    Raises:
        ConfigError: It asks for what the device does not compute, or began with that elsewhere.
    """
    suited, said = settings.suited_to(config, notes.processes.device.type)
    saved = records.read_json(notes.folder / records.CONFIG) if begun else None
    if saved is not None and said and saved.get("precision") == config.precision:
        raise ConfigError(
            f"{notes.folder}: the run began in {config.precision}, on a GPU; here it would be in"
            f" {suited.precision}",
            hint="go on where there is a GPU, or start anew in another folder",
        )
    notes.say(*said)
    return suited


def _tell(config: TrainConfig, data: Data, notes: _Notes, deviations: tuple[str, ...]) -> None:
    """Say what one should know before the first step."""
    notes.say(*data.notes, *settings.advice(config, data))
    if config.data.cache and len(data.train) > _MANY:
        notes.say(f"decoding {counted(len(data.train), 'picture')} into memory first (data.cache)")
    if recipes.is_published(config.recipe):
        notes.say(*deviations)


def _set_backends(config: TrainConfig) -> None:
    torch.backends.cudnn.benchmark = not config.deterministic


def _decide(this: Run, notes: _Notes, *, begun: bool, find_lr: bool) -> Run:
    """Find by trial what the config leaves open, or take what the run began with."""
    saved = records.read_json(notes.folder / records.CONFIG) if begun else None
    before = None if saved is None else TrainConfig.from_json(saved)
    if not this.config.optim.grad_accum_steps:
        parts = _find_parts(this, notes, before)
        this = _with_optim(this, grad_accum_steps=parts)
        if parts > 1:
            notes.say(f"each device computes its share of a batch in {parts} parts")
    if find_lr and before is not None:
        this = _with_optim(this, lr=before.optim.lr)
    elif find_lr:
        this = _sweep(this, notes)
    if this.config.model.pretrained:
        spec = weights.describe(this.config.model.pretrained).preprocess
        if (spec.mean, spec.std) != (this.config.data.mean, this.config.data.std):
            notes.say(f"{this.config.model.pretrained} was made for mean {spec.mean} and std"
                      f" {spec.std}, which data.mean and data.std are not")  # fmt: skip
    return this


def _find_parts(this: Run, notes: _Notes, before: TrainConfig | None) -> int:
    """Find in how many parts a device computes its share, or take what was found for the same."""
    processes = this.processes
    kinds = sorted(set(processes.gather(dist.kind_of(processes.device))))
    share = this.config.optim.batch_size // processes.world_size
    here = {"share": share, "devices": kinds}
    there = records.read_json(notes.folder / DEVICES) if before is not None else None
    if before is not None and there == here:
        return before.optim.grad_accum_steps
    parts = search.find_parts(this)
    if before is not None and there is not None:
        now = math.ceil(share / parts)
        was = math.ceil(there["share"] / before.optim.grad_accum_steps)
        if now != was:
            began = ", ".join(there["devices"])
            notes.late.append(
                f"a batch norm sees {counted(now, 'picture')} at once from here on; when the run"
                f" began, on {began}, it saw {was}"
            )
    notes.files[DEVICES] = here
    return parts


def _sweep(this: Run, notes: _Notes) -> Run:
    refused: ConfigError | None = None
    found = search.Sweep(lrs=(), losses=(), suggested=math.nan)
    try:
        with naming_short_memory(this.config):
            found = search.find_lr(this)
    except ConfigError as error:
        refused = error
    suggested = this.processes.gather(found.suggested)
    if any(map(math.isnan, suggested)):  # all end, so that none waits for one that has
        raise refused or ConfigError(
            "in another process no learning rate lowers the loss", hint="give --lr a number"
        )
    optim = this.config.optim
    # Processes that round differently may find different ones: all take the mean.
    logs = [math.log(lr) for lr in suggested]
    scaled = math.exp(sum(logs) / len(logs))
    lr = float(f"{scaled / (optim.scaled_lr / optim.lr):.3g}")
    if this.processes.is_first:
        notes.folder.mkdir(parents=True, exist_ok=True)
        tried = [{"lr": lr, "loss": loss} for lr, loss in zip(found.lrs, found.losses, strict=True)]
        records.write_json(notes.folder / SWEEP, tried)
    size, reference = optim.batch_size, optim.reference_batch_size
    meant = "" if size == reference else f" for batches of {size:,}"
    which = "" if size == reference else f", which is for batches of {reference:,},"
    notes.say(
        f"the sweep over learning rates suggests {scaled:.3g}{meant}: optim.lr{which} is now {lr:g}"
    )
    return _with_optim(this, lr=lr)


def _with_optim(this: Run, **changes: Any) -> Run:
    config = this.config
    return replace(this, config=replace(config, optim=replace(config.optim, **changes)))


def _finish(
    this: Run, state: TrainState, folder: Path, notes: _Notes, deviations: tuple[str, ...]
) -> Outcome:
    path = folder / (LAST if this.test is None else BEST)
    if this.config.data.test_sizes:
        with naming_short_memory(this.config):
            _record_test_size(this, state, path, notes)
    this.processes.wait()
    promised = None if deviations else recipes.promised(this.config)
    page = folder / report.NAME
    metrics: dict[str, Any] = {}
    if this.processes.is_first:
        document, _ = modelfile.verify(path)
        metrics = dict(document.metrics)
        report.write(folder)
        if promised is not None:
            notes.say(f"the recipe promises {promised:g} % top-1; this run reached"
                      f" {metrics.get('top1', math.nan):.2f} %")  # fmt: skip
        elif (number := registry.published(this.config)) is not None and "top1" in metrics:
            notes.say(f"{number:g} % top-1 was published for this recipe, not for this run's"
                      f" settings; this run reached {metrics['top1']:.2f} %")  # fmt: skip
    return Outcome(
        folder=folder,
        model=path,
        report=page,
        config=this.config,
        metrics=metrics,
        promised=promised,
        deviations=deviations,
    )


def _record_test_size(this: Run, state: TrainState, path: Path, notes: _Notes) -> None:
    """Evaluate the best weights at other test sizes and record the best size in their file."""
    model = state.evaluated
    if this.processes.is_first:
        document, tensors = modelfile.read(path)
        model.load_state_dict(
            {key: torch.from_numpy(t) for key, t in tensors.items()}, strict=False
        )
    found = search.find_test_size(model, this, this.config.data.test_sizes)
    best = max(found, key=lambda size: (found[size].top1, -size))
    notes.say(
        f"test size {best} is best: "
        + ", ".join(f"{scores.top1:.2f} % at {size}" for size, scores in found.items())
    )
    if not this.processes.is_first:
        return
    scores = found[best]
    metrics = {
        **document.metrics,
        "top1": round(scores.top1, 4),
        "top5": round(scores.top5, 4),
        "val_loss": round(scores.loss, 6),
        "test_sizes": {str(size): round(scores.top1, 4) for size, scores in found.items()},
    }
    spec = augment.test_spec(search.at_test_size(this, best).config.data)
    changed = replace(document, preprocess=spec, metrics=metrics)
    modelfile.write(path, changed, tensors_of(model))
