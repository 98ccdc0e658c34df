"""Whether probabilities mean what they say, and the mending temperature.

N pictures, K classes. The confidence of a picture is its highest probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation.arrays import (
    Booleans,
    Floats,
    Integers,
    Logits,
    check_logits,
    check_pairs,
    check_targets,
    chunks,
)

BINS = 15  # as in Guo et al., arXiv:1706.04599
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0  # what a model file takes

_STEPS, _PRECISION = 100, 1e-11  # of the logarithm of the temperature


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
    check_logits(logits)
    found = np.empty(len(logits))
    for part in chunks(*logits.shape):
        found[part] = predictions.probabilities(logits[part], temperature=temperature).max(axis=1)
    return found


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
    check_pairs(confidence, right, names="confidence and right")
    if bins < 1:
        raise ConfigError(f"bins is {bins}; expected at least 1")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ConfigError("a confidence is not a probability; expected 0 to 1")
    edges = _equal_numbers(confidence, bins) if adaptive else np.linspace(0, 1, bins + 1)
    # To the left: what equals an edge is in the bin below it.
    places = np.maximum(np.searchsorted(edges, confidence) - 1, 0)
    pictures, sums, rights = (
        np.bincount(places, weights=weights, minlength=len(edges) - 1)
        for weights in (None, confidence, right)
    )
    return Reliability(
        edges=edges,
        pictures=pictures,
        confidence=sums / np.maximum(pictures, 1),
        accuracy=rights / np.maximum(pictures, 1),
    )


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
    check_targets(logits, targets)
    predictions.check_temperature(temperature)
    rows = np.flatnonzero(targets >= 0)
    nll, brier = np.empty(len(rows)), np.empty(len(rows))
    for part in chunks(len(rows), logits.shape[1]):
        own = targets[rows[part], None]
        shares = logits[rows[part]].astype(np.float64)
        shares -= shares.max(axis=1, keepdims=True)
        shares /= temperature
        nll[part] = -np.take_along_axis(shares, own, axis=1)[:, 0]
        np.exp(shares, out=shares)
        sums = shares.sum(axis=1, keepdims=True)
        nll[part] += np.log(sums[:, 0])
        shares /= sums
        # Before squaring: 1 + p * p - 2 * p has no digits left where p is nearly 1.
        np.put_along_axis(shares, own, np.take_along_axis(shares, own, axis=1) - 1, axis=1)
        brier[part] = np.einsum("nk,nk->n", shares, shares)
    return ProperScores(nll=nll, brier=brier)


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
    check_targets(logits, targets)
    known = targets >= 0
    if not known.any():
        raise ConfigError("no picture has a target; expected at least 1")
    weights = np.where(known, 1.0 if weights is None else weights, 0.0)
    # Newton's method on the logarithm of 1 / temperature, where the slope has one sign on each
    # side of the best; what leaves the range that is left over tries its end, then its middle.
    low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)
    place, tried = 0.0, {0.0}
    for _ in range(_STEPS):
        slope, bend = _slope(logits, targets, weights, math.exp(place))
        low, high = (low, place) if slope > 0 else (place, high)  # above 0: too sure
        step = slope / bend if bend > 0 else math.copysign(math.inf, slope)
        before, place = place, min(max(place - step, low), high) if slope else place
        if abs(place - before) < _PRECISION:
            break
        if place in tried:
            place = (low + high) / 2
        tried.add(place)
    return min(max(math.exp(-place), MIN_TEMPERATURE), MAX_TEMPERATURE)


def _slope(
    logits: Logits, targets: Integers, weights: Floats, sharpness: float
) -> tuple[float, float]:
    """Derive the loss by the logarithm of the sharpness, 1 / temperature, and its slope."""
    slope = bend = 0.0
    count = int((targets >= 0).sum())
    for part in chunks(*logits.shape):
        rows = logits[part].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        shares = np.exp(sharpness * rows)
        shares /= shares.sum(axis=1, keepdims=True)
        own = np.take_along_axis(rows, np.maximum(targets[part], 0)[:, None], axis=1)[:, 0]
        wanted = (count * own + rows.mean(axis=1)) / (count + 1)
        shares *= rows
        means = shares.sum(axis=1)
        squares = np.einsum("nk,nk->n", shares, rows)
        slope += float(weights[part] @ (means - wanted))
        bend += float(weights[part] @ (squares - means**2))
    return sharpness * slope, sharpness * slope + sharpness**2 * bend


def _equal_numbers(confidence: Floats, bins: int) -> Floats:
    """Return edges of bins with equal numbers of pictures, the first ones one more."""
    if not confidence.size:
        return np.array([0.0, 1.0])
    each, more = divmod(len(confidence), bins)
    numbers = np.arange(1, bins + 1)
    last = np.sort(confidence)[numbers * each + np.minimum(numbers, more) - 1]
    return np.unique([0.0, *last]) if last[-1] > 0 else np.array([0.0, 1.0])
