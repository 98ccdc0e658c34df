"""Intervals: they are the published ones, and hold what they promise."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("scipy", reason="scikit-learn, which brings scipy, is not installed")

from scipy.stats import binom, binomtest
from scipy.stats import t as student

from resnext.errors import ConfigError
from resnext.evaluation import intervals, metrics, multilabel
from resnext.evaluation.intervals import Interval

Integers = npt.NDArray[np.int64]
TRIALS = 2000


def promised(hits: int, trials: int) -> bool:
    """Tell whether so many intervals of 95 % is what chance allows, 1 time in 1,000 not."""
    return bool(binom.ppf(5e-4, trials, 0.95) <= hits <= binom.ppf(1 - 5e-4, trials, 0.95))


@pytest.mark.parametrize(
    ("right", "pictures"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (9_777, 10_000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilsons_interval_is_scipys(right: int, pictures: int, confidence: float) -> None:
    expected = binomtest(right, pictures).proportion_ci(confidence, method="wilson")
    found = intervals.wilson(right, pictures, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.confidence == confidence
    assert found.low <= right / pictures <= found.high


def test_of_no_pictures_nothing_is_known() -> None:
    assert intervals.wilson(0, 0) == Interval(low=0.0, high=1.0, confidence=0.95)


@pytest.mark.parametrize(("share", "pictures"), [(0.5, 100), (0.8, 200), (0.77, 5000)])
def test_wilsons_interval_holds_the_share_as_often_as_promised(share: float, pictures: int) -> None:
    rights = np.random.default_rng(1).binomial(pictures, share, TRIALS)
    found = [intervals.wilson(int(right), pictures) for right in rights]
    assert promised(sum(one.low <= share <= one.high for one in found), TRIALS)


def test_the_interval_of_a_mean_holds_it_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    found = [intervals.mean(rng.exponential(size=400)) for _ in range(TRIALS)]
    assert promised(sum(one.low <= 1 <= one.high for one in found), TRIALS)
    three = intervals.mean(np.array([1.0, 2.0, 3.0]))
    assert (three.low, three.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


@pytest.mark.parametrize("size", [2, 3, 4, 7, 19])
def test_the_interval_of_the_mean_of_few_holds_it_as_often_as_promised(size: int) -> None:
    rows = np.random.default_rng(size).normal(3.0, 0.2, (TRIALS, size))
    found = [intervals.mean(row) for row in rows]
    assert promised(sum(one.low <= 3 <= one.high for one in found), TRIALS)


def test_students_law_is_scipys() -> None:
    for confidence in (0.5, 0.9, 0.95, 0.999):
        for freedom in (1, 2, 3, 4, 9, 30, 101, 9_999):
            expected = student.ppf((1 + confidence) / 2, freedom)
            assert intervals.student(confidence, freedom) == pytest.approx(expected, rel=1e-10)
        normal = intervals.quantile(confidence)
        assert intervals.student(confidence, 10_000) == normal
        assert intervals.student(confidence, 9_999) == pytest.approx(normal, rel=1e-3)


def known(found: dict[str, Interval | None]) -> dict[str, Interval]:
    """Return intervals none of which may be missing."""
    assert None not in found.values()
    return {name: one for name, one in found.items() if one is not None}


def model(num_classes: int, *, seed: int) -> npt.NDArray[np.float64]:
    """Draw the chances (K, K) of answers of each class."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(num_classes, 0.2), num_classes)
    right = rng.uniform(0.5, 0.95, num_classes)[:, None]
    return (1 - right) * chances + right * np.eye(num_classes)


def answers_of(chances: npt.NDArray[np.float64], each: int, rng: np.random.Generator) -> Integers:
    """Draw answers for `each` pictures of every class, class by class."""
    draws = rng.random((len(chances), each, 1))
    return (draws > chances.cumsum(axis=1)[:, None, :-1]).sum(axis=2).ravel()


def truth(chances: npt.NDArray[np.float64]) -> dict[str, float]:
    """Compute the figures of endlessly many pictures, the same number of each class."""
    counts = metrics.ClassCounts(
        right=np.diag(chances), answered=chances.sum(axis=0), support=np.ones(len(chances))
    )
    return {name: float(value) for name, value in metrics.average_arrays(counts).items()}


