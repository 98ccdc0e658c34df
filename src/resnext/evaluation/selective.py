"""Answers only where the model is sure: how many there are, how many of them right.

An answer is given where its confidence is at least the threshold, as
`predictions.is_rejected` has it. Coverage is the share of pictures that get one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats

KEPT_RIGHT = 0.95  # share of right answers that the reject threshold must keep


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
        raise NotImplementedError

    def for_coverage(self, wanted: float) -> OperatingPoint:
        """Return the point of the highest threshold with at least this coverage, 0 to 1."""
        raise NotImplementedError


def risk_coverage(confidence: Floats, right: Booleans) -> RiskCoverage:
    """Compute coverage and accuracy of all thresholds.

    Args:
        confidence: (N,) highest probability of each picture, at least one picture.
        right: (N,) whether that answer is right.

    Raises:
        ConfigError: Shapes do not fit or there is no picture.
    """
    raise NotImplementedError


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
    raise NotImplementedError
