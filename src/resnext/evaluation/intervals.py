"""How far figures of a sample may be from those of all pictures: 95 % intervals.

A proportion has Wilson's interval, a mean the normal one, what is made of class counts the
bootstrap. All hold for pictures drawn independently; they know nothing of another camera.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError
from resnext.evaluation import metrics
from resnext.evaluation.arrays import Floats, Integers
from resnext.evaluation.metrics import ClassCounts

CONFIDENCE = 0.95
DRAWS = 1000

Statistic = Callable[[NDArray[np.int64]], Mapping[str, Floats]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where the figure of all pictures is believed to be.

    Args:
        low: Lower end.
        high: Upper end.
        confidence: In how many of many samples the interval has it inside.
    """

    low: float
    high: float
    confidence: float = CONFIDENCE


def wilson(right: int, pictures: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute the interval of a proportion by the score test (Wilson, 1927).

    Args:
        right: Number of right ones.
        pictures: Number of all; of none the interval is 0 to 1.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: The counts do not fit, or the confidence is out of range.
    """
    raise NotImplementedError


def mean(values: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute the interval of a mean of pictures, such as the loss, by the normal law.

    Args:
        values: (N,) of each picture, at least 2.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: There are fewer than 2 values, or the confidence is out of range.
    """
    raise NotImplementedError


def class_averages(
    answers: Integers,
    targets: Integers,
    *,
    num_classes: int,
    labels: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval]:
    """Compute intervals of all of `metrics.Averages`, by name.

    Args:
        answers: (N,) class indices.
        targets: (N,) class indices, or `UNLABELED`.
        num_classes: K.
        labels: The classes to average; by default all.
        draws: How many times the pictures are drawn again, within each class.
        seed: Of these draws.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: Shapes, indices or options do not fit.
    """
    raise NotImplementedError


def class_average_differences(
    answers_a: Integers,
    answers_b: Integers,
    targets: Integers,
    *,
    num_classes: int,
    labels: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval]:
    """Compute intervals of B's `metrics.Averages` less A's, on the same pictures.

    Arguments as for `class_averages`.
    """
    raise NotImplementedError


def bootstrap(
    statistic: Statistic,
    pictures: Integers,
    strata: Integers,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval]:
    """Compute intervals by drawing the pictures again, within each stratum.

    Args:
        statistic: Takes (B, M) numbers of pictures in each cell, and returns (B,) values of
            each name.
        pictures: (M,) number of equal pictures in each cell: 1 each, if none are equal.
        strata: (M,) which stratum each cell belongs to; its size stays what it is.
        draws: How many times, at least 100.
        seed: Of the draws.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: Shapes or options do not fit.
    """
    raise NotImplementedError
