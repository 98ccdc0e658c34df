"""What a recipe is: its numbers, their source, its cost and promise.

A number is promised for the architectures listed with it, on the recipe's own data, with the
settings that produced it, and for nothing else: `deviations` says what a run changed. The
recipes are in `training.recipes`. Standard library only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resnext import arch
from resnext.errors import ConfigError, closest, counted
from resnext.training.config import TrainConfig, differences, show, value_of

Build = Callable[[], TrainConfig]

BACKWARD = 2  # a backward pass costs about two forward ones

_TOLERANCE = 0.01  # of the number of training pictures: some leave out unreadable ones
# What a run may choose without leaving the recipe: where and how fast it computes.
_FREE = {
    "recipe",
    "seed",
    "deterministic",
    "channels_last",
    "compile",
    "data.num_workers",
    "data.cache",
    "data.scan",
    "data.split_seed",
    "data.val_share",
    "optim.grad_accum_steps",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A public data set.

    Args:
        name: As people call it.
        num_classes: Number of classes.
        num_pictures: Number of training pictures.
    """

    name: str
    num_classes: int
    num_pictures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A way to train, and what is known of it.

    Args:
        name: What `--recipe` takes.
        build: Returns its numbers.
        source: Paper, table or file that they come from.
        dataset: What the expected numbers were published for; None for any data.
        expected: Promised top-1 in percent on the validation pictures, by architecture.
        published: The same where the settings behind it are not known or not met exactly, as
            the description says: good to compare with, not promised.
        settings: What an architecture was trained with instead, as `override` takes it.
        norm_batch_sizes: Pictures that a batch norm saw at once, by architecture.
        measured: How that was measured, or why there is none.
        time: Published training time.
    """

    name: str
    build: Build
    source: str
    dataset: Dataset | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_batch_sizes: Mapping[str, int] = field(default_factory=dict)
    measured: str = ""
    time: str = ""

    @property
    def config(self) -> TrainConfig:
        """The numbers, with the name of the recipe."""
        return self.config_for("")

    def config_for(self, architecture: str) -> TrainConfig:
        """Return the numbers for an architecture.

        Args:
            architecture: Any; "" for the recipe's own.
        """
        config = replace(self.build(), recipe=self.name)
        architecture = architecture or config.model.architecture
        own = self.settings.get(architecture, ())
        return config.override([f"model.architecture={architecture}", *own])

    @property
    def numbers(self) -> dict[str, float]:
        """Top-1 in percent by architecture, promised or not."""
        return {**self.published, **self.expected}

    @property
    def summary(self) -> str:
        """First sentence of its description."""
        return self.text.partition("\n")[0].rstrip(".")

    @property
    def text(self) -> str:
        """Its description."""
        return inspect.getdoc(self.build) or ""

    @property
    def command(self) -> str:
        """The command line that runs it."""
        return f"resnext train DATA --recipe {self.name} -o runs/{self.name}"

    def cost(self, architecture: str = "") -> Cost | None:
        """Compute how much there is to do, or None if that depends on the data.

        Args:
            architecture: Another than the recipe's own.
        """
        if self.dataset is None:
            return None
        config = self.config_for(architecture)
        spec = arch.parse(config.model.architecture)
        spec = replace(spec, num_classes=self.dataset.num_classes)
        pictures = config.schedule.epochs * self.dataset.num_pictures
        forward = arch.num_macs(spec, config.data.train_size)
        return Cost(pictures=pictures, macs=pictures * forward * (1 + BACKWARD))

    def to_json(self) -> dict[str, Any]:
        """Return all that is known of it as plain JSON values."""
        cost = self.cost()
        return {
            "name": self.name,
            "summary": self.summary,
            "text": self.text,
            "source": self.source,
            "dataset": None if self.dataset is None else self.dataset.name,
            "architecture": self.config.model.architecture,
            "expected": dict(self.expected),
            "published": dict(self.published),
            "settings": {name: list(each) for name, each in self.settings.items()},
            "norm_batch_sizes": dict(self.norm_batch_sizes),
            "measured": self.measured,
            "time": self.time,
            "pictures": None if cost is None else cost.pictures,
            "macs": None if cost is None else cost.macs,
            "command": self.command,
            "config": self.config.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """How much there is to compute.

    Args:
        pictures: Training pictures, over all epochs.
        macs: Multiply-accumulates, forward and backward.
    """

    pictures: int
    macs: int

    def show_macs(self) -> str:
        """Write the multiply-accumulates, such as 1.6e18."""
        return f"{self.macs:.1e}".replace("e+", "e")

    def __str__(self) -> str:
        return f"{self.pictures / 1e6:,.0f} M pictures, {self.show_macs()} MACs"


_RECIPES: dict[str, Recipe] = {}


def recipe(name: str, **facts: Any) -> Callable[[Build], Build]:
    """Register a function as a recipe.

    Args:
        name: What `--recipe` takes.
        facts: Other fields of `Recipe`.
    """

    def register(build: Build) -> Build:
        _RECIPES[name] = Recipe(name=name, build=build, **facts)
        return build

    return register


def names() -> list[str]:
    """List the recipes in the order they are written down."""
    return list(_RECIPES)


def get(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        ConfigError: There is none.
    """
    if name not in _RECIPES:
        near = closest(name, _RECIPES)
        raise ConfigError(
            f"there is no recipe {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(_RECIPES)}",
        )
    return _RECIPES[name]


