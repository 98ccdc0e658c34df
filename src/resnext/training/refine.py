"""[train] Full fine-tuning: all layers of a model learn new classes.

data.open_data -> full.run -> modelfile. The run's folder stays beside the model
file, with curves and report; the same command goes on with a run that was stopped.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from resnext import weights
from resnext.errors import ConfigError
from resnext.files import atomic
from resnext.modelfile import check_output
from resnext.training import full, recipes
from resnext.training.config import TrainConfig
from resnext.training.data import Data, open_data
from resnext.training.dist import Processes, joined
from resnext.training.full import Outcome, Stopped
from resnext.training.scan import Problem

__all__ = ["Refined", "Stopped", "make_config", "tune_all"]

RECIPE = "finetune"
FOLDER = ".run"  # what the name of the run's folder ends in

_LEAST_STEPS = 4  # of an epoch: smaller batches for few pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """What came out.

    Args:
        path: The model file.
        outcome: The run that made it.
        problems: Pictures that could not be read, and were left out.
        seconds: Time it took.
    """

    path: Path
    outcome: Outcome
    problems: tuple[Problem, ...]
    seconds: float

    def summary(self) -> list[tuple[str, object]]:
        """Return what people want to know, and the command that comes next."""
        metrics = self.outcome.metrics
        return [
            ("file", self.path),
            ("left out", f"{len(self.problems)} that cannot be read" if self.problems else ""),
            ("held-out top-1", f"{metrics['top1']:.2f} %" if "top1" in metrics else ""),
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
        force: Whether to replace a file that is there.

    Raises:
        ConfigError: An option will not do, or the file is there.
        DatasetError: The pictures cannot be used.
        ModelNotFoundError: Nothing has the model's name.
        OutputError: A file cannot be written.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was written.
    """
    started = time.monotonic()
    check_output(path, force=force)
    if threads is not None:
        torch.set_num_threads(threads)
    weights.locate(model, offline=offline or None)  # before the pictures are looked through
    opened = open_data(data, seed=seed, val_share=val_share)
    with joined() as processes:
        config = make_config(model, opened, precision=precision, device=processes.device)
        changes = [f"seed={seed}", f"loss.class_weights={class_weights}", *settings]
        config = config.override(changes)
        if config.loss.teacher:
            config = config.taught_by(config.loss.teacher)
        outcome = _run(opened, config, path, processes, find_lr=find_lr)
    return Refined(
        path=path, outcome=outcome, problems=outcome.left_out, seconds=time.monotonic() - started
    )


def make_config(
    model: str, data: Data, *, precision: str = "auto", device: torch.device
) -> TrainConfig:
    """Fit the recipe `finetune` to a model and to the number of pictures.

    Args:
        model: What to start from; its size and normalization are kept.
        data: The pictures.
        precision: "fp32", "bf16", or "auto".
        device: What it is computed on.

    Raises:
        ConfigError: There are too few pictures.
        ModelNotFoundError: Nothing has this name.
    """
    described = weights.describe(model)
    spec, config = described.preprocess, recipes.get(RECIPE).config
    count = len(data.train)
    if count < 2:
        raise ConfigError(f"there is {count} picture to learn from; expected at least 2")
    batch_size = config.optim.batch_size
    while batch_size > 2 and count // batch_size < _LEAST_STEPS:
        batch_size //= 2
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
        optim=replace(config.optim, batch_size=batch_size),
        patience=config.patience if data.val is not None else 0,
    ).override([f"precision={precision}"])


def _run(
    data: Data, config: TrainConfig, path: Path, processes: Processes, *, find_lr: bool
) -> Outcome:
    folder = path.with_suffix(FOLDER)
    outcome = full.run(data, config, folder, find_lr=find_lr, processes=processes)
    if processes.is_first:
        with atomic(path) as file:
            file.write(outcome.model.read_bytes())
    return outcome
