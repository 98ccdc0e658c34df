"""Accuracy, precision, recall, F1, confusion, average precision.

Of equal logits the first class counts as better, as in `predictions.decide`. A share of
nothing is 0: precision of a class that is never answered, recall of one without pictures.
Definitions are scikit-learn's with `labels=range(K), zero_division=0`; the tests compare.
N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnext.errors import ConfigError
from resnext.evaluation.arrays import (
    UNLABELED,
    Floats,
    Integers,
    Logits,
    Targets,
    check_logits,
    check_targets,
    chunks,
    labeled,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """How many of the pictures are right.

    Args:
        right: Number of right ones.
        pictures: Number of all that have a target.
    """

    right: int
    pictures: int

    @property
    def accuracy(self) -> float:
        """Share of right ones, 0 to 1."""
        return self.right / self.pictures if self.pictures else 0.0

    @property
    def error(self) -> float:
        """Share of wrong ones, 0 to 1: what the papers print in percent."""
        return 1 - self.accuracy if self.pictures else 0.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassCounts:
    """What all figures of classes are made of; the last axis of each array has the K classes.

    Args:
        right: Pictures of the class that were answered with it: true positives.
        answered: Pictures answered with it.
        support: Pictures of it. All may be weighed, and no whole numbers then.
    """

    right: Integers | Floats
    answered: Integers | Floats
    support: Integers | Floats

    @property
    def precision(self) -> Floats:
        """Share of right ones among those answered with the class."""
        return share(self.right, self.answered)

    @property
    def recall(self) -> Floats:
        """Share of right ones among those of the class."""
        return share(self.right, self.support)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall."""
        return share(2 * self.right, self.answered + self.support)


@dataclass(frozen=True, kw_only=True, slots=True)
class Averages:
    """Figures of classes as one number each, 0 to 1.

    Macro counts each class the same, weighted by its pictures. Balanced accuracy is the mean
    recall of the classes that have pictures; macro recall is of all.
    """

    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    balanced_accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Pictures of one class that were answered with another.

    Args:
        target: Index of the class that they are of.
        answer: Index of the class that was answered.
        pictures: How many.
        share: Of all pictures of the target, 0 to 1.
    """

    target: int
    answer: int
    pictures: int
    share: float


def answers(logits: Logits) -> Integers:
    """Return the best class of each picture, (N,) of (N, K) logits; of equal ones the first.

    Raises:
        ConfigError: The logits are not (N, K).
        EngineError: One is not finite.
    """
    check_logits(logits)
    return np.asarray(logits.argmax(axis=1), np.int64)


def ranks(logits: Logits, targets: Targets) -> Integers:
    """Count the classes that stand before the right one.

    Args:
        logits: (N, K).
        targets: (N,) right classes, or (N, K) bool where several may be right, as in ReaL
            (Beyer et al., arXiv:2006.07159): then the best of them counts.

    Returns:
        (N,): 0 is the best answer, K - 1 the last, `UNLABELED` (-1) where no class is right.

    Raises:
        ConfigError: Shapes or indices do not fit.
        EngineError: A logit is not finite.
    """
    check_targets(logits, targets)
    found = np.full(len(logits), UNLABELED, np.int64)
    classes = np.arange(logits.shape[1])
    for part in chunks(*logits.shape):
        rows, wanted = logits[part], targets[part]
        if wanted.ndim == 2:
            # argmax takes the first of equal ones, which stands before the others.
            best = np.where(wanted, rows, -np.inf).argmax(axis=1)
            wanted = np.where(wanted.any(axis=1), best, UNLABELED)
        own = np.take_along_axis(rows, np.maximum(wanted, 0)[:, None], axis=1)
        before = (rows > own) | ((rows == own) & (classes < wanted[:, None]))
        found[part] = np.where(wanted < 0, UNLABELED, before.sum(axis=1))
    return found


def top_k(ranks: NDArray[np.integer], k: int = 1) -> Proportion:
    """Count the pictures with a right answer among the best k.

    Args:
        ranks: (N,) as from `ranks`; those without a target are left out.
        k: At least 1; more than there are classes is all of them.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; expected at least 1")
    labeled = ranks >= 0
    return Proportion(right=int((labeled & (ranks < k)).sum()), pictures=int(labeled.sum()))


def class_counts(answers: Integers, targets: Integers, *, num_classes: int) -> ClassCounts:
    """Count for each class how often it was answered, was there, and both.

    Args:
        answers: (N,) class indices.
        targets: (N,) class indices; pictures that are `UNLABELED` are left out.
        num_classes: K.

    Raises:
        ConfigError: Shapes or indices do not fit.
    """
    targets, answers = labeled(targets, answers, num_classes=num_classes)
    return ClassCounts(
        right=np.bincount(targets[answers == targets], minlength=num_classes),
        answered=np.bincount(answers, minlength=num_classes),
        support=np.bincount(targets, minlength=num_classes),
    )


def averages(counts: ClassCounts, *, labels: Sequence[int] | None = None) -> Averages:
    """Average the figures of classes.

    Args:
        counts: Of K classes.
        labels: The classes to average; by default all. What was answered with or is of
            another class still counts as an error of those.
    """
    return Averages(**{name: float(x) for name, x in average_arrays(counts, labels=labels).items()})


def average_arrays(
    counts: ClassCounts, *, labels: Sequence[int] | None = None
) -> dict[str, Floats]:
    """Do as `averages` for counts with more axes: (..., K) to (...) of each name."""
    if labels is not None:
        chosen = np.asarray(labels)
        counts = ClassCounts(
            right=counts.right[..., chosen],
            answered=counts.answered[..., chosen],
            support=counts.support[..., chosen],
        )
    figures = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    found = {f"macro_{name}": values.mean(axis=-1) for name, values in figures.items()}
    pictures = counts.support.sum(axis=-1)
    for name, values in figures.items():
        found[f"weighted_{name}"] = share((values * counts.support).sum(axis=-1), pictures)
    present = (counts.support > 0).sum(axis=-1)
    found["balanced_accuracy"] = share(counts.recall.sum(axis=-1), present)
    return found


def confusion_matrix(answers: Integers, targets: Integers, *, num_classes: int) -> Integers:
    """Count pictures by target (row) and answer (column); arguments as for `class_counts`.

    Returns:
        (K, K): 8 MB of 1,000 classes.
    """
    targets, answers = labeled(targets, answers, num_classes=num_classes)
    cells = np.bincount(targets * num_classes + answers, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def confused_pairs(
    answers: Integers, targets: Integers, *, num_classes: int, most: int = 20
) -> tuple[ConfusedPair, ...]:
    """Find the pairs of target and wrong answer with the most pictures.

    Args:
        answers: (N,) class indices.
        targets: (N,) class indices, or `UNLABELED`.
        num_classes: K.
        most: How many pairs.

    Returns:
        The one with the most pictures first, equal ones by target and answer.
    """
    targets, answers = labeled(targets, answers, num_classes=num_classes)
    support = np.bincount(targets, minlength=num_classes)
    wrong = answers != targets
    cells, pictures = np.unique(targets[wrong] * num_classes + answers[wrong], return_counts=True)
    order = np.argsort(-pictures, kind="stable")[:most]
    return tuple(
        ConfusedPair(
            target=cell // num_classes,
            answer=cell % num_classes,
            pictures=count,
            share=count / int(support[cell // num_classes]),
        )
        for cell, count in zip(cells[order].tolist(), pictures[order].tolist(), strict=True)
    )


def share(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Divide; a share of nothing is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    found = np.zeros(np.broadcast(part, whole).shape)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