@pytest.mark.parametrize(
    ("num_classes", "each", "trials", "missing"),
    [(4, 40, 150, 0.02), pytest.param(60, 10, 300, 0.06, marks=pytest.mark.slow)],
)
def test_intervals_of_averages_hold_them_as_often_as_promised(
    num_classes: int, each: int, trials: int, missing: float
) -> None:
    chances = model(num_classes, seed=5)
    expected = truth(chances)
    targets = np.repeat(np.arange(num_classes), each)
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(expected, 0)
    for seed in range(trials):
        answers = answers_of(chances, each, rng)
        found = known(
            intervals.class_averages(
                answers, targets, num_classes=num_classes, draws=100, seed=seed
            )
        )
        for name, interval in found.items():
            hits[name] += interval.low <= expected[name] <= interval.high
    # With 100 draws the ends are a little too near, and few pictures a class are few.
    slack = 2.6 * math.sqrt(0.95 * 0.05 / trials)
    for name, count in hits.items():
        assert 0.95 - missing - slack <= count / trials <= 0.95 + slack, name


@pytest.mark.parametrize(("num_classes", "each", "accuracy"), [(5, 20, 0.97), (20, 10, 0.6)])
def test_intervals_of_small_sets_hold_the_averages_nearly_as_often(
    num_classes: int, each: int, accuracy: float
) -> None:
    """Nearly right in all, and with answers so spread that precision is biased."""
    spread = np.full((num_classes, num_classes), (1 - accuracy) / (num_classes - 1))
    chances = np.where(np.eye(num_classes) > 0, accuracy, spread)
    expected, targets = truth(chances), np.repeat(np.arange(num_classes), each)
    rng, hits, trials = np.random.default_rng(0), Counter[str](), 0
    for seed in range(200):
        answers = answers_of(chances, each, rng)
        found = intervals.class_averages(
            answers, targets, num_classes=num_classes, draws=100, seed=seed
        )
        trials += None not in found.values()
        for name, one in found.items():
            hits[name] += one is not None and one.low <= expected[name] <= one.high
    assert trials > 180
    assert min(hits.values()) >= 0.9 * trials, hits
    assert max(hits.values()) <= 0.99 * trials, hits


def test_intervals_of_differences_in_small_sets_hold_them_nearly_as_often() -> None:
    chances = 0.9 * np.eye(5) + 0.1 / 4 * (1 - np.eye(5))
    better = 0.8 * chances + 0.2 * (0.98 * np.eye(5) + 0.02 / 4 * (1 - np.eye(5)))
    a, b, targets = truth(chances), truth(better), np.repeat(np.arange(5), 20)
    rng, hits, trials = np.random.default_rng(0), Counter[str](), 0
    for seed in range(200):
        first = answers_of(chances, 20, rng)
        other = answers_of(0.98 * np.eye(5) + 0.02 / 4 * (1 - np.eye(5)), 20, rng)
        second = np.where(rng.random(100) < 0.8, first, other)
        found = intervals.class_average_differences(
            (first, second), (targets, targets), num_classes=5, draws=100, seed=seed
        )
        trials += None not in found.values()
        for name, one in found.items():
            hits[name] += one is not None and one.low <= b[name] - a[name] <= one.high
    assert trials > 150
    assert min(hits.values()) >= 0.9 * trials, hits


def test_differences_to_a_better_model_are_above_zero() -> None:
    chances = model(5, seed=1)
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(5), 200)
    worse = answers_of(chances, 200, rng)
    better = np.where(rng.random(1000) < 0.3, targets, worse)
    both = (targets, targets)
    found, back = (
        known(intervals.class_average_differences(pair, both, num_classes=5, draws=200))
        for pair in ((worse, better), (better, worse))
    )
    for name, interval in found.items():
        seen = [
            getattr(metrics.averages(metrics.class_counts(one, targets, num_classes=5)), name)
            for one in (worse, better)
        ]
        assert 0 < interval.low < seen[1] - seen[0] < interval.high < 0.2, name
        assert back[name].high < 0
        # The same pictures tell more than two samples: it is narrower than the sum of both.
    alone = known(intervals.class_averages(worse, targets, num_classes=5, draws=200))["macro_f1"]
    paired = found["macro_f1"]
    assert paired.high - paired.low < alone.high - alone.low


def test_one_picture_that_differs_does_not_tell_two_models_apart() -> None:
    targets = np.repeat(np.arange(10), 20)
    first = np.where(np.arange(200) % 3 == 0, (targets + 1) % 10, targets)
    second = first.copy()
    second[3] = targets[3]
    assert (first != second).sum() == 1
    found = known(
        intervals.class_average_differences((first, second), (targets, targets), num_classes=10)
    )
    assert found
    for name, interval in found.items():
        assert interval.low <= 0 < interval.high, name


