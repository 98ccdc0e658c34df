"""Accuracy, precision, recall, F1, confusion: equal to scikit-learn's, ties by class index."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sklearn import metrics as theirs

from resnext import predictions
from resnext.errors import ConfigError
from resnext.evaluation import metrics
from resnext.evaluation.arrays import UNLABELED
from resnext.evaluation.metrics import ConfusedPair, Proportion

Integers = npt.NDArray[np.int64]


@st.composite
def answered(draw: st.DrawFn) -> tuple[Integers, Integers, int]:
    """Draw answers and targets; classes may be absent from either."""
    num_classes = draw(st.integers(1, 6))
    count = draw(st.integers(1, 30))
    pairs = nps.arrays(np.int64, (2, count), elements=st.integers(0, num_classes - 1))
    answers, targets = draw(pairs)
    return answers, targets, num_classes


def compare(answers: Integers, targets: Integers, num_classes: int) -> None:
    """Compare everything with scikit-learn."""
    counts = metrics.class_counts(answers, targets, num_classes=num_classes)
    found = metrics.averages(counts)
    labels = range(num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shares of nothing, and of single classes
        for average in (None, "macro", "weighted"):
            expected = theirs.precision_recall_fscore_support(
                targets, answers, labels=labels, average=average, zero_division=0
            )
            ours: tuple[Any, ...] = counts.precision, counts.recall, counts.f1, counts.support
            if average is not None:
                names = (f"{average}_{name}" for name in ("precision", "recall", "f1"))
                ours, expected = tuple(getattr(found, name) for name in names), expected[:3]
            for mine, other in zip(ours, expected, strict=True):
                np.testing.assert_allclose(mine, other, rtol=0, atol=1e-12)
        assert found.balanced_accuracy == pytest.approx(
            theirs.balanced_accuracy_score(targets, answers), abs=1e-9
        )
        np.testing.assert_array_equal(
            metrics.confusion_matrix(answers, targets, num_classes=num_classes),
            theirs.confusion_matrix(targets, answers, labels=labels),
        )


@given(answered())
@settings(max_examples=100, deadline=None)
def test_figures_are_scikit_learns(case: tuple[Integers, Integers, int]) -> None:
    compare(*case)


@pytest.mark.parametrize(
    ("answers", "targets", "num_classes"),
    [
        ([0, 1, 2, 2], [0, 1, 2, 2], 3),  # all right
        ([1, 2, 0, 0], [0, 1, 2, 2], 3),  # all wrong
        ([0, 1, 2], [0, 1, 1], 3),  # a class that is answered and not there
        ([0, 1, 1], [0, 1, 2], 3),  # one that is there and not answered
        ([0, 0], [0, 0], 4),  # classes that are neither
        ([2], [1], 3),  # one picture
        ([0], [0], 1),  # one class
    ],
)
def test_figures_are_scikit_learns_at_the_edges(
    answers: list[int], targets: list[int], num_classes: int
) -> None:
    compare(np.array(answers), np.array(targets), num_classes)


def test_a_thousand_classes_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 900, 5000)  # a hundred have no pictures
    answers = np.where(rng.random(5000) < 0.6, targets, rng.integers(0, 1000, 5000))
    compare(answers, targets, 1000)


def test_averages_of_some_classes_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    answers, targets = rng.integers(0, 6, 100), rng.integers(0, 5, 100)
    counts = metrics.class_counts(answers, targets, num_classes=6)
    found = metrics.averages(counts, labels=[1, 3, 5])
    expected = theirs.precision_recall_fscore_support(
        targets, answers, labels=[1, 3, 5], average="macro", zero_division=0
    )
    ours = found.macro_precision, found.macro_recall, found.macro_f1
    assert ours == pytest.approx(expected[:3], abs=1e-12)


def test_of_no_pictures_every_figure_is_zero() -> None:
    none = np.zeros(0, np.int64)
    found = metrics.averages(metrics.class_counts(none, none, num_classes=3))
    assert found.macro_f1 == found.weighted_f1 == found.balanced_accuracy == 0
    assert metrics.confused_pairs(none, none, num_classes=3) == ()
    assert metrics.ranks(np.zeros((0, 3)), none).shape == (0,)
    assert metrics.top_k(none) == Proportion(right=0, pictures=0)
    assert metrics.top_k(none).accuracy == metrics.top_k(none).error == 0


def test_the_order_is_that_of_predictions() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (300, 7)).astype(np.float32)  # with many ties
    targets = rng.integers(0, 7, 300)
    answers = predictions.decide(logits, predictions.Labels(tuple("abcdefg")), top_k=7)
    places = [[one.index for one in best] for best in answers]
    expected = [place.index(target) for place, target in zip(places, targets, strict=True)]
    assert metrics.ranks(logits, targets).tolist() == expected
    assert metrics.answers(logits).tolist() == [place[0] for place in places]


@pytest.mark.parametrize("k", [1, 2, 5, 7, 100])
def test_top_k_is_scikit_learns(k: int) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    found = metrics.top_k(metrics.ranks(logits, targets), k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more than there are classes
        expected = theirs.top_k_accuracy_score(targets, logits, k=k, labels=range(7))
    assert found.accuracy == pytest.approx(expected, abs=1e-12)
    assert found.error == pytest.approx(1 - expected, abs=1e-12)
    assert found.pictures == 200


def test_k_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="k is 0; expected at least 1"):
        metrics.top_k(np.array([0]), 0)


def test_of_several_right_classes_the_best_counts_and_none_is_left_out() -> None:
    logits = np.array([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    right = np.array(
        [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], np.bool_
    )
    ranks = metrics.ranks(logits, right)
    assert ranks.tolist() == [1, 0, UNLABELED, 2, UNLABELED]
    assert metrics.top_k(ranks) == Proportion(right=1, pictures=3)
    assert metrics.top_k(ranks, 2) == Proportion(right=2, pictures=3)


@given(
    nps.arrays(np.float32, (20, 5), elements=st.sampled_from([-1.0, 0.0, 2.5])),
    nps.arrays(np.bool_, (20, 5)),
)
@settings(max_examples=100, deadline=None)
def test_several_right_classes_are_as_good_as_each_alone(
    logits: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]
) -> None:
    alone = np.stack([metrics.ranks(logits, np.full(20, k)) for k in range(5)], axis=1)
    expected = np.where(right, alone, 5).min(axis=1)
    np.testing.assert_array_equal(
        metrics.ranks(logits, right), np.where(right.any(axis=1), expected, UNLABELED)
    )


def test_pictures_without_a_known_class_are_left_out() -> None:
    targets = np.array([0, UNLABELED, 1])
    assert metrics.ranks(np.eye(3), targets).tolist() == [0, UNLABELED, 2]
    counts = metrics.class_counts(np.array([0, 1, 1]), targets, num_classes=2)
    assert counts.answered.tolist() == [1, 1]
    matrix = metrics.confusion_matrix(np.array([0, 1, 1]), targets, num_classes=2)
    assert matrix.tolist() == [[1, 0], [0, 1]]


def test_many_rows_are_as_few() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 9, (3000, 400)).astype(np.float32)
    targets = rng.integers(0, 400, 3000)  # more than one chunk
    found = metrics.ranks(logits, targets)
    some = np.arange(0, 3000, 17)
    np.testing.assert_array_equal(found[some], metrics.ranks(logits[some], targets[some]))


def test_the_most_confused_pairs() -> None:
    targets = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, UNLABELED])
    answers = np.array([0, 1, 1, 2, 0, 0, 1, 2, 2, 0])
    found = metrics.confused_pairs(answers, targets, num_classes=3, most=3)
    assert found == (
        ConfusedPair(target=0, answer=1, pictures=2, share=0.5),
        ConfusedPair(target=1, answer=0, pictures=2, share=1.0),
        ConfusedPair(target=0, answer=2, pictures=1, share=0.25),
    )
    assert len(metrics.confused_pairs(answers, targets, num_classes=3)) == 4
