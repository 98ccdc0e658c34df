"""`predictions`: softmax, order, names, and refusal of nonsense."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resnext import predictions
from resnext.errors import ConfigError, EngineError
from resnext.predictions import ImageResult, Labels, Prediction

ABC = Labels(("a", "b", "c"), ("n1", "n2", "n3"))

logits_arrays = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-1e6, 1e6, width=32),
)


def _labels(count: int) -> Labels:
    return Labels(tuple(f"class {index}" for index in range(count)))


@given(logits_arrays, st.floats(0.01, 100))
def test_probabilities_add_up_to_one(logits: np.ndarray, temperature: float) -> None:
    shares = predictions.probabilities(logits, temperature=temperature)
    assert shares.shape == logits.shape
    assert ((shares >= 0) & (shares <= 1)).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)


@given(logits_arrays, st.integers(1, 25), st.floats(0.01, 100))
def test_predictions_are_best_first_for_every_temperature(
    logits: np.ndarray, top_k: int, temperature: float
) -> None:
    classes = logits.shape[1]
    decided = predictions.decide(logits, _labels(classes), top_k=top_k, temperature=temperature)
    for row, best in zip(logits, decided, strict=True):
        indices = [prediction.index for prediction in best]
        assert indices == sorted(range(classes), key=lambda index: (-row[index], index))[:top_k]
        shares = [prediction.probability for prediction in best]
        assert shares == sorted(shares, reverse=True)


def test_probabilities_are_the_softmax() -> None:
    shares = predictions.probabilities(np.float32([[0, math.log(3)]]))
    np.testing.assert_allclose(shares, [[0.25, 0.75]], rtol=1e-7)


def test_temperature_divides_the_logits() -> None:
    shares = predictions.probabilities(np.float32([[0, 2 * math.log(3)]]), temperature=2)
    np.testing.assert_allclose(shares, [[0.25, 0.75]], rtol=1e-7)


def test_the_largest_float32_logits_do_not_overflow() -> None:
    huge = np.finfo(np.float32).max
    np.testing.assert_array_equal(
        predictions.probabilities(np.float32([[huge, -huge, huge]])), [[0.5, 0, 0.5]]
    )


def test_the_input_is_not_changed() -> None:
    logits = np.array([[3.0, 1.0, 2.0]])
    predictions.decide(logits, ABC)
    np.testing.assert_array_equal(logits, [[3, 1, 2]])


def test_a_prediction_carries_name_synset_and_index() -> None:
    [(best, *_)] = predictions.decide(np.float32([[0, 5, 0]]), ABC)
    assert (best.label, best.synset_id, best.index) == ("b", "n2", 1)
    assert best.probability == pytest.approx(math.exp(5) / (math.exp(5) + 2))


def test_ties_go_to_the_lower_index() -> None:
    [row] = predictions.decide(np.float32([[1, 2, 2]]), ABC)
    assert [prediction.index for prediction in row] == [1, 2, 0]


def test_order_survives_probabilities_that_underflow() -> None:
    [row] = predictions.decide(np.float32([[0, -4000, -3000]]), ABC)
    assert [prediction.index for prediction in row] == [0, 2, 1]
    assert row[1].probability == row[2].probability == 0


def test_top_k_beyond_the_classes_gives_all() -> None:
    [row] = predictions.decide(np.float32([[1, 2, 3]]), ABC, top_k=99)
    assert len(row) == 3


def test_no_pictures_give_no_predictions() -> None:
    assert predictions.decide(np.empty((0, 3), np.float32), ABC) == []


def test_classes_without_synsets_have_none() -> None:
    [(best,)] = predictions.decide(np.float32([[1.0]]), Labels(("only",)))
    assert best == Prediction(label="only", probability=1.0, index=0, synset_id=None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    logits = np.zeros((3, 3), np.float32)
    logits[1, 2] = bad
    with pytest.raises(EngineError, match="1 of 3 pictures, the first at position 1 of"):
        predictions.decide(logits, ABC)


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), (2, 0)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"expected \(N, K\) logits"):
        predictions.probabilities(np.zeros(shape, np.float32))


def test_another_number_of_logits_than_labels_is_refused() -> None:
    with pytest.raises(EngineError, match="answered 4 logits a picture; expected 3"):
        predictions.decide(np.zeros((1, 4), np.float32), ABC)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_a_temperature_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature is .*; expected a number above 0"):
        predictions.probabilities(np.zeros((1, 3)), temperature=temperature)


def test_top_k_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="top_k is 0; expected at least 1"):
        predictions.decide(np.zeros((1, 3)), ABC, top_k=0)


@pytest.mark.parametrize(
    ("threshold", "rejected"), [(None, False), (0.5, False), (0.7, False), (0.71, True)]
)
def test_rejection_compares_the_best_probability(threshold: float | None, rejected: bool) -> None:
    row = (Prediction(label="a", probability=0.7, index=0),)
    assert predictions.is_rejected(row, threshold) is rejected


def test_nothing_is_not_rejected() -> None:
    assert predictions.is_rejected((), 0.5) is False


@pytest.mark.parametrize(
    ("names", "synsets", "message"),
    [
        ((), None, "class_names is \\(\\); expected a tuple of at least one text"),
        (["a"], None, "class_names is \\['a'\\]; expected a tuple"),
        ("abc", None, "class_names is 'abc'; expected a tuple"),
        (("a", ""), None, "class_names\\[1\\] is ''; expected a text that is not empty"),
        (("a", 5), None, "class_names\\[1\\] is 5"),
        (("a",), ("n1", "n2"), "2 synset_ids for 1 class_names"),
        (("a",), (None,), "synset_ids\\[0\\] is None"),
    ],
)
def test_labels_that_name_nothing_are_refused(names: object, synsets: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Labels(names, synsets)  # type: ignore[arg-type]


def test_class_names_may_repeat() -> None:
    assert len(Labels(("crane", "crane"), ("n02012849", "n03126707"))) == 2


def test_a_result_becomes_json() -> None:
    row = (Prediction(label="cat", probability=0.123456789, index=7, synset_id="n1"),)
    document = ImageResult(source="a.jpg", predictions=row).to_json()
    assert json.loads(json.dumps(document)) == {
        "source": "a.jpg",
        "predictions": [{"label": "cat", "probability": 0.123457, "index": 7, "synset_id": "n1"}],
        "rejected": False,
        "error": None,
    }


def test_a_small_probability_keeps_its_digits() -> None:
    prediction = Prediction(label="cat", probability=1.23456789e-9, index=0)
    assert prediction.to_json()["probability"] == 1.23457e-09
