"""What a recipe is: its numbers, their source, its cost and promise.

A number is promised for the architectures listed with it, on the recipe's own data, and for
nothing else: `deviations` says what a run changed. The recipes are in `training.recipes`.
Standard library only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resnext import arch
from resnext.errors import ConfigError, closest
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
    "data.num_workers",
    "data.cache",
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
        expected: Top-1 in percent on the validation pictures, by architecture.
        measured: How that was measured, or why there is none.
        time: Published training time.
    """

    name: str
    build: Build
    source: str
    dataset: Dataset | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    measured: str = ""
    time: str = ""

    @property
    def config(self) -> TrainConfig:
        """The numbers, with the name of the recipe."""
        return replace(self.build(), recipe=self.name)

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
        config = self.config
        spec = arch.parse(architecture or config.model.architecture)
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
    return name in _RECIPES and bool(_RECIPES[name].expected)


def promised(config: TrainConfig) -> float | None:
    """Return the published top-1 of a run's recipe for its architecture, in percent."""
    found = _RECIPES.get(config.recipe)
    return None if found is None else found.expected.get(config.model.architecture)


def deviations(
    config: TrainConfig, *, num_classes: int | None = None, num_pictures: int | None = None
) -> list[str]:
    """Say what a run changed against its recipe, and what that means.

    Args:
        config: What the run does.
        num_classes: Of its data, where that is known.
        num_pictures: Training pictures, where that is known.

    Returns:
        One sentence each; none for a run that keeps to its recipe, or has none.
    """
    found = _RECIPES.get(config.recipe)
    if found is None:
        return []
    original = found.config
    said = [
        _describe_change(path, config, original)
        for path in differences(config, original)
        if path not in _FREE and not (path == "model.architecture" and promised(config))
    ]
    said += _other_data(found.dataset, num_classes, num_pictures)
    number = promised(config) or promised(original)
    if said and number is not None:
        said.append(f"so the published {number:g} % top-1 is no longer promised")
    return said


def _other_data(
    dataset: Dataset | None, num_classes: int | None, num_pictures: int | None
) -> list[str]:
    if dataset is None:
        return []
    said = []
    if num_classes is not None and num_classes != dataset.num_classes:
        said.append(f"the data has {num_classes:,} classes; {dataset.name} has"
                    f" {dataset.num_classes:,}")  # fmt: skip
    if num_pictures is not None and abs(num_pictures / dataset.num_pictures - 1) > _TOLERANCE:
        said.append(f"the data has {num_pictures:,} training pictures; {dataset.name} has"
                    f" {dataset.num_pictures:,}")  # fmt: skip
    return said


def _describe_change(path: str, config: TrainConfig, original: TrainConfig) -> str:
    was, now = value_of(original, path), value_of(config, path)
    said = f"{path} is {show(now)}; the recipe has {show(was)}"
    if path == "optim.batch_size":
        rate = config.optim.scaled_lr
        said += f" (the learning rate follows, {config.optim.lr_scaling}: {rate:.4g})"
    return said
