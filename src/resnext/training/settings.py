"""Settings of a run against each other and against its data.

`check` refuses what would end a long run, before a picture is decoded; `advice` tells of what
is meant otherwise than it works. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from resnext import arch
from resnext.errors import ConfigError, counted
from resnext.training import recipes
from resnext.training.config import LossConfig, ModelConfig, TrainConfig, show, value_of
from resnext.training.data import Data

_LEAST = 2  # pictures that a batch norm needs at once
_LONG = 0.5  # of a run: a mean that reaches back further is mostly of what was bad
_USUAL = 0.05  # share of a run that it should reach back
_FEW_STEPS = 4  # of an epoch, that a batch which is proposed leaves
_WITHOUT_OPTION = ("finetune",)  # recipes whose command has no `--batch-size`

# Keys that do nothing unless another setting is so.
_NEEDS: tuple[tuple[str, Callable[[TrainConfig], bool], str], ...] = (
    (
        "schedule.milestones schedule.step_factor",
        lambda config: config.schedule.kind == "step",
        "schedule.kind=step",
    ),
    (
        "schedule.final_factor schedule.cooldown_epochs",
        lambda config: config.schedule.kind == "cosine",
        "schedule.kind=cosine",
    ),
    (
        "schedule.warmup_inside",
        lambda config: config.schedule.kind == "cosine" and config.schedule.warmup_epochs > 0,
        "schedule.kind=cosine and schedule.warmup_epochs",
    ),
    (
        "schedule.warmup_factor",
        lambda config: config.schedule.warmup_epochs > 0,
        "schedule.warmup_epochs",
    ),
    (
        "optim.nesterov",
        lambda config: config.optim.name == "sgd" and config.optim.momentum > 0,
        "optim.name=sgd and optim.momentum",
    ),
    ("augment.crop_area", lambda config: not config.augment.pad, "augment.pad=0"),
    (
        "augment.rand_magnitude augment.rand_ops augment.rand_std augment.rand_chance",
        lambda config: config.augment.policy == "rand",
        "augment.policy=rand",
    ),
    (
        "augment.erase_count augment.erase_noise",
        lambda config: config.augment.erase > 0,
        "augment.erase",
    ),
    ("loss.bce_threshold", lambda config: config.loss.kind == "bce", "loss.kind=bce"),
    (
        "loss.distill_temperature",
        lambda config: bool(config.loss.teacher),
        "loss.teacher",
    ),
    ("ema.every ema.scaling", lambda config: config.ema.decay > 0, "ema.decay"),
    (
        "model.zero_init_last",
        lambda config: not config.model.pretrained,
        "model.pretrained=none",
    ),
)


def check(config: TrainConfig, data: Data, *, world_size: int = 1) -> None:
    """Look for what would make a long run fail, or be for nothing.

    Args:
        config: What to do.
        data: The pictures.
        world_size: Processes that share a batch.

    Raises:
        ConfigError: Config, data and processes do not fit together.
        ModelNotFoundError: No such architecture.
    """
    arch.parse(config.model.architecture)
    _check_batch(config, len(data.train), world_size)
    _check_loss(config.loss, multi_label=data.train.multi_label)
    check_graphs(config)
    for key, value in (("patience", config.patience), ("data.test_sizes", config.data.test_sizes)):
        if value and data.val is None:
            raise ConfigError(
                f"{key} is {show(value)}, and there are no pictures to validate on",
                hint=f"--set {key}={'none' if key == 'data.test_sizes' else 0}",
            )


def check_graphs(config: TrainConfig) -> None:
    """Refuse what CUDA graphs cannot do: add a gradient to one that a graph wrote.

    Raises:
        ConfigError: A batch is computed in parts, and they are to be captured.
    """
    parts = config.optim.grad_accum_steps
    if config.compile == "reduce-overhead" and parts > 1:
        raise ConfigError(
            f"compile is 'reduce-overhead', and optim.grad_accum_steps {parts}; expected 1 with"
            " CUDA graphs",
            hint="--set compile=default, or a smaller batch",
        )


def suited_to(config: TrainConfig, device: str) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return the config as a device computes it, and what is to be said of that.

    A processor has no arithmetic in fp16. A recipe that says fp16 is computed in fp32 there.

    Args:
        config: What to do.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: The run itself asks for fp16, and the device is a processor.
    """
    if config.precision != "fp16" or device != "cpu":
        return config, ()
    slow = "which a processor computes many times slower than fp32"
    if (
        config.recipe not in recipes.names()
        or recipes.get(config.recipe).config.precision != "fp16"
    ):
        raise ConfigError(
            f"precision is 'fp16', {slow}; expected bf16 or fp32",
            hint="--precision bf16, or --precision fp32",
        )
    said = (
        f"the recipe says fp16, {slow}: this run is in fp32 (--precision bf16 is the other choice)"
    )
    return replace(config, precision="fp32"), (said,)


