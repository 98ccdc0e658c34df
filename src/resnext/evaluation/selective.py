"""Answers only where the model is sure: coverage against accuracy.

An answer is given where its confidence is at least the threshold, as
`predictions.is_rejected` has it. Coverage is the share of pictures that get one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, check_pairs

KEPT_RIGHT = 0.95  # share of right answers that the reject threshold must keep

_ROUNDING = 1e-12  # of shares, which are quotients of counts


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """What one threshold does.

    Args:
        threshold: Below this confidence there is no answer.
        coverage: Share of pictures with an answer.
        accuracy: Share of right ones among these answers.
    """

    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RiskCoverage:
    """Coverage against accuracy, for every threshold that makes a difference.

    Args:
        thresholds: (M,) the confidences that occur, highest first.
        coverage: (M,) share of pictures that each answers, rising to 1.
        accuracy: (M,) share of right ones among them.
        area: AURC: mean of the error (1 - accuracy) over the answers of 1, 2, ... N
            pictures, surest first; equal confidences count as in the mean of all their orders
            (Geifman and El-Yaniv, arXiv:1705.08500; Geifman et al., arXiv:1805.08206).
        excess_area: E-AURC: how much less it would be with the same answers and every right
            one surer than every wrong one.
    """

    thresholds: Floats
    coverage: Floats
    accuracy: Floats
    area: float
    excess_area: float

    def for_accuracy(self, wanted: float) -> OperatingPoint | None:
        """Return the point of most coverage with at least this accuracy, None if none has."""
        enough = np.flatnonzero(self.accuracy >= _share(wanted) - _ROUNDING)
        return self._point(int(enough[-1])) if enough.size else None

    def for_coverage(self, wanted: float) -> OperatingPoint:
        """Return the point of the highest threshold with at least this coverage, 0 to 1."""
        return self._point(int(np.searchsorted(self.coverage, _share(wanted) - _ROUNDING)))

    def _point(self, index: int) -> OperatingPoint:
        return OperatingPoint(
            threshold=float(self.thresholds[index]),
            coverage=float(self.coverage[index]),
            accuracy=float(self.accuracy[index]),
        )


def risk_coverage(confidence: Floats, right: Booleans) -> RiskCoverage:
    """Compute coverage and accuracy of all thresholds.

    Args:
        confidence: (N,) highest probability of each picture, at least one picture.
        right: (N,) whether that answer is right.

    Raises:
        ConfigError: Shapes do not fit or there is no picture.
    """
    check_pairs(confidence, right, names="confidence and right")
    if not confidence.size:
        raise ConfigError("there is no picture; expected at least 1")
    values, groups, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = np.cumsum(sizes)
    found = np.cumsum(np.bincount(groups, weights=right, minlength=len(values)))
    # Any order of equal ones is as good as another: each gets the mean error of its group.
    errors = np.repeat(1 - np.diff(found, prepend=0) / sizes, sizes)
    area, least = _area(errors), _area(np.sort(~right))
    return RiskCoverage(
        thresholds=-values,
        coverage=answered / len(confidence),
        accuracy=found / answered,
        area=area,
        excess_area=area - least,
    )


def choose_threshold(confidence: Floats, right: Booleans) -> float | None:
    """Choose below which probability the model does not claim to know.

    Of the thresholds that keep 95 % of the right answers it is the one that drops the
    largest share of wrong answers more than of right ones, and of equals the highest.

    Args:
        confidence: (N,) highest probability of each held-out picture.
        right: (N,) whether that answer is right.

    Returns:
        The threshold, rounded down to 4 digits; None if no answer is right.
    """
    rights, wrongs = np.sort(confidence[right]), np.sort(confidence[~right])
    if not rights.size:
        return None
    candidates = rights[: int((1 - KEPT_RIGHT) * rights.size) + 1]
    dropped_right = np.searchsorted(rights, candidates) / rights.size
    dropped_wrong = np.searchsorted(wrongs, candidates) / max(wrongs.size, 1)
    gain = dropped_wrong - dropped_right
    chosen = candidates[np.flatnonzero(gain == gain.max())[-1]]
    return float(np.floor(chosen * 1e4) / 1e4)


def _area(errors: NDArray[np.generic]) -> float:
    """Average the mean errors of the first 1, 2, ... N pictures."""
    return float((np.cumsum(errors, dtype=np.float64) / np.arange(1, len(errors) + 1)).mean())


def _share(wanted: float) -> float:
    if not 0 <= wanted <= 1:
        raise ConfigError(f"the wanted share is {wanted}; expected 0 to 1")
    return wanted
