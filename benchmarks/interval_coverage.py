"""How often intervals of 95 % have inside what they are of, in simulated samples.

    python benchmarks/interval_coverage.py

Models answer each class by chances of their own: right as often as is said, else with classes
drawn by Dirichlet's law (0.2). The truth are the figures of endlessly many pictures, of each
class in the same proportion. Every tenth sample has another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paired

from resnext.evaluation import intervals, metrics, multilabel
from resnext.evaluation.intervals import Interval

SHOWN = ("macro_precision", "macro_recall", "macro_f1", "weighted_f1")
UNEVEN = (200, 50, 20, 10, 5)
# Pictures of each class, share of right answers (None: 0.5 to 0.95), samples.
ALONE: tuple[tuple[Sequence[int], float | None, int], ...] = (
    ((50,) * 2, 0.95, 600),
    ((20,) * 5, 0.97, 600),
    ((20,) * 5, 0.9, 600),
    ((10,) * 5, 0.97, 600),
    ((5,) * 10, None, 600),
    ((10,) * 20, 0.97, 400),
    ((50,) * 20, None, 300),
    ((10,) * 200, None, 100),
    (UNEVEN, None, 600),
    (UNEVEN, 0.95, 600),
)
# The same, and the share of pictures that both answer alike whatever B would say.
PAIRS = (
    ((20,) * 5, 0.9, 400, 0.5),
    ((20,) * 5, 0.97, 400, 0.5),
    ((20,) * 5, 0.9, 400, 0.9),
    ((5,) * 10, None, 400, 0.7),
    ((10,) * 20, 0.97, 300, 0.7),
    ((10,) * 60, None, 150, 0.7),
)
Chances = np.ndarray[Any, np.dtype[np.float64]]


def draw_model(classes: int, right: float | None, rng: np.random.Generator) -> Chances:
    """Draw the chances (K, K) of answers to each class."""
    chances = rng.dirichlet(np.full(classes, 0.2), classes)
    np.fill_diagonal(chances, 0)
    chances /= chances.sum(axis=1, keepdims=True)
    share = rng.uniform(0.5, 0.95, classes) if right is None else np.full(classes, right)
    return (1 - share)[:, None] * chances + share[:, None] * np.eye(classes)


def truth(chances: Chances, sizes: Sequence[int]) -> dict[str, float]:
    """Compute the figures of endlessly many pictures."""
    cells = chances * np.asarray(sizes)[:, None]
    counts = metrics.ClassCounts(
        right=np.diag(cells), answered=cells.sum(axis=0), support=cells.sum(axis=1)
    )
    return {name: float(value) for name, value in metrics.average_arrays(counts).items()}


def answer(chances: Chances, targets: Any, rng: np.random.Generator) -> Any:
    """Draw an answer to each picture."""
    return (rng.random((len(targets), 1)) > chances.cumsum(axis=1)[targets][:, :-1]).sum(axis=1)


def cover(
    samples: int, sample: Callable[[int], tuple[dict[str, Interval | None], dict[str, float]]]
) -> dict[str, float]:
    """Return the share of intervals that have the truth inside, and of samples without any."""
    hits: dict[str, list[bool]] = {}
    for number in range(samples):
        found, expected = sample(number)
        for name, one in found.items():
            if one is not None:
                inside = one.low - 1e-12 <= expected[name] <= one.high + 1e-12
                hits.setdefault(name, []).append(inside)
    shares = {name: round(float(np.mean(own)), 3) for name, own in hits.items()}
    return {**shares, "without": round(1 - min(map(len, hits.values())) / samples, 3)}


def alone(sizes: Sequence[int], right: float | None, samples: int) -> dict[str, float]:
    """Measure the averages of one model."""
    rng, classes = np.random.default_rng(1), len(sizes)
    targets, models = np.repeat(np.arange(classes), sizes), []

    def sample(number: int) -> Any:
        if number % 10 == 0:
            models.append(draw_model(classes, right, rng))
        answers = answer(models[-1], targets, rng)
        found = intervals.class_averages(answers, targets, num_classes=classes, seed=number)
        return {name: found[name] for name in SHOWN}, truth(models[-1], sizes)

    return cover(samples, sample)


def differences(
    sizes: Sequence[int], right: float | None, samples: int, same: float
) -> dict[str, float]:
    """Measure the differences between two models."""
    rng, classes = np.random.default_rng(1), len(sizes)
    targets, models = np.repeat(np.arange(classes), sizes), []

    def sample(number: int) -> Any:
        if number % 10 == 0:
            models.append([draw_model(classes, right, rng) for _ in range(2)])
        one, other = models[-1]
        first = answer(one, targets, rng)
        alike = rng.random(len(targets)) < same
        second = np.where(alike, first, answer(other, targets, rng))
        found = intervals.class_average_differences(
            (first, second), (targets, targets), num_classes=classes, seed=number
        )
        a, b = truth(one, sizes), truth(same * one + (1 - same) * other, sizes)
        return {name: found[name] for name in SHOWN}, {name: b[name] - a[name] for name in SHOWN}

    return cover(samples, sample)


def several_labels(pictures: int, samples: int) -> dict[str, float]:
    """Measure the averages of a model that answers yes or no of 4 classes."""
    rng = np.random.default_rng(1)

    def draw(count: int) -> Any:
        targets = rng.random((count, 4)) < (0.1, 0.2, 0.3, 0.5)
        return (rng.normal(size=targets.shape) + 1.5 * targets - 1).astype(np.float32), targets

    everything = multilabel.score(*draw(400_000))
    names = ("mean_average_precision", "micro_f1", "macro_f1")
    expected = {name: getattr(everything, name) for name in names}
    return cover(
        samples,
        lambda number: (
            intervals.multilabel_averages(*draw(pictures), draws=200, seed=number),
            expected,
        ),
    )


def turns(count: int, samples: int = 4000) -> float:
    """Measure the mean of turns of work, as `compare` has it of their speed."""
    rows = np.random.default_rng(count).normal(size=(samples, count))
    found = [intervals.mean(row) for row in rows]
    return round(float(np.mean([one.low <= 0 <= one.high for one in found])), 3)


def named(sizes: Sequence[int], right: float | None) -> str:
    """Name a case."""
    even = f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    return f"{even}, {'50 to 95' if right is None else round(100 * right)} % right"


def main() -> None:
    """Measure all."""
    paired.report(
        "interval-coverage",
        {
            "averages": {named(*case[:2]): alone(*case) for case in ALONE},
            "differences": {
                f"{named(*case[:2])}, {case[3]} alike": differences(*case) for case in PAIRS
            },
            "several labels": {str(n): several_labels(n, 300) for n in (100, 250, 1000)},
            "mean of turns": {str(n): turns(n) for n in (2, 3, 4, 7, 19)},
        },
    )


if __name__ == "__main__":
    main()
