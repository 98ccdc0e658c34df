"""[train] Full fine-tuning: all layers of a model learn new classes.

data.open_data -> full.run -> modelfile. The run's folder stays beside the model
file, with curves and report; the same command goes on with a run that was stopped.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from resnext import modelfile, weights
from resnext.errors import ConfigError
from resnext.files import output_error
from resnext.modelfile import check_output
from resnext.training import checkpoint, full, recipes, records
from resnext.training.config import TrainConfig, differences
from resnext.training.data import Data, open_data
from resnext.training.dist import Processes, joined
from resnext.training.full import Outcome, Stopped
from resnext.training.resume import MAY_CHANGE
from resnext.training.scan import Problem
from resnext.training.settings import check, suited_to

__all__ = ["Refined", "Stopped", "make_config", "tune_all"]

RECIPE = "finetune"
FOLDER = ".run"  # what the name of the run's folder ends in
ASKED = "asked.json"  # in that folder until the run is done: what it was asked

_LEAST_STEPS = 4  # of an epoch: smaller batches for few pictures

Asked = dict[str, Any]  # plain JSON values: `config`, `find_lr` and `split`


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """What came out.

    Args:
        path: The model file.
        outcome: The run that made it.
        problems: Pictures that could not be read, and were left out.
        seconds: Time it took.
        is_first: Whether this is the process that wrote it, and is to speak of it.
    """

    path: Path
    outcome: Outcome
    problems: tuple[Problem, ...]
    seconds: float
    is_first: bool = True

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know, and the command that comes next."""
        metrics = self.outcome.metrics
        top1 = f"{metrics['top1']:.2f} %, which chose the epoch" if "top1" in metrics else ""
        return [
            ("file", self.path),
            ("left out", f"{len(self.problems)} that cannot be read" if self.problems else ""),
            ("best validation top-1", top1),
            ("best epoch", metrics.get("epoch")),
            ("report", self.outcome.report),
            ("time", f"{self.seconds:.0f} s"),
            ("next", shlex.join(["resnext", "predict", "photo.jpg", "-m", str(self.path)])),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "file": str(self.path),
            "folder": str(self.outcome.folder),
            "report": str(self.outcome.report),
            "metrics": self.outcome.metrics,
            "left_out": [{"source": one.name, "error": one.reason} for one in self.problems],
            "seconds": round(self.seconds, 3),
        }


def tune_all(
    data: str,
    path: Path,
    *,
    model: str = "starter",
    settings: Sequence[str] = (),
    find_lr: bool = False,
    val_share: float = 0.2,
    seed: int = 0,
    class_weights: Literal["none", "balanced"] = "none",
    precision: str = "auto",
    threads: int | None = None,
    offline: bool = False,
    force: bool = False,
) -> Refined:
    """Fine-tune all layers of a model, and write it as a model file.

    Args:
        data: What `open_data` takes.
        path: The file to write; the run's folder is beside it.
        model: What to start from.
        settings: Changes to the recipe `finetune`, such as `schedule.epochs=5`; with
            `loss.teacher=resnext101_64x4d`, a bigger model is learned from too.
        find_lr: Find the learning rate by a sweep instead of taking the recipe's.
        val_share: Share of the pictures to validate on, where the data has no such part.
        seed: Of what is drawn at random.
        class_weights: "balanced" counts rare classes as much as others.
        precision: "fp32", "bf16", or "auto", which is bf16 on CUDA.
        threads: Threads of the processor; None for all.
        offline: Whether the model must be on this disk.
        force: Whether to replace a file that is there, and its run, if that is done or was
            asked something else.

    Raises:
        ConfigError: An option will not do, or the file is there.
        DatasetError: The pictures cannot be used.
        ModelNotFoundError: Nothing has the model's name.
        OutOfMemoryError: Not even a small part of a batch fits into memory.
        OutputError: A file cannot be written.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written.
    """
    started = time.monotonic()
    check_output(path, force=force)
    if threads is not None:
        torch.set_num_threads(threads)
    changes = [f"data.val_share={val_share}", f"data.split_seed={seed}", f"seed={seed}"]
    changes += [f"loss.class_weights={class_weights}", *settings]
    asked = recipes.get(RECIPE).config.override(changes)
    # Before the pictures are looked through.
    for name in filter(None, (model, asked.loss.teacher)):
        weights.locate(name, offline=offline or None)
    opened = open_data(data, seed=asked.data.split_seed, val_share=asked.data.val_share)
    with joined() as processes:
        config = make_config(
            model, opened, precision=precision, device=processes.device,
            world_size=processes.world_size,
        ).override(changes)  # fmt: skip
        if config.loss.teacher:
            config = config.taught_by(config.loss.teacher)
        outcome = _run(opened, config, path, processes, find_lr=find_lr, force=force)
    return Refined(
        path=path,
        outcome=outcome,
        problems=outcome.left_out,
        seconds=time.monotonic() - started,
        is_first=processes.is_first,
    )


