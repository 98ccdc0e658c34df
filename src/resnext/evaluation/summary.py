"""The figures of an evaluation as plain values, for JSON and people.

Shares are 0 to 1 here; what people read has percent. Every interval is of 95 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resnext.evaluation import (
    calibration,
    conformal,
    intervals,
    metrics,
    selective,
)
from resnext.evaluation.arrays import Booleans, Floats, Integers, Logits
from resnext.evaluation.intervals import Interval
from resnext.evaluation.judge import Judged
from resnext.evaluation.metrics import Proportion
from resnext.modelfile import MIN_TEMPERATURE

MOST_FITTED = 20_000  # pictures that temperature and label sets are fitted to: 80 MB
ACCURACIES = (0.9, 0.95, 0.99)  # wanted, for coverage against accuracy
ALPHAS = (0.1, 0.05)  # share of label sets that may lack their class
MOST_CONFUSED = 30

Figures = dict[str, Any]


def summarize(judged: Judged, *, reject_threshold: float | None) -> Figures:
    """Compute all figures.

    Args:
        judged: The answers.
        reject_threshold: Of the model.
    """
    temperature, crossed = _temperatures(judged)
    return {
        **_accuracies(judged),
        "averages": _averages(judged),
        "calibration": _calibration(judged, temperature, crossed),
        "selective": _selective(judged, reject_threshold),
        "suggested": _suggested(judged, temperature),
        "conformal": _conformal(judged),
        "confused": _confused(judged),
        "classes": _classes(judged),
    }


def proportion(found: Proportion) -> Figures:
    """Return accuracy, error and the interval of the accuracy."""
    interval = intervals.wilson(found.right, found.pictures)
    return {
        "accuracy": found.accuracy,
        "error": found.error,
        "low": interval.low,
        "high": interval.high,
        "right": found.right,
        "pictures": found.pictures,
    }


def reliability_of(judged: Judged, temperature: float) -> calibration.Reliability:
    """Return the bars of the reliability diagram under a temperature."""
    known = judged.labeled
    confidence = calibration.confidences(judged.logits, temperature=temperature)
    return calibration.reliability(confidence[known], judged.right[known])


def risk_coverage_of(judged: Judged) -> selective.RiskCoverage:
    """Return coverage against accuracy under the model's temperature."""
    known = judged.labeled
    return selective.risk_coverage(judged.confidence[known], judged.right[known])


def _accuracies(judged: Judged) -> Figures:
    found: Figures = {
        f"top{k}": proportion(metrics.top_k(judged.ranks, k))
        for k in (1, min(5, judged.num_classes))
    }
    found.setdefault("top5", proportion(metrics.top_k(judged.ranks, 5)))
    found = {key: found[key] for key in ("top1", "top5")}
    if judged.other_ranks is not None:
        found["other_choice"] = {
            f"top{k}": proportion(metrics.top_k(judged.other_ranks, k)) for k in (1, 5)
        }
    return found


def _averages(judged: Judged) -> Figures:
    labels = judged.data_classes.tolist()
    counts = metrics.class_counts(judged.answers, judged.targets, num_classes=judged.num_classes)
    values = metrics.averages(counts, labels=labels)
    spread = intervals.class_averages(
        judged.answers, judged.targets, num_classes=judged.num_classes, labels=labels
    )
    return {
        name: {"value": getattr(values, name), "low": spread[name].low, "high": spread[name].high}
        for name in spread
    }


def _sample(judged: Judged) -> Integers:
    """Return the pictures to fit to: all that have a class or, of very many, some."""
    places = np.flatnonzero(judged.labeled)
    if len(places) <= MOST_FITTED:
        return places
    chosen = np.random.default_rng(0).choice(places, MOST_FITTED, replace=False)
    return np.sort(chosen)


def _temperatures(judged: Judged) -> tuple[float, Floats]:
    """Return the temperature of all, and of the other half for each picture of the sample."""
    places = _sample(judged)
    targets = judged.targets[places]
    logits = judged.logits[places]
    halves = np.random.default_rng(1).permutation(len(places)) % 2
    crossed = np.ones(len(places))
    for half in (0, 1):
        learned = halves != half
        if learned.any():
            crossed[halves == half] = _fit(logits[learned], targets[learned])
    return _fit(logits, targets), crossed


def _fit(logits: Logits, targets: Integers) -> float:
    """Fit a temperature, to what a model file takes: the last bit may be beyond it."""
    found = calibration.fit_temperature(logits, targets)
    return min(max(found, MIN_TEMPERATURE), 1 / MIN_TEMPERATURE)


