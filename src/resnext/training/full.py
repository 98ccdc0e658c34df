"""[train] A whole run: opened pictures to a folder with models.

Training from scratch and full fine-tuning are the same but for `model.pretrained`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnext import arch, modelfile, weights
from resnext.errors import ConfigError, TrainingError
from resnext.training import (
    augment,
    checkpoint,
    loop,
    recipes,
    records,
    registry,
    report,
    search,
)
from resnext.training.config import TrainConfig
from resnext.training.data import Data
from resnext.training.dist import Processes
from resnext.training.log import BEST, LAST, RunLog
from resnext.training.loop import Stopped
from resnext.training.outcome import tensors_of
from resnext.training.scan import Problem, scan
from resnext.training.state import Run, TrainState
from resnext.training.teacher import load_teacher

__all__ = ["Outcome", "Stopped", "run"]

SWEEP = "lr.json"  # what was tried to find the learning rate
LEFT_OUT = "left-out.json"  # pictures that could not be read when the run began

_MANY = 20_000  # pictures whose decoding takes long enough to be announced


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
        ConfigError: The config does not fit the data; or a run is in the folder and `resume`
            is False.
        ModelNotFoundError: No such architecture, weights or teacher.
        DatasetError: A picture cannot be read.
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
    check(config, data)
    _set_backends(config)
    this = make_run(data, config, processes)
    data, left_out = _readable(data, config, folder, notes)
    if left_out:
        check(config, data)
        this = replace(this, train=data.train, test=data.val)
    this = _decide(this, notes, begun=begun, find_lr=find_lr)
    deviations = tuple(
        recipes.deviations(
            this.config,
            num_classes=data.train.num_classes,
            num_pictures=len(data.train),
            world_size=processes.world_size,
        )
    )
    notes.say(*data.notes)
    schedule = config.schedule
    if schedule.warmup_epochs >= schedule.epochs:
        notes.say(f"the learning rate only rises: {schedule.epochs} epochs, of which"
                  f" {schedule.warmup_epochs:g} are warm-up; try schedule.warmup_epochs="
                  f"{schedule.epochs // 5}")  # fmt: skip
    if recipes.is_published(this.config.recipe):
        notes.say(*deviations)
    log = RunLog(
        folder,
        processes=processes,
        split=data.split,
        provenance={"deviations": list(deviations)},
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
    seen = (begun, records.read_json(folder / records.CONFIG) if begun else None)
    if not processes.agree(seen):
        raise TrainingError(
            f"{folder}: process {processes.rank} sees another run there than other processes",
            hint="the folder of the run must be one that all processes share",
        )
    return begun


def _readable(
    data: Data, config: TrainConfig, folder: Path, notes: _Notes
) -> tuple[Data, tuple[Problem, ...]]:
    """Leave out the pictures that cannot be read: those that the run began without, or all."""
    processes = notes.processes
    known = records.read_json(folder / LEFT_OUT)
    if known is not None:
        problems = [Problem(one["source"], one["error"]) for one in known]
    elif config.data.scan:
        sets = [part for part in (data.train, data.val) if part is not None]
        if (count := sum(map(len, sets))) > _MANY:
            notes.say(f"looking through {count:,} pictures first (data.scan=false skips that)")
        rank, size = processes.rank, processes.world_size
        own = [p for part in sets for p in scan(part, share=slice(rank, None, size))]
        problems = sorted(
            {problem for found in processes.gather(own) for problem in found},
            key=lambda problem: problem.name,
        )
    else:
        problems = []
    if processes.is_first and known is None:
        folder.mkdir(parents=True, exist_ok=True)
        plain = [{"source": one.name, "error": one.reason} for one in problems]
        records.write_json(folder / LEFT_OUT, plain)
    processes.wait()
    return (data.without(problems) if problems else data), tuple(problems)


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


def check(config: TrainConfig, data: Data) -> None:
    """Look for what would make a long run fail, or be for nothing.

    Raises:
        ConfigError: Config and data do not fit together.
        ModelNotFoundError: No such architecture.
    """
    arch.parse(config.model.architecture)
    count, batch_size = len(data.train), config.optim.batch_size
    if batch_size < 2:
        raise ConfigError("optim.batch_size is 1; expected at least 2, which batch norm needs")
    if count < batch_size:
        fits = 2 ** max(int(math.log2(count)) - 3, 1)  # at least 8 steps an epoch if it can be
        raise ConfigError(
            f"optim.batch_size is {batch_size}, and there are {count} training pictures",
            hint=f"try --batch-size {fits}",
        )
    if data.train.multi_label and config.loss.kind != "bce":
        raise ConfigError(
            "pictures have several labels, and loss.kind is 'cross_entropy', for one label each",
            hint="--set loss.kind=bce",
        )
    if bool(config.loss.teacher) != bool(config.loss.distill_weight):
        raise ConfigError(
            f"loss.teacher is {config.loss.teacher!r} and loss.distill_weight"
            f" {config.loss.distill_weight:g}; expected both or none",
            hint="such as --teacher resnext101_64x4d --set loss.distill_weight=0.5",
        )
    if data.train.multi_label and config.loss.teacher:
        raise ConfigError(
            f"pictures have several labels, and loss.teacher is {config.loss.teacher!r}, which is"
            " compared by a softmax, for one label each",
            hint="leave the teacher out",
        )
    for key, value in (("patience", config.patience), ("data.test_sizes", config.data.test_sizes)):
        if value and data.val is None:
            raise ConfigError(f"{key} is {value}, and there are no pictures to validate on")


class _Notes:
    """Says what one should know on stderr, once, not once a process."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes

    def say(self, *sentences: str) -> None:
        if self.processes.is_first:
            for sentence in sentences:
                print(f"note: {sentence}", file=sys.stderr)


def _set_backends(config: TrainConfig) -> None:
    torch.backends.cudnn.benchmark = not config.deterministic


def _decide(this: Run, notes: _Notes, *, begun: bool, find_lr: bool) -> Run:
    """Find by trial what the config leaves open, or take what the run began with."""
    saved = records.read_json(notes.folder / records.CONFIG) if begun else None
    before = None if saved is None else TrainConfig.from_json(saved)
    optim = this.config.optim
    if not optim.grad_accum_steps:
        if before is not None and before.optim.batch_size == optim.batch_size:
            parts = before.optim.grad_accum_steps
        else:
            parts = search.find_parts(this)
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


def _sweep(this: Run, notes: _Notes) -> Run:
    found = search.find_lr(this)
    optim = this.config.optim
    # Processes that round differently may find different ones: all take the mean.
    logs = [math.log(lr) for lr in this.processes.gather(found.suggested)]
    scaled = math.exp(sum(logs) / len(logs))
    lr = float(f"{scaled / (optim.scaled_lr / optim.lr):.3g}")
    if this.processes.is_first:
        notes.folder.mkdir(parents=True, exist_ok=True)
        tried = [{"lr": lr, "loss": loss} for lr, loss in zip(found.lrs, found.losses, strict=True)]
        records.write_json(notes.folder / SWEEP, tried)
    notes.say(f"the sweep over learning rates suggests {scaled:.3g}: optim.lr is now {lr:g}")
    return _with_optim(this, lr=lr)


def _with_optim(this: Run, **changes: Any) -> Run:
    config = this.config
    return replace(this, config=replace(config, optim=replace(config.optim, **changes)))


def _finish(
    this: Run, state: TrainState, folder: Path, notes: _Notes, deviations: tuple[str, ...]
) -> Outcome:
    path = folder / (LAST if this.test is None else BEST)
    if this.config.data.test_sizes:
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
