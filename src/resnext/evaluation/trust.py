"""What probabilities are worth: calibration, coverage, label sets.

What is chosen by pictures (a temperature, a threshold, a probability) is judged by others:
one half of them chooses, the other measures. Shares are 0 to 1, intervals of 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext.evaluation import calibration, conformal, intervals, selective
from resnext.evaluation.arrays import Booleans, Floats, Integers, chunks
from resnext.evaluation.calibration import Reliability
from resnext.evaluation.judge import Judged
from resnext.evaluation.selective import RiskCoverage
from resnext.modelfile import MIN_TEMPERATURE

MOST_FITTED = 20_000  # pictures that temperature and label sets are fitted to: 80 MB
ACCURACIES = (0.9, 0.95, 0.99)  # wanted, for coverage against accuracy
ALPHAS = (0.1, 0.05)  # share of label sets that may lack their class
CURVE_STEPS = 200  # of the coverage, in the figures

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fit:
    """The temperature that suits some pictures.

    Args:
        places: The pictures.
        temperature: That suits them.
    """

    places: Integers
    temperature: float


def describe(judged: Judged, *, reject_threshold: float | None) -> Figures:
    """Compute the figures of calibration, coverage and label sets.

    Args:
        judged: The answers, one right class each.
        reject_threshold: Of the model; restricted answers have other probabilities, to which
            it says nothing.
    """
    places = np.flatnonzero(judged.labeled)
    every = _fit(judged, places)
    first, second = (_fit(judged, places[part]) for part in conformal.split(len(places), seed=1))
    found: Figures = {
        "calibration": _calibration(judged, every, (first, second)),
        "selective": _selective(judged, first.places, second.places),
        "conformal": _conformal(judged),
    }
    if judged.restricted:
        return found
    if reject_threshold is not None:
        found["selective"]["reject_threshold"] = _operating(
            judged.confidence[places], judged.right[places], reject_threshold
        )
    return found | {"suggested": _suggested(judged, every, first, second.places)}


def risk_coverage_of(judged: Judged) -> RiskCoverage:
    """Return coverage against accuracy under the model's temperature."""
    known = judged.labeled
    return selective.risk_coverage(judged.confidence[known], judged.right[known])


def reliability_of(bins: Figures) -> Reliability:
    """Return the bars of a reliability diagram that the figures have."""
    return Reliability(**{name: np.array(values) for name, values in bins.items()})


def _some(places: Integers) -> Integers:
    """Return the pictures to fit to: all or, of very many, some."""
    if len(places) <= MOST_FITTED:
        return places
    return np.sort(np.random.default_rng(0).choice(places, MOST_FITTED, replace=False))


def _fit(judged: Judged, places: Integers) -> _Fit:
    """Fit a temperature, to what a model file takes: the last bit may be beyond it."""
    if not places.size:
        return _Fit(places=places, temperature=1.0)
    some = _some(places)
    found = calibration.fit_temperature(judged.logits[some], judged.targets[some])
    limited = min(max(found, MIN_TEMPERATURE), 1 / MIN_TEMPERATURE)
    return _Fit(places=places, temperature=limited)


def _confidences(judged: Judged, places: Integers, temperature: float) -> Floats:
    """Return the highest probability of pictures under a temperature."""
    found = np.empty(len(places))
    for part in chunks(len(places), judged.num_classes):
        found[part] = calibration.confidences(judged.logits[places[part]], temperature=temperature)
    return found


def _calibration(judged: Judged, every: _Fit, halves: tuple[_Fit, _Fit]) -> Figures:
    places, (first, second) = every.places, halves
    # By a temperature that the other half of the pictures gave: nothing judges itself.
    crossed = np.concatenate(
        [
            _confidences(judged, first.places, second.temperature),
            _confidences(judged, second.places, first.temperature),
        ]
    )
    suggested = calibration.reliability(
        crossed, judged.right[np.concatenate([first.places, second.places])]
    )
    scores = calibration.proper_scores(
        judged.logits, judged.targets, temperature=judged.temperature
    )
    now = calibration.reliability(judged.confidence[places], judged.right[places])
    return {
        "temperature": judged.temperature,
        "ece": now.expected_error,
        "mce": now.maximum_error,
        "nll": float(scores.nll.mean()),
        "brier": float(scores.brier.mean()),
        "mean_confidence": float(judged.confidence[places].mean()),
        "suggested_temperature": every.temperature,
        "ece_suggested": suggested.expected_error,
        "pictures": len(places),
        "fitted_to": len(_some(places)),
        "bins": _bins(now),
        "bins_suggested": _bins(suggested),
    }