def _calibration(judged: Judged, temperature: float, crossed: Floats) -> Figures:
    places = _sample(judged)
    logits, right = judged.logits[places], judged.right[places]
    under = np.zeros(len(places))
    for value in np.unique(crossed):
        rows = crossed == value
        under[rows] = calibration.confidences(logits[rows], temperature=float(value))
    scores = calibration.proper_scores(
        logits, judged.targets[places], temperature=judged.temperature
    )
    now = calibration.reliability(judged.confidence[places], right)
    return {
        "temperature": judged.temperature,
        "ece": now.expected_error,
        "mce": now.maximum_error,
        "nll": float(scores.nll.mean()),
        "brier": float(scores.brier.mean()),
        "mean_confidence": float(judged.confidence[places].mean()),
        "suggested_temperature": temperature,
        # By a temperature that the other half of the pictures gave: nothing judges itself.
        "ece_suggested": calibration.reliability(under, right).expected_error,
        "pictures": len(places),
    }


def _selective(judged: Judged, reject_threshold: float | None) -> Figures:
    curve = risk_coverage_of(judged)
    found: Figures = {"aurc": curve.area, "excess_aurc": curve.excess_area, "for_accuracy": []}
    if reject_threshold is not None:
        known = judged.labeled
        found["reject_threshold"] = _operating(
            judged.confidence[known], judged.right[known], reject_threshold
        )
    for wanted in ACCURACIES:
        point = curve.for_accuracy(wanted)
        found["for_accuracy"].append(
            {
                "wanted": wanted,
                "threshold": None if point is None else point.threshold,
                "coverage": 0.0 if point is None else point.coverage,
                "accuracy": None if point is None else point.accuracy,
            }
        )
    return found


def _operating(confidence: Floats, right: Booleans, threshold: float) -> Figures:
    answered = confidence >= threshold
    return {
        "threshold": threshold,
        "coverage": float(answered.mean()),
        "accuracy": float(right[answered].mean()) if answered.any() else None,
    }


def _suggested(judged: Judged, temperature: float) -> Figures:
    """Return what `--calibrate` writes: a temperature, and a threshold under it."""
    places = _sample(judged)
    confidence = calibration.confidences(judged.logits[places], temperature=temperature)
    right = judged.right[places]
    threshold = selective.choose_threshold(confidence, right)
    found: Figures = {"temperature": temperature, "reject_threshold": threshold}
    if threshold is not None:
        found |= {
            key: value
            for key, value in _operating(confidence, right, threshold).items()
            if key != "threshold"
        }
    return found


def _conformal(judged: Judged) -> list[Figures]:
    places = _sample(judged)
    if len(places) < 2:
        return []
    first, second = (places[part] for part in conformal.split(len(places)))
    found = []
    for alpha in ALPHAS:
        fitted = conformal.calibrate(
            judged.logits[first],
            judged.targets[first],
            alpha=alpha,
            temperature=judged.temperature,
        )
        scores = conformal.score_sets(judged.logits[second], judged.targets[second], fitted)
        sizes = np.array(scores.sizes)
        interval = intervals.wilson(scores.covered, scores.pictures)
        found.append(
            {
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
        )
    return found


def _confused(judged: Judged) -> list[Figures]:
    pairs = metrics.confused_pairs(
        judged.answers, judged.targets, num_classes=judged.num_classes, most=MOST_CONFUSED
    )
    return [
        {
            "class": judged.class_names[pair.target],
            "answer": judged.class_names[pair.answer],
            "pictures": pair.pictures,
            "share": pair.share,
        }
        for pair in pairs
    ]


def _classes(judged: Judged) -> list[Figures]:
    counts = metrics.class_counts(judged.answers, judged.targets, num_classes=judged.num_classes)
    figures = (counts.precision, counts.recall, counts.f1)
    found = []
    for place in judged.data_classes.tolist():
        right, support = int(counts.right[place]), int(counts.support[place])
        interval: Interval = intervals.wilson(right, support)
        found.append(
            {
                "class": judged.class_names[place],
                "index": int(judged.classes[place]),
                "pictures": support,
                "right": right,
                "answered": int(counts.answered[place]),
                **{
                    name: float(values[place])
                    for name, values in zip(("precision", "recall", "f1"), figures, strict=True)
                },
                "low": interval.low,
                "high": interval.high,
            }
        )
    return found
