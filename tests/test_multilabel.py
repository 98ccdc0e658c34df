"""A yes or no of each class: average precision and F1 equal to scikit-learn's."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sklearn import metrics as theirs

from resnext import modelfile, testing
from resnext.errors import ConfigError
from resnext.evaluation import multilabel

Logits = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


def compare(logits: Logits, targets: Booleans, *, threshold: float = 0.5) -> None:
    """Compare everything with scikit-learn."""
    found = multilabel.score(logits, targets, threshold=threshold)
    yes = 1 / (1 + np.exp(-logits.astype(np.float64))) > threshold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without pictures
        expected = [
            theirs.average_precision_score(wanted, column)
            for wanted, column in zip(targets.T, logits.T, strict=True)
        ]
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=1e-12)
    assert found.mean_average_precision == pytest.approx(np.mean(expected), abs=1e-12)
    f1 = [
        theirs.f1_score(targets, yes, average=average, zero_division=0)
        for average in ("micro", "macro")
    ]
    if targets.shape[1] > 1:  # scikit-learn takes one column for two classes
        assert (found.micro_f1, found.macro_f1) == pytest.approx(f1, abs=1e-12)
    np.testing.assert_array_equal(found.counts.support, targets.sum(axis=0))


@given(st.data(), st.integers(1, 20), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_scores_are_scikit_learns(data: st.DataObject, pictures: int, num_classes: int) -> None:
    shape = pictures, num_classes
    few = st.sampled_from([-2.0, -0.5, 0.25, 3.0])  # with many ties
    logits = data.draw(nps.arrays(np.float32, shape, elements=few))
    compare(logits, data.draw(nps.arrays(np.bool_, shape)))


@pytest.mark.parametrize("fill", [False, True])
def test_classes_that_no_picture_or_every_picture_has(fill: bool) -> None:
    compare(np.random.default_rng(0).normal(size=(9, 3)), np.full((9, 3), fill))


def test_many_columns_and_another_threshold() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 300)).astype(np.float32)  # more than one chunk
    targets = logits + rng.normal(size=logits.shape) > 1.5
    some = np.r_[0:3, 140:143, 297:300]
    found = multilabel.score(logits, targets, threshold=0.7)
    alone = multilabel.score(logits[:, some], targets[:, some], threshold=0.7)
    np.testing.assert_array_equal(found.average_precision[some], alone.average_precision)
    np.testing.assert_array_equal(found.counts.right[some], alone.counts.right)
    compare(logits[:, some], targets[:, some], threshold=0.7)


def test_averages_are_of_the_chosen_classes_and_micro_is_of_all() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    targets = logits + rng.normal(size=logits.shape) > 0.5
    targets[:, 2] = False
    some, every = [0, 1, 3], multilabel.score(logits, targets)
    found = multilabel.score(logits, targets, labels=some)
    alone = multilabel.score(logits[:, some], targets[:, some])
    assert found.mean_average_precision == pytest.approx(alone.mean_average_precision)
    assert found.macro_f1 == pytest.approx(alone.macro_f1) != every.macro_f1
    assert found.micro_f1 == every.micro_f1 != alone.micro_f1


def test_probabilities_are_sigmoids_however_large_logits_are() -> None:
    logits = np.float32([[0, 2, -2], [1e4, -1e4, 3e38]])
    found = multilabel.probabilities(logits)
    assert found[0] == pytest.approx([0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])
    assert found[1].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({"dataset": {"multi_label": True}, "config": {"loss": {"kind": "bce"}}}, True),
        # Some recipes learn one label a picture by "bce".
        ({"dataset": {"multi_label": False}, "config": {"loss": {"kind": "bce"}}}, False),
        ({"dataset": {"multi_label": True}}, False),
        ({"dataset": [], "config": {"loss": "bce"}}, False),
        ({"dataset": {"multi_label": True}, "config": {"loss": "bce"}}, False),
        ({}, False),
    ],
)
def test_the_file_says_how_a_model_was_trained(
    provenance: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document = replace(modelfile.read(path)[0], provenance=provenance)
    assert multilabel.is_multi_label(document) is expected


def test_half_is_no() -> None:
    assert multilabel.score(np.zeros((1, 1)), np.ones((1, 1), np.bool_)).counts.answered == 0


def test_what_does_not_fit_is_refused() -> None:
    logits, targets = np.zeros((2, 3)), np.zeros((2, 3), np.bool_)
    with pytest.raises(ConfigError, match=r"targets are \(2,\); expected \(N, K\) bool"):
        multilabel.score(logits, np.array([0, 1]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threshold is 1.0; expected more than 0"):
        multilabel.score(logits, targets, threshold=1.0)


@given(st.data(), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_precision_in_a_draw_is_that_of_the_pictures_drawn(data: st.DataObject, count: int) -> None:
    few = st.sampled_from([-2.0, -0.5, 0.25, 3.0])  # with many ties
    logits = data.draw(nps.arrays(np.float32, count, elements=few))
    targets = data.draw(nps.arrays(np.bool_, count))
    drawn = data.draw(nps.arrays(np.int32, (count, 3), elements=st.integers(0, 3)))
    found = multilabel.precision_in_draws(logits, targets)(drawn)
    for value, times in zip(found, drawn.T, strict=True):
        again = np.repeat(targets, times)
        if not again.any():
            assert np.isnan(value)
            continue
        expected = theirs.average_precision_score(again, np.repeat(logits, times))
        assert value == pytest.approx(expected, abs=1e-12)
