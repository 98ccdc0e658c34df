"""Answers that are a yes or no of each class: average precision and F1.

Definitions are scikit-learn's with `zero_division=0`. N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, Logits, check_targets, chunks
from resnext.evaluation.metrics import ClassCounts, share
from resnext.modelfile import ModelDocument

YES_ABOVE = 0.5  # probability


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """Figures of answers that are a yes or no of each class.

    Args:
        mean_average_precision: Mean of `average_precision` over the classes to average.
        micro_f1: F1 of all yes and no together, of all classes.
        macro_f1: Mean F1 of the classes to average.
        average_precision: (K,).
        counts: Of each class, with what `answered` being above the threshold.
    """

    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    average_precision: Floats
    counts: ClassCounts


def is_multi_label(document: ModelDocument) -> bool:
    """Tell whether a model was trained to answer yes or no of each class."""
    dataset, config = (document.provenance.get(key) for key in ("dataset", "config"))
    if not isinstance(dataset, dict) or not isinstance(config, dict):
        return False
    loss = config.get("loss")
    # "bce" alone will not do: some recipes use it where each picture has one label.
    return (
        dataset.get("multi_label") is True and isinstance(loss, dict) and loss.get("kind") == "bce"
    )


def probabilities(logits: Logits) -> Floats:
    """Return the sigmoid of (N, K) logits, each class by itself."""
    found: Floats = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return found


def score(
    logits: Logits,
    targets: Booleans,
    *,
    threshold: float = YES_ABOVE,
    labels: Sequence[int] | None = None,
) -> Scores:
    """Judge answers that are a yes or no of each class.

    Average precision is the sum of (recall gained x precision) over the thresholds, without
    interpolation; equal logits share one. A class without pictures has 0.

    Args:
        logits: (N, K); the probability of a class is the sigmoid of its own.
        targets: (N, K).
        threshold: Yes is a probability above it.
        labels: The classes to average, at least one; by default all.

    Raises:
        ConfigError: Shapes do not fit, or the threshold is not between 0 and 1.
        EngineError: A logit is not finite.
    """
    check_targets(logits, targets)
    if targets.ndim != 2:
        raise ConfigError(f"targets are {targets.shape}; expected (N, K) bool")
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is {threshold}; expected more than 0 and less than 1")
    num_classes = logits.shape[1]
    right, answered = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for part in chunks(*logits.shape):
        yes = logits[part] > np.log(threshold / (1 - threshold))
        answered += yes.sum(axis=0)
        right += (yes & targets[part]).sum(axis=0)
    counts = ClassCounts(right=right, answered=answered, support=targets.sum(axis=0))
    precisions = np.zeros(num_classes)
    for part in chunks(num_classes, len(logits)):  # columns, copied so that each is in one piece
        columns = zip(logits[:, part].T.copy(), targets[:, part].T.copy(), strict=True)
        precisions[part] = [_average_precision(*column) for column in columns]
    everything = ClassCounts(
        right=counts.right.sum(), answered=counts.answered.sum(), support=counts.support.sum()
    )
    averaged = np.arange(num_classes) if labels is None else np.asarray(labels)
    return Scores(
        mean_average_precision=float(precisions[averaged].mean()),
        micro_f1=float(everything.f1),
        macro_f1=float(counts.f1[averaged].mean()),
        average_precision=precisions,
        counts=counts,
    )


def precision_in_draws(
    logits: NDArray[np.floating], targets: Booleans
) -> Callable[[NDArray[np.int32]], Floats]:
    """Prepare to compute the average precision of a class when pictures are drawn again.

    Args:
        logits: (N,) of the class.
        targets: (N,).

    Returns:
        A function of (N, B) numbers: how often each picture was drawn. It returns (B,), NaN
        where no picture of the class was.
    """
    order = np.argsort(-logits, kind="stable")
    group = np.cumsum(np.diff(logits[order], prepend=np.inf) != 0)  # of equal logits
    right = np.flatnonzero(targets[order])
    groups, first = np.unique(group[right], return_index=True)
    ends = np.searchsorted(group, groups, side="right")  # only there does precision count
    starts, order = np.append(0, ends)[:-1], order[: ends[-1] if ends.size else 0]

    def average(drawn: NDArray[np.int32]) -> Floats:
        if not right.size:
            return np.full(drawn.shape[1], np.nan)
        gained = np.add.reduceat(drawn[order[right]], first, axis=0)
        found = np.cumsum(gained, axis=0)
        above = np.cumsum(np.add.reduceat(drawn[order], starts, axis=0), axis=0)
        total = found[-1]
        sums = (gained * share(found, above)).sum(axis=0)
        return np.where(total > 0, share(sums, total), np.nan)

    return average


def _average_precision(logits: NDArray[np.floating], targets: Booleans) -> float:
    order = np.argsort(-logits)
    ends = np.flatnonzero(np.diff(logits[order], append=np.inf))  # of groups of equal ones
    found = np.cumsum(targets[order])[ends]
    gained = np.diff(found, prepend=0)
    return float(share((gained * found / (ends + 1)).sum(), found[-1] if found.size else 0))