def is_published(name: str) -> bool:
    """Tell whether there are published numbers to hold a run against."""
    return name in _RECIPES and bool(_RECIPES[name].numbers)


def promised(config: TrainConfig) -> float | None:
    """Return what a run's recipe promises for its architecture: top-1 in percent."""
    found = _RECIPES.get(config.recipe)
    return None if found is None else found.expected.get(config.model.architecture)


def published(config: TrainConfig) -> float | None:
    """Return the top-1 in percent that is known of a run's recipe, promised or not."""
    found = _RECIPES.get(config.recipe)
    return None if found is None else found.numbers.get(config.model.architecture)


def deviations(
    config: TrainConfig,
    *,
    num_classes: int | None = None,
    num_pictures: int | None = None,
    world_size: int = 1,
) -> list[str]:
    """Say what a run changed against its recipe, and what that means.

    Args:
        config: What the run does.
        num_classes: Of its data, where that is known.
        num_pictures: Training pictures, where that is known.
        world_size: Processes that share a batch.

    Returns:
        One sentence each; none for a run that keeps to its recipe, or has none.
    """
    found = _RECIPES.get(config.recipe)
    if found is None:
        return []
    architecture = config.model.architecture
    original = found.config_for(architecture if architecture in found.numbers else "")
    said = [
        _describe_change(path, config, original)
        for path in differences(config, original)
        if path not in _FREE
    ]
    said += _other_norm_batch(found, config, world_size)
    said += _other_data(found.dataset, num_classes, num_pictures)
    number = found.numbers.get(original.model.architecture)
    if number is None:
        return said
    if original.model.architecture in found.published:
        said.append(f"{number:g} % top-1 was published with settings that are not exactly these,"
                    f" and is not promised: see `resnext recipes {found.name}`")  # fmt: skip
    elif said:
        said.append(f"so the published {number:g} % top-1 is no longer promised")
    return said


def _other_norm_batch(found: Recipe, config: TrainConfig, world_size: int) -> list[str]:
    published = found.norm_batch_sizes.get(config.model.architecture)
    num_parts = config.optim.grad_accum_steps
    if published is None or not num_parts:  # 0: not found by trial yet
        return []
    share = config.optim.batch_size // world_size
    seen = math.ceil(share / num_parts)
    if config.model.sync_batch_norm:
        seen *= world_size
    if seen == published:
        return []
    said = (
        f"batch norms see {counted(seen, 'picture')} at once; the published run's saw {published}"
    )
    if share % published == 0 and not config.model.sync_batch_norm:
        said += f" (--set optim.grad_accum_steps={share // published})"
    return [said]


def _other_data(
    dataset: Dataset | None, num_classes: int | None, num_pictures: int | None
) -> list[str]:
    if dataset is None:
        return []
    said = []
    if num_classes is not None and num_classes != dataset.num_classes:
        said.append(f"the data has {counted(num_classes, 'class', 'classes')}; {dataset.name} has"
                    f" {dataset.num_classes:,}")  # fmt: skip
    if num_pictures is not None and abs(num_pictures / dataset.num_pictures - 1) > _TOLERANCE:
        said.append(f"the data has {counted(num_pictures, 'training picture')}; {dataset.name} has"
                    f" {dataset.num_pictures:,}")  # fmt: skip
    return said


def _describe_change(path: str, config: TrainConfig, original: TrainConfig) -> str:
    was, now = value_of(original, path), value_of(config, path)
    said = f"{path} is {show(now)}; the recipe has {show(was)}"
    if path == "optim.batch_size":
        rate = config.optim.scaled_lr
        said += f" (the learning rate follows, {config.optim.lr_scaling}: {rate:.4g})"
    return said
