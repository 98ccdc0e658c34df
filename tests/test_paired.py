"""Two models on the same pictures: difference, McNemar, gains and losses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scikit-learn, which brings scipy, is not installed")

from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from resnext.errors import ConfigError
from resnext.evaluation import paired

TRIALS = 2000


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [(0, 0), (1, 0), (0, 5), (5, 5), (1, 7), (16, 6), (40, 41), (900, 1000), (30_000, 30_500)],
)
def test_mcnemars_tests_are_binomial_tests(only_a: int, only_b: int) -> None:
    total = only_a + only_b
    expected = binomtest(only_a, total, 0.5).pvalue if total else 1.0
    assert paired.mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    # Mid-p: as likely ones count half, and both tails are the same.
    point = binom.pmf(only_a, total, 0.5)
    as_likely = point if only_a == only_b else 2 * point
    halved = expected - as_likely / 2 if total else 1.0
    assert paired.mcnemar_mid_p(only_a, only_b) == pytest.approx(halved, rel=1e-9)
    assert paired.mcnemar_mid_p(only_b, only_a) == paired.mcnemar_mid_p(only_a, only_b)


def test_tiny_p_values_keep_their_digits() -> None:
    assert paired.mcnemar_exact(0, 900) == pytest.approx(2**-899, rel=1e-9)
    assert paired.mcnemar_mid_p(0, 900) == pytest.approx(2**-900, rel=1e-9)


def test_the_published_example() -> None:
    """Bentur et al. (2009), in Fagerland, Lydersen and Laake (Stat. Med. 33, 2014)."""
    found = paired.difference_interval(7, 1, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)
    assert paired.mcnemar_exact(7, 1) == pytest.approx(0.0703, abs=5e-5)
    assert paired.mcnemar_mid_p(7, 1) == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(
    ("only_a", "only_b", "pictures"),
    [(1, 7, 21), (40, 20, 160), (0, 3, 50), (300, 350, 10_000), (4, 0, 5)],
)
def test_each_end_is_where_the_score_test_is_just_significant(
    only_a: int, only_b: int, pictures: int
) -> None:
    found = paired.difference_interval(only_a, only_b, pictures)
    back = paired.difference_interval(only_b, only_a, pictures)
    assert (back.low, back.high) == (-found.high, -found.low)
    rest = pictures - only_a - only_b
    for end in (found.low, found.high):

        def unlikely(share: float, end: float = end) -> float:
            """The three-way likelihood with a share of only A, and so of only B."""
            chances = np.array([share, share + end, 1 - 2 * share - end])
            counts = np.array([only_a, only_b, rest])
            used = counts > 0
            return float(-(counts[used] @ np.log(np.maximum(chances[used], 1e-300))))

        bounds = max(0.0, -end), (1 - end) / 2
        share = minimize_scalar(unlikely, bounds=bounds, options={"xatol": 1e-12}).x
        deviation = np.sqrt((2 * share + end - end**2) / pictures)
        score = ((only_b - only_a) / pictures - end) / deviation
        assert abs(score) == pytest.approx(norm.ppf(0.975), rel=1e-4)


def test_the_ends_of_the_scale() -> None:
    assert paired.difference_interval(0, 0, 0).low == -1
    none = paired.difference_interval(0, 0, 100)
    assert none.low == -none.high
    assert none.high == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-4)
    every = paired.difference_interval(0, 10, 10)
    assert every.high == pytest.approx(1)
    assert 0.4 < every.low < 1
    wide = paired.difference_interval(5, 9, 100, confidence=0.99)
    narrow = paired.difference_interval(5, 9, 100, confidence=0.9)
    assert wide.low < narrow.low < 0.04 < narrow.high < wide.high


@pytest.mark.parametrize(
    ("chance_a", "chance_b", "pictures"), [(0.10, 0.10, 200), (0.05, 0.12, 100), (0.02, 0.03, 2000)]
)
def test_the_interval_holds_the_difference_as_often_as_promised(
    chance_a: float, chance_b: float, pictures: int
) -> None:
    rng = np.random.default_rng(3)
    rest = 1 - chance_a - chance_b
    draws = Counter(map(tuple, rng.multinomial(pictures, [chance_a, chance_b, rest], size=TRIALS)))
    hits = 0
    for (only_a, only_b, _), count in draws.items():
        found = paired.difference_interval(int(only_a), int(only_b), pictures)
        hits += count * (found.low <= chance_b - chance_a <= found.high)
    assert binom.ppf(5e-4, TRIALS, 0.95) <= hits <= binom.ppf(1 - 5e-4, TRIALS, 0.95)


def test_two_models_are_compared() -> None:
    right_a = np.array([1, 1, 1, 0, 0, 0, 0], np.bool_)
    right_b = np.array([1, 0, 1, 1, 1, 1, 0], np.bool_)
    found = paired.compare(right_a, right_b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, 1, 3, 1)
    assert found.pictures == 7
    assert found.difference == pytest.approx(2 / 7)
    assert found.interval == paired.difference_interval(1, 3, 7)
    assert found.exact == paired.mcnemar_exact(1, 3)
    assert found.mid_p == paired.mcnemar_mid_p(1, 3) < found.exact
    nothing = paired.compare(right_a[:0], right_b[:0])
    assert (nothing.pictures, nothing.difference, nothing.exact) == (0, 0.0, 1.0)


def test_gains_and_losses_of_each_class() -> None:
    right_a = np.array([1, 1, 0, 0, 0, 1], np.bool_)
    right_b = np.array([1, 0, 1, 1, 0, 0], np.bool_)
    targets = np.array([0, 0, 0, 2, 2, -1])
    found = paired.class_changes(right_a, right_b, targets, num_classes=3)
    assert found.support.tolist() == [3, 0, 2]
    assert found.gained.tolist() == [1, 0, 1]
    assert found.lost.tolist() == [1, 0, 0]
    assert found.difference.tolist() == [0, 0, 0.5]


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones(3, np.bool_)
    with pytest.raises(ConfigError, match="right answers of A and B are"):
        paired.compare(ones, ones[:2])
    with pytest.raises(ConfigError, match="targets are 3 to 3; expected 0 to 2"):
        paired.class_changes(ones, ones, np.full(3, 3), num_classes=3)
    with pytest.raises(ConfigError, match="3 and 4 of 6"):
        paired.difference_interval(3, 4, 6)
