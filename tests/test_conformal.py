"""Sets of labels: they have the right one inside as often as promised."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation import conformal
from resnext.evaluation.conformal import Conformal, Method

METHODS: tuple[Method, ...] = ("lac", "aps", "raps")
each_method = pytest.mark.parametrize("method", METHODS)


def pictures(
    count: int, *, num_classes: int = 8, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Draw logits that are too sure of themselves, and classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, num_classes))
    shares = predictions.probabilities(logits)
    targets = (rng.random((count, 1)) > shares.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return 2.5 * logits, targets


@each_method
@pytest.mark.parametrize(("count", "alpha"), [(40, 0.1), (199, 0.25)])
def test_the_mean_coverage_is_the_promised_one(method: Method, count: int, alpha: float) -> None:
    trials, others = 200, 40
    logits, targets = pictures(trials * (count + others))
    covered = []
    for trial in range(trials):
        rows = slice(trial * (count + others), (trial + 1) * (count + others))
        ours, theirs = logits[rows], targets[rows]
        found = conformal.calibrate(
            ours[:count], theirs[:count], method=method, alpha=alpha, seed=trial
        )
        scores = conformal.score_sets(ours[count:], theirs[count:], found, seed=trial)
        covered.append(scores.coverage)
    low, high = found.guaranteed
    assert (low, high) == pytest.approx((1 - alpha, 1 - alpha + 1 / (count + 1)))
    error = float(np.std(covered)) / math.sqrt(trials)
    assert low - 3.3 * error <= np.mean(covered) <= high + 3.3 * error


def by_hand(logits: npt.NDArray[np.float64], uniform: float, found: Conformal) -> list[float]:
    """Compute the scores of one picture as the papers write them."""
    shares = predictions.probabilities(logits[None], temperature=found.temperature)[0]
    scores = []
    for label in range(len(shares)):
        if found.method == "lac":
            scores.append(1 - shares[label])
            continue
        before = [k for k in range(len(shares)) if (-logits[k], k) < (-logits[label], label)]
        score = shares[before].sum() + uniform * shares[label]
        if found.method == "raps":
            score += found.penalty * max(0, len(before) + 1 - found.free_ranks)
        scores.append(score)
    return scores


@each_method
def test_sets_and_quantile_are_by_definition(method: Method) -> None:
    logits, targets = pictures(30)
    logits[3] = 0.0  # all equal
    found = conformal.calibrate(
        logits,
        targets,
        method=method,
        alpha=0.2,
        temperature=2.0,
        penalty=0.05,
        free_ranks=2,
        seed=5,
    )
    uniform = np.random.default_rng([5, 0]).random(30)
    scores = np.array([by_hand(*pair, found) for pair in zip(logits, uniform, strict=True)])
    own = np.sort(scores[np.arange(30), targets])
    assert found.quantile == pytest.approx(own[math.ceil(31 * 0.8) - 1], abs=1e-12)
    fresh, truth = pictures(40, seed=1)
    sets = conformal.label_sets(fresh, found, seed=5)
    uniform = np.random.default_rng([5, 1]).random(40)
    scores = np.array([by_hand(*pair, found) for pair in zip(fresh, uniform, strict=True)])
    np.testing.assert_array_equal(sets, scores <= found.quantile)
    counted = conformal.score_sets(fresh, truth, found, seed=5)
    assert counted.pictures == 40
    assert counted.covered == sets[np.arange(40), truth].sum()
    assert counted.sizes == tuple(np.bincount(sets.sum(axis=1), minlength=9))
    assert counted.mean_size == pytest.approx(sets.sum(axis=1).mean())


def test_lac_has_the_smallest_sets() -> None:
    logits, targets = pictures(4000)
    first, rest = conformal.split(4000, seed=1)
    sizes = []
    for method in METHODS:
        found = conformal.calibrate(logits[first], targets[first], method=method, temperature=2.5)
        sizes.append(conformal.score_sets(logits[rest], targets[rest], found).mean_size)
    assert sizes[0] < min(sizes[1:]) - 0.05


def test_a_penalty_makes_the_largest_sets_smaller() -> None:
    logits, targets = pictures(4000, num_classes=50)
    first, rest = conformal.split(4000, seed=1)
    aps, raps = (
        conformal.score_sets(
            logits[rest],
            targets[rest],
            conformal.calibrate(
                logits[first], targets[first], method="raps", temperature=2.5, penalty=penalty
            ),
        )
        for penalty in (0.0, 0.1)
    )
    assert np.flatnonzero(raps.sizes)[-1] < np.flatnonzero(aps.sizes)[-1] - 3


@each_method
def test_too_few_pictures_promise_all_classes(method: Method) -> None:
    logits, targets = pictures(9)
    found = conformal.calibrate(logits[:8], targets[:8], method=method)
    assert math.isinf(found.quantile)
    assert found.guaranteed == (1.0, 1.0)
    assert conformal.label_sets(logits, found).all()
    nine = conformal.calibrate(logits, targets, method=method)  # (9 + 1)(1 - 0.1) is 9
    assert math.isfinite(nine.quantile)


def test_pictures_without_a_target_are_left_out() -> None:
    logits, targets = pictures(60)
    unknown = np.where(np.arange(60) < 20, -1, targets)
    found = conformal.calibrate(logits, unknown)
    assert found == conformal.calibrate(logits[20:], targets[20:])
    assert found.pictures == 40
    scores = conformal.score_sets(logits, unknown, found)
    assert scores == conformal.score_sets(logits[20:], targets[20:], found)
    nothing = conformal.score_sets(logits, np.full(60, -1), found)
    assert nothing.pictures == nothing.coverage == nothing.mean_size == 0


def test_pictures_are_divided_by_chance_and_the_same_every_time() -> None:
    first, rest = conformal.split(11, share=0.3, seed=2)
    assert len(first) == 3
    assert sorted([*first, *rest]) == list(range(11))
    assert (np.diff(first) > 0).all()
    again, _ = conformal.split(11, share=0.3, seed=2)
    np.testing.assert_array_equal(first, again)
    assert any((conformal.split(11, share=0.3, seed=seed)[0] != first).any() for seed in (3, 4))
    with pytest.raises(ConfigError, match="share is 1.0"):
        conformal.split(11, share=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "naps"}, "method is 'naps'; expected one of lac, aps, raps"),
        ({"alpha": 0.0}, "alpha is 0.0; expected more than 0"),
        ({"penalty": -1.0}, "penalty and free_ranks are -1.0 and 5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    logits, targets = pictures(20)
    with pytest.raises(ConfigError, match=message):
        conformal.calibrate(logits, targets, **options)  # type: ignore[arg-type]
