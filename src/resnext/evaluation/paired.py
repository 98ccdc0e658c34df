"""Two models on the same pictures: which is better, by how much, where.

Differences are B's accuracy less A's: above 0, B is better. Only pictures on which one is
right and the other is wrong tell the two apart.
N pictures, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, Integers, check_classes, check_pairs
from resnext.evaluation.intervals import CONFIDENCE, Interval, quantile

_HALVINGS = 60  # of a range of at most 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two models did on the same pictures.

    Args:
        both: Number of pictures that both have right.
        only_a: That A has right and B wrong.
        only_b: That B has right and A wrong.
        neither: That both have wrong.
        interval: Of `difference`, by Tango's score (see `difference_interval`).
        exact: Two-sided p-value of McNemar's exact test that both are equally good.
        mid_p: Its mid-p variant, which is less timid; the one to report.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    interval: Interval
    exact: float
    mid_p: float

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of B less that of A, -1 to 1; 0 without pictures."""
        return (self.only_b - self.only_a) / self.pictures if self.pictures else 0.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassChanges:
    """What B has gained and lost against A in each class.

    Args:
        support: (K,) pictures of the class.
        gained: (K,) pictures that only B has right.
        lost: (K,) pictures that only A has right.
    """

    support: Integers
    gained: Integers
    lost: Integers

    @property
    def difference(self) -> Floats:
        """(K,) recall of B less that of A; 0 where a class has no pictures."""
        return (self.gained - self.lost) / np.maximum(self.support, 1)


def compare(right_a: Booleans, right_b: Booleans, *, confidence: float = CONFIDENCE) -> Comparison:
    """Compare two models.

    Args:
        right_a: (N,) whether A has each picture right.
        right_b: (N,) whether B has.
        confidence: Of the interval, more than 0 and less than 1.

    Raises:
        ConfigError: The shapes do not fit, or the confidence is out of range.
    """
    check_pairs(right_a, right_b, names="right answers of A and B")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Comparison(
        both=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~right_a & ~right_b).sum()),
        interval=difference_interval(only_a, only_b, len(right_a), confidence=confidence),
        exact=mcnemar_exact(only_a, only_b),
        mid_p=mcnemar_mid_p(only_a, only_b),
    )


def class_changes(
    right_a: Booleans, right_b: Booleans, targets: Integers, *, num_classes: int
) -> ClassChanges:
    """Count gains and losses of each class.

    Args:
        right_a: (N,) whether A has each picture right.
        right_b: (N,) whether B has.
        targets: (N,) class indices; pictures that are `UNLABELED` are left out.
        num_classes: K.

    Raises:
        ConfigError: Shapes or indices do not fit.
    """
    check_pairs(right_a, right_b, names="right answers of A and B")
    check_pairs(right_a, targets, names="right answers and targets")
    check_classes(targets, num_classes, name="targets")
    known = targets >= 0

    def count(chosen: Booleans) -> Integers:
        return np.bincount(targets[chosen & known], minlength=num_classes)

    return ClassChanges(
        support=count(known), gained=count(right_b & ~right_a), lost=count(right_a & ~right_b)
    )


def difference_interval(
    only_a: int, only_b: int, pictures: int, *, confidence: float = CONFIDENCE
) -> Interval:
    """Compute the interval of a paired difference of proportions by Tango's score test.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design, Statistics in Medicine 17 (1998) 891-908. It is to a paired
    difference what Wilson's is to a proportion, and has 0 at its end where McNemar's
    uncorrected chi-squared test is just significant.

    Args:
        only_a: Number of pictures that only A has right.
        only_b: That only B has right.
        pictures: Number of all; of none the interval is -1 to 1.
        confidence: More than 0 and less than 1.

    Raises:
        ConfigError: The counts do not fit, or the confidence is out of range.
    """
    if min(only_a, only_b) < 0 or only_a + only_b > pictures:
        raise ConfigError(
            f"{only_a} and {only_b} of {pictures} are right in one only; expected 0 to all of them"
        )
    z = quantile(confidence)
    if not pictures:
        return Interval(low=-1.0, high=1.0, confidence=confidence)
    return Interval(
        low=-_upper_end(only_b, only_a, pictures, z),
        high=_upper_end(only_a, only_b, pictures, z),
        confidence=confidence,
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a binomial test against 1/2."""
    tail, point = _tail(only_a, only_b)
    return min(1.0, 2 * tail)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Return the two-sided mid-p-value: what is as likely as what was seen counts half.

    The exact test rejects too seldom; this one hardly ever too often (Fagerland, Lydersen and
    Laake, BMC Medical Research Methodology 13:91, 2013). Where the models never differ, which
    the definition halves too, it is 1.
    """
    if not only_a + only_b:
        return 1.0
    tail, point = _tail(only_a, only_b)
    return 1 - point / 2 if only_a == only_b else 2 * tail - point


def _upper_end(only_a: int, only_b: int, pictures: int, z: float) -> float:
    """Return the largest difference of B less A that the score test does not reject."""
    low, high = (only_b - only_a) / pictures, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _score(middle, only_a, only_b, pictures) >= -z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(difference: float, only_a: int, only_b: int, pictures: int) -> float:
    """Return how many standard errors the observed difference is above the supposed one."""
    # The likeliest share that only A has right, if that only B has right is larger by the
    # difference: the root of a quadratic equation.
    linear = (2 * pictures + only_a - only_b) * difference - only_a - only_b
    constant = only_a * difference * (1 - difference)
    share = (math.sqrt(linear**2 + 8 * pictures * constant) - linear) / (4 * pictures)
    variance = pictures * (2 * share + difference * (1 - difference))
    excess = only_b - only_a - pictures * difference
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def _tail(only_a: int, only_b: int) -> tuple[float, float]:
    """Return the chances of at most, and of exactly, the smaller of both by fair coins."""
    total, least = only_a + only_b, min(only_a, only_b)
    numbers = np.arange(1, total + 1)
    # Relative to the likeliest number: what is summed up is never too small for a float64.
    logs = np.concatenate([[0.0], np.cumsum(np.log((total - numbers + 1) / numbers))])
    chances = np.exp(logs - logs[total // 2])
    chances /= chances.sum()
    return float(chances[: least + 1].sum()), float(chances[least])