def _bins(bars: Reliability) -> Figures:
    return {
        "edges": bars.edges.tolist(),
        "pictures": bars.pictures.tolist(),
        "confidence": bars.confidence.tolist(),
        "accuracy": bars.accuracy.tolist(),
    }


def _selective(judged: Judged, first: Integers, second: Integers) -> Figures:
    """Return coverage against accuracy; one half chooses thresholds, the other measures."""
    curve = risk_coverage_of(judged)
    return {
        "aurc": curve.area,
        "excess_aurc": curve.excess_area,
        "curve": _curve(curve),
        "for_accuracy": [
            {"wanted": wanted, **_for_accuracy(judged, first, second, wanted)}
            for wanted in ACCURACIES
            if first.size
        ],
    }


def _for_accuracy(judged: Judged, first: Integers, second: Integers, wanted: float) -> Figures:
    choosing = selective.risk_coverage(judged.confidence[first], judged.right[first])
    point = choosing.for_accuracy(wanted)
    # What no confidence reaches answers nothing.
    found = _operating(
        judged.confidence[second],
        judged.right[second],
        np.inf if point is None else point.threshold,
    )
    return {**found, "threshold": None if point is None else point.threshold}


def _curve(curve: RiskCoverage) -> Figures:
    """Return as many points of a curve as a plot can show."""
    wanted = np.linspace(0, 1, CURVE_STEPS + 1)
    points = dict.fromkeys(curve.for_coverage(share) for share in wanted.tolist())
    return {
        name: [getattr(point, name) for point in points]
        for name in ("threshold", "coverage", "accuracy")
    }


def _operating(confidence: Floats, right: Booleans, threshold: float) -> Figures:
    """Return what a threshold does to pictures, at least one."""
    answered = confidence >= threshold
    count, hits = int(answered.sum()), int(right[answered].sum())
    interval = intervals.wilson(hits, count)
    return {
        "threshold": threshold,
        "coverage": count / len(confidence),
        "accuracy": hits / count if count else None,
        "low": interval.low if count else None,
        "high": interval.high if count else None,
        "answered": count,
        "pictures": len(confidence),
    }


def _suggested(judged: Judged, every: _Fit, first: _Fit, second: Integers) -> Figures:
    """Return what `--calibrate` writes: a temperature, and a threshold under it.

    What that does is measured on one half, by temperature and threshold of the other.
    """
    right = judged.right
    chosen, trial = (
        selective.choose_threshold(
            _confidences(judged, fit.places, fit.temperature), right[fit.places]
        )
        for fit in (every, first)
    )
    found: Figures = {"temperature": every.temperature, "reject_threshold": chosen}
    if trial is None:
        return found
    confidence = _confidences(judged, second, first.temperature)
    measured = _operating(confidence, right[second], trial)
    kept, rights = confidence[right[second]] >= trial, int(right[second].sum())
    return {
        **found,
        **{name: value for name, value in measured.items() if name != "threshold"},
        "kept_right": float(kept.mean()) if rights else None,
    }


def _conformal(judged: Judged) -> list[Figures]:
    places = _some(np.flatnonzero(judged.labeled))
    if len(places) < 2:
        return []
    first, second = (places[part] for part in conformal.split(len(places)))
    return [_label_sets(judged, first, second, alpha) for alpha in ALPHAS]


def _label_sets(judged: Judged, first: Integers, second: Integers, alpha: float) -> Figures:
    fitted = conformal.calibrate(
        judged.logits[first],
        judged.targets[first],
        alpha=alpha,
        temperature=judged.temperature,
    )
    scores = conformal.score_sets(judged.logits[second], judged.targets[second], fitted)
    sizes = np.array(scores.sizes)
    interval = intervals.wilson(scores.covered, scores.pictures)
    return {
        "wanted": 1 - alpha,
        "probability": None if np.isinf(fitted.quantile) else 1 - fitted.quantile,
        "coverage": scores.coverage,
        "low": interval.low,
        "high": interval.high,
        "mean_size": scores.mean_size,
        "one_class": float(sizes[1] / max(scores.pictures, 1)),
        "empty": float(sizes[0] / max(scores.pictures, 1)),
        "calibrated_on": fitted.pictures,
        "pictures": scores.pictures,
    }
