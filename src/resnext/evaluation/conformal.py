"""Sets of labels that have the right one inside as often as promised.

Split conformal prediction. If the pictures it is calibrated on and a new one are
exchangeable, the new one's set has its class with a probability of at least 1 - alpha, and,
if no two scores are equal, at most 1 - alpha + 1 / (n + 1), for n pictures and any model.
It holds for the mean of all pictures, not within each class. N pictures, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, Integers, Logits

Method = Literal["lac", "aps", "raps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conformal:
    """How to make label sets: all classes whose score is at most the quantile.

    Args:
        method: How classes are scored. "lac": 1 - probability (Sadinle et al.,
            arXiv:1609.00451), the smallest sets. "aps": probability of all classes before it
            and a random share of its own (Romano et al., arXiv:2006.02544), larger sets for
            harder pictures. "raps": the same and `penalty` for each rank after `free_ranks`
            (Angelopoulos et al., arXiv:2009.14193).
        alpha: Share of pictures that may lack their class, more than 0 and less than 1.
        quantile: The ceil((n + 1)(1 - alpha))-th smallest score of the n pictures; infinite
            if n is too small for that.
        pictures: n.
        temperature: The logits are divided by it.
        penalty: Of "raps", at least 0.
        free_ranks: Of "raps", at least 0.
    """

    method: Method
    alpha: float
    quantile: float
    pictures: int
    temperature: float
    penalty: float
    free_ranks: int

    @property
    def guaranteed(self) -> tuple[float, float]:
        """The lowest and highest mean coverage of new pictures, over calibrations."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class SetScores:
    """How label sets did on pictures that they were not calibrated on.

    Args:
        pictures: Number of pictures.
        covered: How many have their class in their set.
        sizes: How many sets have 0, 1, ... K classes.
    """

    pictures: int
    covered: int
    sizes: tuple[int, ...]

    @property
    def coverage(self) -> float:
        """Share of covered pictures."""
        return self.covered / self.pictures if self.pictures else 0.0

    @property
    def mean_size(self) -> float:
        """Mean number of classes in a set."""
        return float(np.arange(len(self.sizes)) @ self.sizes / max(self.pictures, 1))


def split(pictures: int, *, share: float = 0.5, seed: int = 0) -> tuple[Integers, Integers]:
    """Divide pictures by chance into those to calibrate on and the others.

    Args:
        pictures: N.
        share: Of the first part, more than 0 and less than 1.
        seed: Of the draw.

    Returns:
        Sorted row indices of both parts.

    Raises:
        ConfigError: The share is out of range.
    """
    raise NotImplementedError


def calibrate(
    logits: Logits,
    targets: Integers,
    *,
    method: Method = "lac",
    alpha: float = 0.1,
    temperature: float = 1.0,
    penalty: float = 0.01,
    free_ranks: int = 5,
    seed: int = 0,
) -> Conformal:
    """Find the quantile of the right classes' scores.

    Args:
        logits: (N, K) of pictures that were not trained on.
        targets: (N,) right classes; pictures that are `UNLABELED` are left out.
        method: See `Conformal`, also for the others.
        alpha: Share of pictures that may lack their class.
        temperature: The logits are divided by it.
        penalty: Of "raps".
        free_ranks: Of "raps".
        seed: Of the random shares.

    Raises:
        ConfigError: Shapes or options do not fit.
        EngineError: A logit is not finite.
    """
    raise NotImplementedError


def label_sets(logits: Logits, conformal: Conformal, *, seed: int = 0) -> Booleans:
    """Return (N, K): which classes are in each picture's set; it may be empty.

    Args:
        logits: (N, K).
        conformal: How to make the sets.
        seed: Of the random shares of "aps" and "raps"; not the one they were calibrated with.

    Raises:
        ConfigError: Shapes do not fit.
        EngineError: A logit is not finite.
    """
    raise NotImplementedError


def score_sets(
    logits: Logits, targets: Integers, conformal: Conformal, *, seed: int = 1
) -> SetScores:
    """Make the sets of pictures and see how many have their class inside.

    Args:
        logits: (N, K) of pictures that the sets were not calibrated on.
        targets: (N,) right classes; pictures that are `UNLABELED` are left out.
        conformal: How to make the sets.
        seed: Of the random shares of "aps" and "raps".

    Raises:
        ConfigError: Shapes or indices do not fit.
        EngineError: A logit is not finite.
    """
    raise NotImplementedError
