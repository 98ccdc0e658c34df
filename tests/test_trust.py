"""What probabilities are worth: of all pictures, and never judged by what chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resnext.evaluation import calibration, conformal, intervals, selective, trust
from resnext.evaluation.judge import Judged, judge
from resnext.evaluation.matching import Matching
from resnext.predictions import Labels
from resnext.training.listing import Entry

NAMES = tuple("abcde")


def judged(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], scratch: Path, **options: Any
) -> Judged:
    entries = [
        Entry(str(number), "", (NAMES[target],) if target >= 0 else ())
        for number, target in enumerate(targets.tolist())
    ]
    matching = Matching(index={name: place for place, name in enumerate(NAMES)}, rules={})
    return judge(logits, entries, matching, Labels(NAMES), scratch=scratch, **options)


def drawn(tmp_path: Path, count: int = 400, **options: Any) -> Judged:
    """Draw answers that are too sure; every tenth picture has no class."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, len(NAMES), count)
    logits = rng.normal(size=(count, len(NAMES))).astype(np.float32)
    logits[np.arange(count), targets] += 1
    targets[::10] = -1
    return judged(3 * logits, targets, tmp_path, **options)


def halves(one: Judged) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    places = np.flatnonzero(one.labeled)
    first, second = conformal.split(len(places), seed=1)
    return places[first], places[second]


def test_figures_are_of_all_pictures_however_many_are_fitted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MOST_FITTED", 50)
    one = drawn(tmp_path)
    found = trust.describe(one, reject_threshold=None)["calibration"]
    known = one.labeled
    assert (found["pictures"], found["fitted_to"]) == (360, 50)
    bars = calibration.reliability(one.confidence[known], one.right[known])
    assert found["ece"] == pytest.approx(bars.expected_error)
    assert found["mce"] == pytest.approx(bars.maximum_error)
    scores = calibration.proper_scores(one.logits, one.targets)
    assert found["nll"] == pytest.approx(scores.nll.mean())
    assert found["brier"] == pytest.approx(scores.brier.mean())
    assert found["mean_confidence"] == pytest.approx(one.confidence[known].mean())
    assert sum(found["bins"]["pictures"]) == sum(found["bins_suggested"]["pictures"]) == 360
    assert trust.reliability_of(found["bins"]).expected_error == found["ece"]


def test_the_suggested_bars_are_of_the_other_half(tmp_path: Path) -> None:
    one = drawn(tmp_path, 60)
    found = trust.describe(one, reject_threshold=None)["calibration"]
    confidence, right = [], []
    for own, other in (halves(one), halves(one)[::-1]):
        temperature = calibration.fit_temperature(one.logits[other], one.targets[other])
        assert temperature != pytest.approx(found["suggested_temperature"])
        confidence.append(calibration.confidences(one.logits[own], temperature=temperature))
        right.append(one.right[own])
    expected = calibration.reliability(np.concatenate(confidence), np.concatenate(right))
    bars = trust.reliability_of(found["bins_suggested"])
    assert found["ece_suggested"] == bars.expected_error == pytest.approx(expected.expected_error)
    np.testing.assert_allclose(bars.accuracy, expected.accuracy)


def test_a_threshold_is_measured_by_the_pictures_that_did_not_choose_it(tmp_path: Path) -> None:
    one = drawn(tmp_path)
    first, second = halves(one)
    found = trust.describe(one, reject_threshold=None)["selective"]["for_accuracy"]
    curve = selective.risk_coverage(one.confidence[first], one.right[first])
    assert [row["wanted"] for row in found] == [0.9, 0.95, 0.99]
    assert found[0]["threshold"] is not None
    for row in found:
        point = curve.for_accuracy(row["wanted"])
        if point is None:
            assert row["threshold"] is None
            continue
        assert row["threshold"] == point.threshold
        answered = one.confidence[second] >= point.threshold
        assert row["coverage"] == pytest.approx(answered.mean())
        assert row["accuracy"] == pytest.approx(one.right[second][answered].mean())
        interval = intervals.wilson(int(one.right[second][answered].sum()), int(answered.sum()))
        assert (row["low"], row["high"]) == (interval.low, interval.high)
        assert (row["answered"], row["pictures"]) == (int(answered.sum()), len(second))


def test_what_no_confidence_reaches_has_no_threshold(tmp_path: Path) -> None:
    logits = np.tile(np.float32([3, 2, 0, 0, 0]), (20, 1))
    found = trust.describe(judged(logits, np.arange(20) % 2, tmp_path), reject_threshold=0.99)
    assert [
        (row["threshold"], row["coverage"], row["accuracy"], row["low"])
        for row in found["selective"]["for_accuracy"]
    ] == 3 * [(None, 0, None, None)]
    assert found["selective"]["reject_threshold"]["coverage"] == 0
    json.dumps(found, allow_nan=False)


def test_what_calibrate_writes_is_chosen_by_all_and_measured_on_a_half(tmp_path: Path) -> None:
    one = drawn(tmp_path)
    found = trust.describe(one, reject_threshold=None)["suggested"]
    known = np.flatnonzero(one.labeled)
    confidence = calibration.confidences(one.logits[known], temperature=found["temperature"])
    chosen = selective.choose_threshold(confidence, one.right[known])
    assert found["reject_threshold"] == chosen
    first, second = halves(one)
    temperature = calibration.fit_temperature(one.logits[first], one.targets[first])
    trial = selective.choose_threshold(
        calibration.confidences(one.logits[first], temperature=temperature), one.right[first]
    )
    answered = calibration.confidences(one.logits[second], temperature=temperature) >= trial
    right = one.right[second]
    assert found["coverage"] == pytest.approx(answered.mean())
    assert found["accuracy"] == pytest.approx(right[answered].mean())
    assert found["kept_right"] == pytest.approx(answered[right].mean())
    assert found["low"] < found["accuracy"] < found["high"]


def test_restricted_answers_suggest_nothing_and_reject_nothing(tmp_path: Path) -> None:
    found = trust.describe(drawn(tmp_path, restrict=True), reject_threshold=0.5)
    assert "suggested" not in found
    assert "reject_threshold" not in found["selective"]
    found = trust.describe(drawn(tmp_path), reject_threshold=0.5)
    assert found["selective"]["reject_threshold"]["threshold"] == 0.5
    assert "suggested" in found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pictures_are_no_trouble(count: int, tmp_path: Path) -> None:
    logits = np.eye(5, dtype=np.float32)[:count]
    found = trust.describe(judged(logits, np.arange(count), tmp_path), reject_threshold=0.1)
    json.dumps(found, allow_nan=False)
    assert len(found["selective"]["for_accuracy"]) == (3 if count > 1 else 0)
    assert found["calibration"]["pictures"] == count


def test_the_curve_has_a_few_points_of_the_whole(tmp_path: Path) -> None:
    one = drawn(tmp_path, 2000)
    found = trust.describe(one, reject_threshold=None)["selective"]["curve"]
    assert 150 < len(found["coverage"]) <= trust.CURVE_STEPS + 1
    assert found["coverage"][-1] == 1
    known = one.labeled
    for threshold, coverage, accuracy in zip(*map(found.get, ("threshold", "coverage", "accuracy")),
                                             strict=True):  # fmt: skip
        answered = one.confidence[known] >= threshold
        assert coverage == pytest.approx(answered.mean())
        assert accuracy == pytest.approx(one.right[known][answered].mean())
