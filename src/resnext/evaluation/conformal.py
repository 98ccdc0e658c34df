"""Sets of labels that have the right one inside as often as promised.

Split conformal prediction. If the pictures it is calibrated on and a new one are
exchangeable, the new one's set has its class with a probability of at least 1 - alpha, and,
if no two scores are equal, at most 1 - alpha + 1 / (n + 1), for n pictures and any model.
It holds for the mean of all pictures, not within each class. N pictures, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation.arrays import (
    Booleans,
    Floats,
    Integers,
    Logits,
    check_logits,
    check_targets,
    chunks,
)

Method = Literal["lac", "aps", "raps"]

_CALIBRATING, _APPLYING = 0, 1
_ROUNDING = 1e-9  # of (n + 1)(1 - alpha), which may be a whole number


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
        lowest = 1 - self.alpha
        if math.isinf(self.quantile):
            return 1.0, 1.0
        return lowest, min(1.0, lowest + 1 / (self.pictures + 1))


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
    if not 0 < share < 1:
        raise ConfigError(f"share is {share}; expected more than 0 and less than 1")
    order = np.random.default_rng(seed).permutation(pictures)
    first = round(share * pictures)
    return np.sort(order[:first]), np.sort(order[first:])


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
    check_targets(logits, targets)
    _check_options(method, alpha, penalty, free_ranks)
    known = np.flatnonzero(targets >= 0)
    count = len(known)
    conformal = Conformal(
        method=method,
        alpha=alpha,
        quantile=math.inf,
        pictures=count,
        temperature=temperature,
        penalty=penalty,
        free_ranks=free_ranks,
    )
    own = np.empty(count)
    uniform = _uniform(seed, _CALIBRATING, count)
    for part in chunks(count, logits.shape[1]):
        rows = known[part]
        scores = _scores(logits[rows], uniform[part], conformal)
        own[part] = np.take_along_axis(scores, targets[rows, None], axis=1)[:, 0]
    place = math.ceil((count + 1) * (1 - alpha) - _ROUNDING)
    if place > count:
        return conformal
    return replace(conformal, quantile=float(np.partition(own, place - 1)[place - 1]))


def label_sets(logits: Logits, conformal: Conformal, *, seed: int = 0) -> Booleans:
    """Return (N, K): which classes are in each picture's set; it may be empty.

    Args:
        logits: (N, K).
        conformal: How to make the sets.
        seed: Of the random shares of "aps" and "raps"; others than those of `calibrate`.

    Raises:
        ConfigError: Shapes do not fit.
        EngineError: A logit is not finite.
    """
    check_logits(logits)
    sets = np.empty(logits.shape, np.bool_)
    for part, chunk in _each(logits, conformal, seed):
        sets[part] = chunk
    return sets


def score_sets(
    logits: Logits, targets: Integers, conformal: Conformal, *, seed: int = 0
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
    check_targets(logits, targets)
    sizes = np.zeros(logits.shape[1] + 1, np.int64)
    covered = 0
    for part, sets in _each(logits, conformal, seed):
        known = targets[part] >= 0
        own = np.take_along_axis(sets, np.maximum(targets[part], 0)[:, None], axis=1)[:, 0]
        covered += int((own & known).sum())
        sizes += np.bincount(sets[known].sum(axis=1), minlength=len(sizes))
    return SetScores(pictures=int(sizes.sum()), covered=covered, sizes=tuple(sizes.tolist()))


def _each(logits: Logits, conformal: Conformal, seed: int) -> Iterator[tuple[slice, Booleans]]:
    """Yield rows and their sets, chunk by chunk."""
    uniform = _uniform(seed, _APPLYING, len(logits))
    for part in chunks(*logits.shape):
        yield part, _scores(logits[part], uniform[part], conformal) <= conformal.quantile


def _uniform(seed: int, purpose: int, count: int) -> Floats:
    """Draw a random share for each picture, others for each purpose."""
    return np.random.default_rng([seed, purpose]).random(count)


def _scores(logits: Logits, uniform: Floats, conformal: Conformal) -> Floats:
    """Compute the (N, K) scores of all classes; low is likely."""
    shares = predictions.probabilities(logits, temperature=conformal.temperature)
    if conformal.method == "lac":
        return 1 - shares
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")
    ranked = np.take_along_axis(shares, order, axis=1)
    # All before it and a share of its own, which is all up to it without the rest of its own.
    scores = np.cumsum(ranked, axis=1) - (1 - uniform[:, None]) * ranked
    if conformal.method == "raps":
        ranks = np.arange(1, logits.shape[1] + 1)
        scores += conformal.penalty * np.maximum(ranks - conformal.free_ranks, 0)
    np.put_along_axis(shares, order, scores, axis=1)
    return shares


def _check_options(method: str, alpha: float, penalty: float, free_ranks: int) -> None:
    if method not in get_args(Method):
        raise ConfigError(f"method is {method!r}; expected one of {', '.join(get_args(Method))}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; expected more than 0 and less than 1")
    if min(penalty, free_ranks) < 0:
        raise ConfigError(f"penalty and free_ranks are {penalty} and {free_ranks}; expected 0 up")
