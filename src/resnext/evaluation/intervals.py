"""How sure a figure is: intervals of shares, means and class averages.

A proportion has Wilson's interval, a mean the normal one, what is made of class counts the
bootstrap. All hold for pictures drawn independently; they know nothing of another camera.
N pictures, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError
from resnext.evaluation import metrics, multilabel
from resnext.evaluation.arrays import (
    Booleans,
    Floats,
    Integers,
    Logits,
    check_pairs,
    check_targets,
    chunks,
    labeled,
)
from resnext.evaluation.metrics import ClassCounts

CONFIDENCE = 0.95
DRAWS = 1000

_FEWEST_DRAWS = 100
_MOST_DRAWN = 500_000_000  # pictures x classes x draws: about a second
_ROUNDING = 1e-12  # of figures between -1 and 1

Statistic = Callable[[Integers], Mapping[str, Floats]]


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


def quantile(confidence: float) -> float:
    """Return how many standard deviations each side holds a normal variable that often.

    Raises:
        ConfigError: The confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; expected more than 0 and less than 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(right: int, pictures: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute the interval of a proportion by the score test (Wilson, 1927).

    Args:
        right: Number of right ones.
        pictures: Number of all; of none the interval is 0 to 1.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: The counts do not fit, or the confidence is out of range.
    """
    if not 0 <= right <= pictures:
        raise ConfigError(f"{right} of {pictures} are right; expected 0 to all of them")
    z = quantile(confidence)
    if not pictures:
        return Interval(low=0.0, high=1.0, confidence=confidence)
    share = right / pictures
    center = share + z * z / (2 * pictures)
    reach = z * math.sqrt(share * (1 - share) / pictures + (z / (2 * pictures)) ** 2)
    scale = 1 + z * z / pictures
    return Interval(
        low=(center - reach) / scale if right else 0.0,  # exactly, not nearly
        high=(center + reach) / scale if right < pictures else 1.0,
        confidence=confidence,
    )


def mean(values: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """Compute the interval of a mean over pictures, such as the loss, by the normal law.

    Args:
        values: (N,) of each picture, at least 2.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: There are fewer than 2 values, or the confidence is out of range.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ConfigError(f"values are {values.shape}; expected (N,) of at least 2 pictures")
    center = float(values.mean(dtype=np.float64))
    error = float(values.std(ddof=1, dtype=np.float64)) / math.sqrt(len(values))
    reach = quantile(confidence) * error
    return Interval(low=center - reach, high=center + reach, confidence=confidence)


def class_averages(
    answers: Integers,
    targets: Integers,
    *,
    num_classes: int,
    labels: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Compute intervals of all of `metrics.Averages`, by name; None as for `bootstrap`.

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
    targets, answers = labeled(targets, answers, num_classes=num_classes)
    cells, pictures = np.unique(targets * num_classes + answers, return_counts=True)
    strata, answered = np.divmod(cells, num_classes)

    count = _counter(strata, answered, num_classes)

    def statistic(counts: Integers) -> Mapping[str, Floats]:
        return metrics.average_arrays(count(counts), labels=labels)

    return bootstrap(
        statistic,
        pictures,
        strata,
        bounds=(0, 1),
        draws=draws,
        seed=seed,
        confidence=confidence,
    )


def multilabel_averages(
    logits: Logits,
    targets: Booleans,
    *,
    threshold: float = multilabel.YES_ABOVE,
    labels: Sequence[int] | None = None,
    draws: int | None = None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Compute intervals of the averages of `multilabel.Scores`, by name.

    All pictures are drawn again, with their labels. A class of which a draw has no picture is
    not in its mean; where a class has a single picture, the means over classes have no interval.

    Args:
        logits: (N, K).
        targets: (N, K).
        threshold: Yes is a probability above it.
        labels: The classes to average, at least one; by default all.
        draws: How many times; by default as many as take about a second, at most 1,000. There
            are no intervals if these are less than 100.
        seed: Of these draws.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: Shapes or options do not fit.
    """
    check_targets(logits, targets)
    draws = min(DRAWS, _MOST_DRAWN // max(1, targets.size)) if draws is None else draws
    averaged = np.arange(targets.shape[1]) if labels is None else np.asarray(labels)
    if draws < _FEWEST_DRAWS:
        return dict.fromkeys(("mean_average_precision", "micro_f1", "macro_f1"))
    yes = logits > np.log(threshold / (1 - threshold))
    tables = [table.astype(np.float32) for table in (yes & targets, yes, targets)]
    precisions = [
        multilabel.precision_in_draws(logits[:, place], targets[:, place]) for place in averaged
    ]

    def statistic(drawn: Integers) -> Mapping[str, Floats]:
        # Numbers of pictures are exact in float32 up to 16 million.
        sums = [drawn.astype(np.float32) @ table for table in tables]
        counts = _class_counts(*sums)
        everything = _class_counts(*(one.sum(axis=1, dtype=np.float64) for one in sums))
        present = counts.support[:, averaged] > 0
        columns = np.ascontiguousarray(drawn.T, np.int32)
        found = np.stack([precision(columns) for precision in precisions], axis=1)
        return {
            "mean_average_precision": _mean_of(found, present),
            "micro_f1": everything.f1,
            "macro_f1": _mean_of(counts.f1[:, averaged], present),
        }

    number = np.ones(len(targets), np.int64)
    found = bootstrap(statistic, number, 0 * number, bounds=(0, 1), draws=draws, seed=seed,
                      confidence=confidence)  # fmt: skip
    if (targets[:, averaged].sum(axis=0) == 1).any():
        found |= dict.fromkeys(("mean_average_precision", "macro_f1"))
    return found


def _class_counts(right: Floats, answered: Floats, support: Floats) -> ClassCounts:
    return ClassCounts(
        right=right.astype(np.int64),
        answered=answered.astype(np.int64),
        support=support.astype(np.int64),
    )


def _mean_of(values: Floats, present: NDArray[np.bool_]) -> Floats:
    """Return the mean of each row's values that are present."""
    return metrics.share(np.where(present, values, 0).sum(axis=1), present.sum(axis=1))


def class_average_differences(
    answers: tuple[Integers, Integers],
    targets: tuple[Integers, Integers],
    *,
    num_classes: int,
    labels: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Compute intervals of B's `metrics.Averages` less A's, on the same pictures.

    Args:
        answers: (N,) class indices of A, and of B.
        targets: (N,) class indices, or `UNLABELED`, for A and for B: the same, but where a
            picture has several right classes, of which each model's own choice counts. The
            draws are within each class of A's.
        num_classes: As for `class_averages`, like all others.
        labels: The same.
        draws: The same.
        seed: The same.
        confidence: The same.
    """
    columns = [
        column
        for own, answered in zip(targets, answers, strict=True)
        for column in labeled(own, answered, num_classes=num_classes)
    ]
    check_pairs(columns[0], columns[2], names="targets of A and of B")
    cells, pictures = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    strata, first, own, second = cells.T
    counters = [
        _counter(strata, first, num_classes),
        _counter(own, second, num_classes),
    ]

    def statistic(counts: Integers) -> Mapping[str, Floats]:
        a, b = (metrics.average_arrays(count(counts), labels=labels) for count in counters)
        return {name: b[name] - a[name] for name in a}

    return bootstrap(
        statistic,
        pictures,
        strata,
        bounds=(-1, 1),
        draws=draws,
        seed=seed,
        confidence=confidence,
    )


def bootstrap(
    statistic: Statistic,
    pictures: Integers,
    strata: Integers,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Compute intervals by drawing the pictures again, within each stratum.

    The interval is that of the percentiles (Efron and Tibshirani, 1993, chapter 13), moved
    down by twice the bias that the draws show: once for theirs, once for the sample's, which
    is about the same. Few pictures make macro precision look better than it is: of 200 classes
    of 10 pictures each it was inside in 89 of 100 simulated samples, without moving in 36.
    An end on which many draws lie stays: as at 0, where two models differ in a picture or two.

    Draws say nothing of a stratum of one picture, nor of a figure that none of them changes,
    as where all answers are right: there is no interval then, rather than one without width.

    Args:
        statistic: Takes (B, M) numbers of pictures in each cell, and returns (B,) values of
            each name.
        pictures: (M,) number of equal pictures in each cell: 1 each, if none are equal.
        strata: (M,) which stratum each cell belongs to, in ascending order; the number of
            pictures of each stays what it is.
        bounds: Between which the figures are.
        draws: How many times, at least 100.
        seed: Of the draws.
        confidence: More than 0 and less than 1.

    Returns:
        The interval of each name, or None.

    Raises:
        ConfigError: Shapes or options do not fit.
    """
    check_pairs(pictures, strata, names="pictures and strata")
    if draws < _FEWEST_DRAWS:
        raise ConfigError(f"draws is {draws}; expected at least {_FEWEST_DRAWS}")
    quantile(confidence)
    seen = statistic(pictures[None])
    if (np.bincount(strata, weights=pictures) == 1).any():
        return dict.fromkeys(seen)
    parts = [statistic(counts) for counts in _redraw(pictures, strata, draws=draws, seed=seed)]
    found: dict[str, Interval | None] = {}
    for name, (value,) in seen.items():
        values = np.concatenate([part[name] for part in parts])
        if np.ptp(values) < _ROUNDING:
            found[name] = None
            continue
        ends = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        moved = ends - 2 * (values.mean() - value)
        low, high = np.clip(np.where(_many_at(ends, values, confidence), ends, moved), *bounds)
        found[name] = Interval(low=float(low), high=float(high), confidence=confidence)
    return found


def _many_at(ends: Floats, values: Floats, confidence: float) -> NDArray[np.bool_]:
    """Tell whether more draws lie on an end than are to lie beyond it."""
    on = np.abs(values - ends[:, None]) < _ROUNDING
    return np.asarray(on.mean(axis=1) > (1 - confidence) / 2)


def _redraw(pictures: Integers, strata: Integers, *, draws: int, seed: int) -> Iterator[Integers]:
    """Yield (B, M) numbers of pictures in each cell, until there are as many as draws."""
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(np.diff(strata, prepend=-1))
    ends = [*starts[1:], len(strata)]
    mixed = [slice(a, b) for a, b in zip(starts, ends, strict=True) if b - a > 1]
    for part in chunks(draws, len(strata)):
        counts = np.tile(pictures, (part.stop - part.start, 1))
        for cells in mixed:
            total = pictures[cells].sum()
            counts[:, cells] = rng.multinomial(total, pictures[cells] / total, size=len(counts))
        yield counts


def _counter(
    strata: Integers, answered: Integers, num_classes: int
) -> Callable[[Integers], ClassCounts]:
    """Prepare to add up (B, M) cells, each of one target and one answer, to (B, K) classes."""
    right = np.flatnonzero(answered == strata)
    by_right = _adder(strata[right], num_classes)
    by_answer, by_target = _adder(answered, num_classes), _adder(strata, num_classes)
    return lambda counts: ClassCounts(
        right=by_right(counts[:, right]), answered=by_answer(counts), support=by_target(counts)
    )


def _adder(classes: Integers, num_classes: int) -> Callable[[Integers], Integers]:
    """Prepare to add up the columns of each class."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)

    def add(counts: Integers) -> Integers:
        found = np.zeros((len(counts), num_classes), np.int64)
        if order.size:
            found[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
        return found

    return add