def most_parts(config: TrainConfig, world_size: int) -> int:
    """Return in how many parts a device's share of a batch can be computed.

    Each has pictures enough for a batch norm, of that process or of all.
    """
    share = math.ceil(config.optim.batch_size / world_size)
    together = config.model.sync_batch_norm and world_size >= _LEAST
    return share if together else max(share // _LEAST, 1)


def advice(config: TrainConfig, data: Data) -> list[str]:
    """Say what a run does otherwise than one may think, one sentence each.

    Args:
        config: What is done.
        data: The pictures.
    """
    return [
        *_idle(config),
        *_rising(config),
        *_long_mean(config, len(data.train)),
        *_several_labels(data),
    ]


def _check_batch(config: TrainConfig, count: int, world_size: int) -> None:
    batch_size, parts = config.optim.batch_size, max(config.optim.grad_accum_steps, 1)
    if batch_size % world_size:
        near = max(batch_size // world_size, _LEAST) * world_size
        raise ConfigError(
            f"optim.batch_size is {batch_size}; expected a multiple of {world_size}, the number of"
            " processes",
            hint=_giving_batch(config, near),
        )
    share = batch_size // world_size
    seen = share // min(parts, share)  # more parts than pictures are as many as pictures
    if seen * (world_size if config.model.sync_batch_norm else 1) < _LEAST:
        processes = counted(world_size, "process", "processes")
        each = f", in each of {processes} and {counted(parts, 'part')}"
        least = _LEAST * world_size * parts
        raise ConfigError(
            f"optim.batch_size is {batch_size}; expected at least {least}: batch norm needs"
            f" {_LEAST} pictures at once{each if least > _LEAST else ''}",
            hint=_giving_batch(config, least),
        )
    if count < batch_size:
        fits = max(_some_steps(count // world_size), _LEAST * parts) * world_size
        raise ConfigError(
            f"optim.batch_size is {batch_size}; expected at most {count}, the number of"
            " training pictures",
            hint=f"try {_giving_batch(config, fits)} ({counted(count // fits, 'step')} an epoch)"
            if fits <= count
            else "more pictures, or fewer processes and parts",
        )


def _some_steps(count: int) -> int:
    """Return the largest power of two of which an epoch has a few steps, or what is least."""
    return 1 << max((count // _FEW_STEPS).bit_length() - 1, 1)


def _giving_batch(config: TrainConfig, batch_size: int) -> str:
    """Return the words of a command that set the batch."""
    if config.recipe in _WITHOUT_OPTION:
        return f"--set optim.batch_size={batch_size}"
    return f"--batch-size {batch_size}"


def _check_loss(loss: LossConfig, *, multi_label: bool) -> None:
    if multi_label and loss.kind != "bce":
        raise ConfigError(
            "pictures have several labels, and loss.kind is 'cross_entropy', for one label each",
            hint="--set loss.kind=bce",
        )
    if bool(loss.teacher) != bool(loss.distill_weight):
        raise ConfigError(
            f"loss.teacher is {loss.teacher!r} and loss.distill_weight {loss.distill_weight:g};"
            " expected both or none",
            hint="--set loss.teacher=resnext101_64x4d --set loss.distill_weight=0.5",
        )
    if multi_label and loss.teacher:
        raise ConfigError(
            f"pictures have several labels, and loss.teacher is {loss.teacher!r}, which is"
            " compared by a softmax, for one label each",
            hint="leave the teacher out",
        )


def _idle(config: TrainConfig) -> list[str]:
    """Name the settings that are not the defaults and do nothing."""
    plain = TrainConfig(model=ModelConfig(architecture=config.model.architecture))
    return [
        f"{key}={show(value_of(config, key))} does nothing without {needed}"
        for keys, holds, needed in _NEEDS
        for key in keys.split()
        if not holds(config) and value_of(config, key) != value_of(plain, key)
    ]


def _rising(config: TrainConfig) -> list[str]:
    schedule = config.schedule
    if schedule.warmup_epochs < schedule.epochs:
        return []
    return [f"the learning rate only rises: {counted(schedule.epochs, 'epoch')}, and"
            f" warm-up takes {schedule.warmup_epochs:g}; try --set schedule.warmup_epochs="
            f"{schedule.epochs // 5}"]  # fmt: skip


def _long_mean(config: TrainConfig, count: int) -> list[str]:
    """Say so where the running mean of the weights hardly moves in the time that there is."""
    epochs = config.schedule.epochs - math.ceil(config.schedule.warmup_epochs)
    if not config.ema.decay or epochs <= 0:
        return []
    # Updates are counted anew in each epoch, of which the first step is one.
    updates = math.ceil(count // config.optim.batch_size / config.ema.every)
    back = 1 / (1 - config.ema_decay) / updates
    if back <= _LONG * epochs:
        return []
    decay = max(1 - 1 / (_USUAL * epochs * updates), 0.0)
    better = f"--set ema.decay={decay:.6g}"
    if config.ema.scaling == "run":
        better += " --set ema.scaling=none"
    return [f"the running mean of the weights reaches back {counted(round(back), 'epoch')}, and the"
            f" run has {epochs:,} after its warm-up; try {better}"]  # fmt: skip


def _several_labels(data: Data) -> list[str]:
    if not data.train.multi_label:
        return []
    return ["pictures have several labels: the network learns a yes or no for each class, but"
            " `resnext predict` shares one softmax among them; the best epoch is chosen by the"
            " share of pictures whose best answer is one of their labels"]  # fmt: skip