def make_config(
    model: str,
    data: Data,
    *,
    precision: str = "auto",
    device: torch.device,
    world_size: int = 1,
) -> TrainConfig:
    """Fit the recipe `finetune` to a model and to the number of pictures.

    Args:
        model: What to start from; its size and normalization are kept.
        data: The pictures.
        precision: "fp32", "bf16", or "auto".
        device: What it is computed on.
        world_size: Processes that share a batch.

    Raises:
        ConfigError: There are too few pictures, or the model takes them otherwise than training
            does.
        ModelNotFoundError: Nothing has this name.
    """
    described = weights.describe(model)
    spec, config = described.preprocess, recipes.get(RECIPE).config
    if (spec.mode, spec.orientation) != ("crop", "exif"):
        raise ConfigError(
            f"{model} takes pictures by mode {spec.mode!r} and orientation {spec.orientation!r};"
            " all layers are trained by 'crop' and 'exif'",
            hint="--head-only keeps the preprocessing as it is",
        )
    count = len(data.train)
    if count < 2:
        raise ConfigError(f"there is {count} picture to learn from; expected at least 2")
    share = max(config.optim.batch_size // world_size, 2)  # of a process: batch norm needs two
    while share > 2 and count // (share * world_size) < _LEAST_STEPS:
        share //= 2
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return replace(
        config,
        model=replace(
            config.model, architecture=described.architecture.name, pretrained=str(model)
        ),
        data=replace(
            config.data,
            train_size=spec.input_size,
            test_size=spec.input_size,
            test_resize=spec.resize,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
        ),
        loss=replace(config.loss, kind="bce" if data.train.multi_label else "cross_entropy"),
        optim=replace(config.optim, batch_size=share * world_size),
        patience=config.patience if data.val is not None else 0,
    ).override([f"precision={precision}"])


def _run(
    data: Data,
    config: TrainConfig,
    path: Path,
    processes: Processes,
    *,
    find_lr: bool,
    force: bool,
) -> Outcome:
    folder = path.with_suffix(FOLDER)
    check(config, data, world_size=processes.world_size)  # before a folder is made
    suited_to(config, processes.device.type)
    if processes.is_first:
        asked = {
            "config": config.to_json(),
            "find_lr": find_lr,
            "split": dict(data.split),
        }
        _prepare(folder, asked, force=force)
    processes.wait()
    outcome = full.run(data, config, folder, find_lr=find_lr, processes=processes)
    if processes.is_first:
        document, tensors = modelfile.read(outcome.model)
        modelfile.write(path, replace(document, name=path.stem), tensors)
        (folder / ASKED).unlink(missing_ok=True)
    return outcome


def _prepare(folder: Path, asked: Asked, *, force: bool) -> None:
    """Record what a run is asked that begins; by force, begin anew unless it is at just that.

    Raises:
        OutputError: The folder cannot be written.
    """
    begun = checkpoint.found(folder / "checkpoints")
    if begun and force and not _is_at(folder, asked):
        print(f"note: {folder} begins anew (--force)", file=sys.stderr)
        checkpoint.clear(folder / "checkpoints")
        begun = []
    if begun:  # the run itself refuses what it was not asked
        return
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    records.write_json(folder / ASKED, asked)


def _is_at(folder: Path, asked: Asked) -> bool:
    """Tell whether a run is under way that was asked the same, but for how it is computed."""
    before = records.read_json(folder / ASKED)
    try:
        configs = [TrainConfig.from_json(each.pop("config")) for each in (before, {**asked})]
    except (AttributeError, ConfigError, KeyError, TypeError):
        return False  # none, or one that cannot be read
    same = {key: asked[key] for key in asked if key != "config"}
    return before == same and set(differences(*configs)) <= MAY_CHANGE