def test_the_draws_are_those_of_the_seed_and_keep_the_size_of_each_class() -> None:
    chances = model(4, seed=0)
    targets = np.r_[np.repeat(np.arange(4), 30), -1]
    answers = np.r_[answers_of(chances, 30, np.random.default_rng(0)), 0]
    first, again, other = (
        known(intervals.class_averages(answers, targets, num_classes=4, draws=100, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first["weighted_f1"].low == pytest.approx(first["macro_f1"].low)  # of equal sizes
    # Of 30 pictures a class the recall that counts classes is that which counts pictures.
    accuracy = intervals.wilson(int((answers == targets).sum()), 120)
    found = first["balanced_accuracy"]
    assert (found.low, found.high) == pytest.approx((accuracy.low, accuracy.high), abs=0.05)


def test_only_the_chosen_classes_are_averaged() -> None:
    targets = np.array([0] * 20 + [1] * 20)
    answers = np.array([0] * 20 + [1, 0] * 10)
    found = intervals.class_averages(answers, targets, num_classes=3, labels=[0], draws=100)
    assert found["macro_recall"] is None  # all right in every draw: how sure that is, none says
    precision = found["macro_precision"]
    assert precision is not None
    assert precision.low < 20 / 30 < precision.high < 1


def test_a_class_of_one_picture_tells_nothing_of_its_spread() -> None:
    targets = np.arange(100)
    answers = np.where(targets < 60, targets, 0)
    found = intervals.class_averages(answers, targets, num_classes=100, draws=100)
    assert set(found.values()) == {None}
    # One such class among others is as unknown as it was.
    targets, answers = np.r_[0, [1] * 50], np.r_[0, [1] * 40, [0] * 10]
    assert set(intervals.class_averages(answers, targets, num_classes=2, draws=100).values()) == {
        None
    }
    pair, both = (answers, targets), (targets, targets)
    found = intervals.class_average_differences(pair, both, num_classes=2, draws=100)
    assert set(found.values()) == {None}


def test_what_no_draw_changes_has_no_interval_instead_of_one_without_width() -> None:
    targets = np.repeat(np.arange(5), 2)
    found = intervals.class_averages(targets, targets, num_classes=5, draws=100)
    assert set(found.values()) == {None}
    answers = answers_of(model(5, seed=1), 200, np.random.default_rng(0))
    targets = np.repeat(np.arange(5), 200)
    same = intervals.class_average_differences(
        (answers, answers), (targets, targets), num_classes=5, draws=100
    )
    assert set(same.values()) == {None}


@pytest.mark.parametrize(("classes", "each"), [(1, 4), (1, 30), (2, 10), (5, 5)])
def test_wrong_answers_that_the_data_lacks_leave_precision_without_interval(
    classes: int, each: int
) -> None:
    """Of 1,000 classes and a few folders: then no answer is wrong for a class of the data."""
    targets = np.repeat(np.arange(classes), each)
    for seed in range(10):
        right = np.random.default_rng(seed).random(len(targets)) < 0.4
        right[0], right[-1] = True, False
        answers = np.where(right, targets, classes)
        found = intervals.class_averages(
            answers, targets, num_classes=classes + 1, labels=range(classes), draws=100
        )
        assert found["macro_recall"] is not None
        if right.reshape(classes, each).any(axis=1).all():
            assert found["macro_precision"] is None


def test_a_perfect_model_of_rare_labels_has_no_interval_of_its_precision() -> None:
    targets = np.zeros((30, 2), bool)
    targets[:3] = True
    logits = np.where(targets, 5.0, -5.0).astype(np.float32)
    assert set(intervals.multilabel_averages(logits, targets, draws=100).values()) == {None}


def test_models_may_have_targets_of_their_own() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 400), rng.integers(0, 4, 400)
    own = np.where(rng.random(400) < 0.9, first, second)
    answers = (np.where(rng.random(400) < 0.5, first, 0), np.where(rng.random(400) < 0.8, own, 1))
    found = known(
        intervals.class_average_differences(answers, (first, own), num_classes=4, draws=200)
    )
    values = [
        metrics.averages(metrics.class_counts(one, targets, num_classes=4)).macro_recall
        for one, targets in zip(answers, (first, own), strict=True)
    ]
    assert found["macro_recall"].low < values[1] - values[0] < found["macro_recall"].high
    assert found["macro_recall"].high - found["macro_recall"].low < 0.3
    hidden = np.where(np.arange(400) < 7, -1, own)
    with pytest.raises(ConfigError, match="targets of A and of B"):
        intervals.class_average_differences(answers, (first, hidden), num_classes=4)


def test_the_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(size=300)
    found = intervals.bootstrap(
        lambda counts: {"mean": counts @ values / 300},
        np.ones(300, np.int64),
        np.zeros(300, np.int64),
        draws=4000,
    )["mean"]
    assert found is not None
    expected = intervals.mean(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_the_bias_of_the_draws_is_taken_off_and_the_variance_is_that_of_one_fewer() -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    center, variance = values.mean(), values.var(ddof=1) / 5

    def statistic(counts: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        means = counts @ values / counts.sum(axis=1)
        return {"mean": means, "square": means**2}

    one = np.ones(5, np.int64)
    found = known(intervals.bootstrap(statistic, one, 0 * one, draws=20_000))
    reach = 1.959964 * variance**0.5  # by n draws it is a tenth less
    ends = pytest.approx((center - reach, center + reach), abs=0.02 * reach)
    assert (found["mean"].low, found["mean"].high) == ends
    # The square of a mean is too large by its variance.
    middle = (found["square"].low + found["square"].high) / 2
    assert middle == pytest.approx(center**2 - variance, abs=0.2 * variance)


def test_draws_of_classes_of_different_sizes_keep_their_proportions() -> None:
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(0, 1, 3), rng.normal(100, 1, 30)]
    found = intervals.bootstrap(
        lambda counts: {"mean": counts @ values / counts.sum(axis=1)},
        np.ones(33, np.int64),
        np.repeat([0, 1], [3, 30]),
    )["mean"]
    assert found is not None
    assert (found.low + found.high) / 2 == pytest.approx(values.mean(), abs=0.05)
    assert found.high - found.low < 1


def several(rng: np.random.Generator, pictures: int) -> tuple[npt.NDArray[np.float32], Any]:
    targets = rng.random((pictures, 4)) < (0.1, 0.2, 0.3, 0.5)
    return (rng.normal(size=targets.shape) + 1.5 * targets - 1).astype(np.float32), targets


def test_intervals_of_several_labels_hold_the_figures_of_all_pictures() -> None:
    rng = np.random.default_rng(0)
    everything = multilabel.score(*several(rng, 100_000))
    hits, trials = Counter[str](), 60
    for seed in range(trials):
        found = intervals.multilabel_averages(*several(rng, 250), draws=200, seed=seed)
        for name, interval in found.items():
            assert interval is not None
            hits[name] += interval.low <= getattr(everything, name) <= interval.high
    assert set(hits) == {"mean_average_precision", "micro_f1", "macro_f1"}
    assert min(hits.values()) >= 0.8 * trials  # 91 to 96 % in 150 trials of 200 to 1,000 pictures
    assert max(hits.values()) <= trials


def test_intervals_of_several_labels_repeat_and_lie_about_the_figure() -> None:
    logits, targets = several(np.random.default_rng(1), 400)
    scores = multilabel.score(logits, targets, labels=[0, 2])
    found = intervals.multilabel_averages(logits, targets, labels=[0, 2], draws=200)
    assert found == intervals.multilabel_averages(logits, targets, labels=[0, 2], draws=200)
    for name, interval in found.items():
        assert interval is not None and interval.low < getattr(scores, name) < interval.high, name


def test_a_single_picture_of_a_class_and_too_many_to_draw_have_no_interval() -> None:
    logits, targets = several(np.random.default_rng(2), 100)
    targets[:, 0] = np.arange(100) == 7
    found = intervals.multilabel_averages(logits, targets, draws=100)
    assert [name for name, interval in found.items() if interval is not None] == ["micro_f1"]
    alone = intervals.multilabel_averages(logits, targets, labels=[1, 2, 3], draws=100)
    assert None not in alone.values()
    assert set(intervals.multilabel_averages(logits, targets, draws=99).values()) == {None}


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones(3, np.int64)
    with pytest.raises(ConfigError, match="4 of 3 are right"):
        intervals.wilson(4, 3)
    with pytest.raises(ConfigError, match="confidence is 95; expected more than 0"):
        intervals.wilson(1, 3, confidence=95)
    with pytest.raises(ConfigError, match="draws is 10; expected at least 100"):
        intervals.class_averages(ones, ones, num_classes=2, draws=10)
    with pytest.raises(ConfigError, match="at least 2 pictures"):
        intervals.mean(np.ones(1))
    with pytest.raises(ConfigError, match="pictures and strata are"):
        intervals.bootstrap(lambda counts: {}, ones, ones[:2])
