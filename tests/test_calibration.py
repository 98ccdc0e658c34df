"""Whether probabilities mean what they say: bins, scores of them, the temperature."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("scipy", reason="scikit-learn, which brings scipy, is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation import arrays, calibration, conformal, metrics, multilabel
from resnext.evaluation.calibration import fit_temperature, reliability

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("calibration.json").read_text())


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{case['pictures']}-{case['bins']}"
)
def test_errors_are_those_of_torchmetrics(case: dict[str, float]) -> None:
    pictures, num_classes = int(case["pictures"]), int(case["num_classes"])
    rng = np.random.default_rng([GOLDEN["seed"], pictures])  # as golden/make_calibration.py
    targets = rng.integers(0, num_classes, pictures)
    logits = rng.normal(size=(pictures, num_classes))
    logits[np.arange(pictures), targets] += 1
    logits *= case["scale"]
    found = reliability(
        calibration.confidences(logits),
        metrics.ranks(logits, targets) == 0,
        bins=int(case["bins"]),
    )
    assert found.expected_error == pytest.approx(case["l1"], abs=1e-9)
    assert found.maximum_error == pytest.approx(case["max"], abs=1e-9)


@given(
    nps.arrays(np.float64, 25, elements=st.sampled_from([0.0, 0.04, 0.2, 0.4, 0.41, 0.6, 1.0])),
    nps.arrays(np.bool_, 25),
    st.sampled_from([1, 5, 15]),
)
@settings(max_examples=15, deadline=None)
def test_bins_of_equal_width_are_closed_to_the_right(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int
) -> None:
    found = reliability(confidence, right, bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    total = worst = 0.0
    for index in range(bins):
        inside = (confidence > edges[index]) & (confidence <= edges[index + 1])
        if index == 0:
            inside |= confidence == 0
        assert found.pictures[index] == inside.sum()
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += gap * inside.sum() / 25
            worst = max(worst, gap)
    assert found.expected_error == pytest.approx(total, abs=1e-9)
    assert found.maximum_error == pytest.approx(worst, abs=1e-9)


@pytest.mark.parametrize("pictures", [1, 7, 15, 100, 1003])
def test_adaptive_bins_have_equal_numbers_of_pictures(pictures: int) -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(pictures), rng.random(pictures) < 0.5
    found = reliability(confidence, right, adaptive=True)
    order = np.argsort(confidence)
    parts = [part for part in np.array_split(order, 15) if part.size]
    assert found.pictures.tolist() == [part.size for part in parts]
    np.testing.assert_allclose(found.confidence, [confidence[part].mean() for part in parts])
    np.testing.assert_allclose(found.accuracy, [right[part].mean() for part in parts])
    assert found.edges[-1] == confidence.max()


def test_adaptive_bins_do_not_divide_equal_confidences() -> None:
    confidence = np.array([0.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9])
    found = reliability(confidence, confidence > 0.3, bins=4, adaptive=True)
    assert found.edges.tolist() == [0, 0.5, 0.9]
    assert found.pictures.tolist() == [6, 2]
    zeros = reliability(np.zeros(3), np.ones(3, np.bool_), adaptive=True)
    assert (zeros.pictures.tolist(), zeros.expected_error) == ([3], 1.0)


@pytest.mark.parametrize("adaptive", [False, True])
def test_of_no_pictures_there_is_no_error(adaptive: bool) -> None:
    found = reliability(np.zeros(0), np.zeros(0, np.bool_), adaptive=adaptive)
    assert found.expected_error == found.maximum_error == found.pictures.sum() == 0


def test_what_is_no_probability_is_refused() -> None:
    right = np.ones(1, np.bool_)
    for bad in (1.01, -0.1, np.nan):
        with pytest.raises(ConfigError, match="not a probability"):
            reliability(np.array([bad]), right)
    with pytest.raises(ConfigError, match="bins is 0"):
        reliability(np.ones(1), right, bins=0)
    with pytest.raises(ConfigError, match="confidence and right are"):
        reliability(np.ones(2), right)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_scores_of_probabilities_are_by_definition(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits, targets = 4 * rng.normal(size=(60, 5)), rng.integers(0, 5, 60)
    found = calibration.proper_scores(logits, targets, temperature=temperature)
    logs = log_softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(found.nll, -logs[np.arange(60), targets], rtol=1e-12)
    np.testing.assert_allclose(
        found.brier, ((np.exp(logs) - np.eye(5)[targets]) ** 2).sum(axis=1), rtol=1e-9
    )
    best = calibration.confidences(logits, temperature=temperature)
    np.testing.assert_allclose(best, np.exp(logs).max(axis=1), rtol=1e-12)


def test_scores_keep_their_digits_where_probabilities_have_none() -> None:
    found = calibration.proper_scores(np.float32([[0, 1e4], [0, 40]]), np.array([0, 1]))
    assert found.nll[0] == pytest.approx(1e4)  # of a probability that is zero in float64
    assert found.nll[1] == pytest.approx(np.log1p(np.exp(-40.0)), abs=1e-16)
    assert found.brier[0] == pytest.approx(2)
    assert found.brier[1] == pytest.approx(0, abs=1e-30)


def test_pictures_without_a_target_have_no_score() -> None:
    logits = np.arange(6.0).reshape(3, 2)
    found = calibration.proper_scores(logits, np.array([0, -1, 1]))
    alone = calibration.proper_scores(logits[[0, 2]], np.array([0, 1]))
    np.testing.assert_array_equal(found.nll, alone.nll)
    np.testing.assert_array_equal(found.brier, alone.brier)
    with pytest.raises(ConfigError, match="temperature is 0"):
        calibration.proper_scores(logits, np.array([0, -1, 1]), temperature=0)


def overconfident(count: int = 500) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Draw logits three times as large as they should be."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 4))
    shares = predictions.probabilities(logits)
    labels = np.array([rng.choice(4, p=row) for row in shares])
    return 3 * logits, labels


@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_is_the_one_that_scipy_finds(weighted: bool) -> None:
    logits, labels = overconfident()
    count = len(labels)
    weights = np.linspace(0.5, 2, count) if weighted else np.ones(count)
    targets = (count * np.eye(4)[labels] + 1 / 4) / (count + 1)

    def loss(log_temperature: float) -> float:
        shares = predictions.probabilities(logits, temperature=float(np.exp(log_temperature)))
        return float(-(weights[:, None] * targets * np.log(shares)).sum())

    expected = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(logits, labels, weights if weighted else None)
    assert found == pytest.approx(np.exp(expected.x), rel=1e-5)
    assert found == pytest.approx(3, rel=0.15)


def test_answers_that_are_all_right_are_not_certain() -> None:
    labels = np.arange(20) % 2
    logits = np.eye(2)[labels]
    shares = predictions.probabilities(logits, temperature=fit_temperature(logits, labels))
    assert shares.max() == pytest.approx(20.5 / 21, abs=1e-6)  # 20 seen, one that may be either


def test_answers_without_worth_get_the_highest_temperature() -> None:
    logits, labels = np.eye(2)[[0, 1, 0, 1]], np.array([1, 0, 1, 0])
    assert fit_temperature(logits, labels) == pytest.approx(100)
    assert fit_temperature(1e6 * np.eye(2)[labels], labels) <= 100
    assert fit_temperature(1e-6 * np.eye(2)[labels], labels) >= 0.01


def test_the_temperature_does_not_heed_pictures_without_a_target() -> None:
    logits, labels = overconfident()
    unknown = np.where(np.arange(500) % 3 == 0, -1, labels)
    known = unknown >= 0
    expected = fit_temperature(logits[known], labels[known])
    assert fit_temperature(logits, unknown) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ConfigError, match="no picture has a target"):
        fit_temperature(logits, np.full(500, -1))


def test_equal_logits_have_any_temperature() -> None:
    assert 0.01 <= fit_temperature(np.ones((4, 3)), np.array([0, 1, 2, 0])) <= 100


@pytest.mark.parametrize("scale", [1e-3, 0.02, 1, 30, 3e3])
def test_the_temperature_follows_the_scale_of_the_logits(scale: float) -> None:
    logits, labels = overconfident()
    expected = np.clip(fit_temperature(logits, labels) * scale, 0.01, 100)
    assert fit_temperature(scale * logits, labels) == pytest.approx(expected, rel=1e-8)


Call = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], object]


@pytest.mark.parametrize(
    "call",
    [
        metrics.ranks,
        calibration.proper_scores,
        fit_temperature,
        lambda logits, targets: calibration.confidences(logits),
        lambda logits, targets: conformal.calibrate(logits, targets, method="raps"),
        lambda logits, targets: conformal.score_sets(
            logits, targets, conformal.calibrate(logits[:99], targets[:99])
        ),
        lambda logits, targets: multilabel.score(
            logits[:, :100], targets[:, None] == np.arange(100)
        ),
    ],
    ids=["ranks", "scores", "temperature", "confidences", "calibrate", "sets", "multilabel"],
)
def test_large_logits_are_never_copied(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_CHUNK", 2**14)  # 128 KiB of float64
    logits = np.random.default_rng(0).standard_normal((1600, 500), np.float32)  # 3.2 MB
    targets = np.arange(1600) % 500
    call(logits[:9], targets[:9])  # what is done once
    tracemalloc.start()
    call(logits, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e6
