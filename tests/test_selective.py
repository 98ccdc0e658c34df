"""Answers only where the model is sure: thresholds, coverage, accuracy, area."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from resnext.errors import ConfigError
from resnext.evaluation import selective
from resnext.evaluation.selective import OperatingPoint, choose_threshold


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ([0.9, 0.8, 0.7], [], 0.7),  # nothing to drop: the least sure right one stays
        ([0.9] * 20, [0.5, 0.6], 0.9),
        ([0.5, *[0.9] * 19], [0.6, 0.7], 0.9),  # one right for both wrong
        ([0.5, 0.5, *[0.9] * 18], [0.6], 0.5),  # more than 5 % of the right ones is too much
        ([0.99999], [0.2], 0.9999),  # rounded down
        ([], [0.5], None),
    ],
)
def test_the_reject_threshold(
    right: list[float], wrong: list[float], expected: float | None
) -> None:
    best = np.array(right + wrong)
    is_right = np.arange(len(best)) < len(right)
    assert choose_threshold(best, is_right) == expected


def drawn(count: int = 400) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Draw confidences, some of them equal, and whether the answers are right."""
    rng = np.random.default_rng(0)
    confidence = np.round(rng.beta(4, 1, count), 2)
    return confidence, rng.random(count) < confidence


def test_each_threshold_does_what_the_curve_says() -> None:
    confidence, right = drawn()
    curve = selective.risk_coverage(confidence, right)
    assert (np.diff(curve.thresholds) < 0).all()
    assert set(curve.thresholds) == set(confidence)
    assert curve.coverage[-1] == 1
    for threshold, coverage, accuracy in zip(
        curve.thresholds, curve.coverage, curve.accuracy, strict=True
    ):
        answered = confidence >= threshold
        assert coverage == pytest.approx(answered.mean(), abs=1e-12)
        assert accuracy == pytest.approx(right[answered].mean(), abs=1e-12)


def test_the_area_is_the_mean_over_all_orders_of_equal_confidences() -> None:
    confidence = np.array([0.5, 0.9, 0.9, 0.5, 0.7, 0.5])
    right = np.array([0, 1, 0, 1, 1, 0], np.bool_)
    areas = []
    for order in itertools.permutations(range(6)):
        if all(np.diff(confidence[list(order)]) <= 0):
            wrong = ~right[list(order)]
            areas.append(np.mean([wrong[:count].mean() for count in range(1, 7)]))
    found = selective.risk_coverage(confidence, right)
    assert len(areas) == 12
    assert found.area == pytest.approx(np.mean(areas), abs=1e-12)
    best = np.mean([0, 0, 0, 1 / 4, 2 / 5, 3 / 6])
    assert found.excess_area == pytest.approx(found.area - best, abs=1e-12)


def test_the_area_of_the_best_order_has_no_excess_and_of_one_confidence_is_the_error() -> None:
    confidence = np.linspace(1, 0.1, 10)
    assert selective.risk_coverage(confidence, confidence > 0.45).excess_area == pytest.approx(0)
    worst = selective.risk_coverage(confidence, confidence < 0.45)
    assert worst.area > worst.excess_area > 0.5
    flat = selective.risk_coverage(np.full(10, 0.3), confidence > 0.45)
    assert flat.area == pytest.approx(0.4)
    assert selective.risk_coverage(confidence, np.ones(10, np.bool_)).area == 0


def test_the_point_of_a_wanted_accuracy_has_the_most_coverage() -> None:
    confidence, right = drawn()
    curve = selective.risk_coverage(confidence, right)
    for wanted in (0.8, 0.9, 0.95):
        point = curve.for_accuracy(wanted)
        assert point is not None
        assert point.accuracy >= wanted
        enough = [t for t in set(confidence) if right[confidence >= t].mean() >= wanted]
        assert point.threshold == min(enough)
        assert point.coverage == pytest.approx((confidence >= min(enough)).mean())
    assert curve.for_accuracy(0.0) == curve.for_coverage(1.0)
    assert selective.risk_coverage(np.ones(2), np.zeros(2, np.bool_)).for_accuracy(0.5) is None


def test_the_point_of_a_wanted_coverage_has_the_highest_threshold() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    curve = selective.risk_coverage(confidence, confidence > 0.55)
    assert curve.for_coverage(0.3) == OperatingPoint(threshold=0.8, coverage=0.3, accuracy=1.0)
    assert curve.for_coverage(0.2).coverage == 0.3  # 0.1 or 0.3: equal ones stay together
    assert curve.for_coverage(0.7).threshold == 0.3
    assert curve.for_coverage(1.0).accuracy == pytest.approx(0.4)
    assert curve.for_coverage(0.0).threshold == 0.9


def test_what_does_not_fit_is_refused() -> None:
    confidence, right = drawn(5)
    curve = selective.risk_coverage(confidence, right)
    with pytest.raises(ConfigError, match="the wanted share is 95; expected 0 to 1"):
        curve.for_accuracy(95)
    with pytest.raises(ConfigError, match="the wanted share is -0.1"):
        curve.for_coverage(-0.1)
    with pytest.raises(ConfigError, match="no picture"):
        selective.risk_coverage(confidence[:0], right[:0])
    with pytest.raises(ConfigError, match="confidence and right are"):
        selective.risk_coverage(confidence, right[:2])
