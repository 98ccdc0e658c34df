"""Whether a probability means what it says, and the temperature that mends it.

N pictures, K classes. The confidence of a picture is its highest probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation.arrays import Booleans, Floats, Integers, Logits, check_logits, chunks

BINS = 15  # as in Guo et al., arXiv:1706.04599
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0  # what a model file takes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reliability:
    """Confidence against accuracy: the bars of a reliability diagram.

    Args:
        edges: (B + 1,) bounds of the bins. A bin has what is above its lower bound and not
            above its upper one, the first also what equals its lower one.
        pictures: (B,) number of pictures in each.
        confidence: (B,) their mean confidence; 0 in an empty bin.
        accuracy: (B,) the share of right ones; 0 in an empty bin.
    """

    edges: Floats
    pictures: Integers
    confidence: Floats
    accuracy: Floats

    @property
    def gaps(self) -> Floats:
        """(B,) confidence less accuracy: above 0 the model is too sure."""
        return self.confidence - self.accuracy

    @property
    def expected_error(self) -> float:
        """ECE: mean of the absolute gaps, each bin by its pictures; 0 without pictures."""
        return float(np.abs(self.gaps) @ self.pictures / max(self.pictures.sum(), 1))

    @property
    def maximum_error(self) -> float:
        """MCE: the largest absolute gap."""
        return float(np.abs(self.gaps).max())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProperScores:
    """What each picture's probabilities cost; the means are the figures.

    Args:
        nll: (N,) negative natural logarithm of the right class's probability.
        brier: (N,) sum over all classes of the squared difference to 1 for the right one and
            0 for the others, 0 to 2 (Brier, 1950).
    """

    nll: Floats
    brier: Floats


def confidences(logits: Logits, *, temperature: float = 1.0) -> Floats:
    """Return the highest probability of each picture.

    Args:
        logits: (N, K).
        temperature: The logits are divided by it.

    Raises:
        ConfigError: A shape or the temperature does not fit.
        EngineError: A logit is not finite.
    """
    raise NotImplementedError


def reliability(
    confidence: Floats, right: Booleans, *, bins: int = BINS, adaptive: bool = False
) -> Reliability:
    """Sort pictures into bins by confidence, and compare with how many are right.

    Bins of equal width: ECE and MCE as in Guo et al., arXiv:1706.04599. Adaptive ones, of
    equal numbers of pictures: Nguyen and O'Connor, arXiv:1508.05154. They do not divide
    equal confidences, so there may be fewer.

    Args:
        confidence: (N,) 0 to 1.
        right: (N,) whether the best answer is right.
        bins: How many, at least 1.
        adaptive: Whether bins have equal numbers of pictures instead of equal width.

    Raises:
        ConfigError: Shapes or values do not fit.
    """
    raise NotImplementedError


def proper_scores(logits: Logits, targets: Integers, *, temperature: float = 1.0) -> ProperScores:
    """Compute the negative log-likelihood and the Brier score of each picture.

    Args:
        logits: (N, K).
        targets: (N,) right classes; of pictures that are `UNLABELED` the scores are left out.
        temperature: The logits are divided by it.

    Raises:
        ConfigError: A shape, an index or the temperature does not fit.
        EngineError: A logit is not finite.
    """
    raise NotImplementedError


def fit_temperature(logits: Logits, targets: Integers, weights: Floats | None = None) -> float:
    """Find the temperature under which held-out pictures are likeliest.

    As many pictures as there are cannot show that an answer is certain: one more, which may
    be of any class, is added (after Platt's targets, 1999). Without it the temperature of
    pictures that are all right would be zero.

    Args:
        logits: (N, K) of pictures that were not trained on.
        targets: (N,) right classes.
        weights: (N,) how much each picture counts; by default 1.

    Returns:
        0.01 to 100.
    """
    raise NotImplementedError
