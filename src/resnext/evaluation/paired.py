"""Two models on the same pictures: which is better, by how much, where.

Differences are B's accuracy less A's: above 0, B is better. Only pictures on which one is
right and the other is wrong tell the two apart.
N pictures, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, Integers
from resnext.evaluation.intervals import CONFIDENCE, Interval


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a binomial test against 1/2."""
    raise NotImplementedError


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Return the two-sided mid-p-value: what is as likely as what was seen counts half.

    The exact test rejects too seldom; this one hardly ever too often (Fagerland, Lydersen and
    Laake, BMC Medical Research Methodology 13:91, 2013).
    """
    raise NotImplementedError
