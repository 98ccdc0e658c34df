"""Exact nearest neighbors against plain sorting, and the laws of the vote."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from resnext.errors import ConfigError
from resnext.explore import neighbors

Array = NDArray[np.float32]


def rows(count: int, width: int = 16, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return neighbors.unit(drawn)


def by_sorting(vectors: Array, queries: Array, count: int) -> NDArray[np.int64]:
    products = queries @ vectors.T
    return np.argsort(-products, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("size", [1, 7, 40, 64, 65, 200])
def test_the_nearest_are_those_that_sorting_everything_finds(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    monkeypatch.setattr(neighbors, "_ROWS", 64)
    monkeypatch.setattr(neighbors, "_QUERIES", 3)
    vectors, queries = rows(size), rows(8, seed=1)
    products, positions = neighbors.nearest(vectors, queries, count)
    np.testing.assert_array_equal(positions, by_sorting(vectors, queries, count))
    assert products.shape == (8, min(size, count))
    expected = np.take_along_axis(queries @ vectors.T, positions, axis=1)
    np.testing.assert_allclose(products, expected, atol=1e-6)


def test_of_equals_the_first_come_first_also_across_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbors, "_ROWS", 8)
    vectors = np.zeros((30, 4), np.float32)
    vectors[:, 0] = 1  # all the same: exact numbers, so that they tie
    vectors[25, 0] = 2
    products, positions = neighbors.nearest(vectors, vectors[:1], 5)
    assert positions.tolist() == [[25, 0, 1, 2, 3]]
    assert products.tolist() == [[2, 1, 1, 1, 1]]


def test_no_query_finds_nothing_and_nonsense_is_refused() -> None:
    products, positions = neighbors.nearest(rows(5), rows(0), 2)
    assert products.shape == positions.shape == (0, 2)
    with pytest.raises(ConfigError, match="count is 0"):
        neighbors.nearest(rows(5), rows(1), 0)
    with pytest.raises(ConfigError, match=r"expected \(Q, 16\)"):
        neighbors.nearest(rows(5), rows(1, width=8), 1)


def test_unit_rows_have_length_one_whatever_they_had_and_zeros_stay() -> None:
    scaled = neighbors.unit(np.float32([[3, 4], [0, 0], [1e30, 0], [1e-30, 0]]))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0], [1, 0], [1, 0]], rtol=1e-6)
    assert scaled.dtype == np.float32


# --- the vote ---------------------------------------------------------------------------------


def test_a_vote_weighs_the_exponential_of_the_similarity() -> None:
    labels, similar = np.array([[0, 1, 1]]), np.float32([[0.9, 0.5, 0.3]])
    [shares] = neighbors.vote(labels, similar, 3, temperature=0.1)
    weights = np.exp(similar[0].astype(float) / 0.1)
    expected = [weights[0], weights[1] + weights[2], 0]
    np.testing.assert_allclose(shares, expected / weights.sum(), rtol=1e-5)


def test_one_neighbor_decides_alone_and_a_high_temperature_counts_heads() -> None:
    labels, similar = np.array([[2, 0, 0]]), np.float32([[1.0, 0.5, -1.0]])
    alone = neighbors.vote(labels[:, :1], similar[:, :1], 3, temperature=0.07)
    np.testing.assert_array_equal(alone, [[0, 0, 1]])
    heads = neighbors.vote(labels, similar, 3, temperature=1e6)
    np.testing.assert_allclose(heads, [[2 / 3, 0, 1 / 3]], atol=1e-5)
    cold = neighbors.vote(labels, similar, 3, temperature=1e-4)
    np.testing.assert_allclose(cold, [[0, 0, 1]], atol=1e-9)


def test_who_has_no_label_does_not_vote() -> None:
    labels = np.array([[-1, 1], [-1, -1]])
    shares = neighbors.vote(labels, np.ones((2, 2), np.float32), 2, temperature=0.07)
    np.testing.assert_array_equal(shares, [[0, 1], [0, 0]])
    with pytest.raises(ConfigError, match="temperature is 0"):
        neighbors.vote(labels, np.ones((2, 2), np.float32), 2, temperature=0)


def test_knn_equals_that_of_scikit_learn() -> None:
    knn = pytest.importorskip("sklearn.neighbors")
    vectors, queries = rows(300, 8), rows(40, 8, seed=1)
    labels = np.random.default_rng(2).integers(0, 5, 300)
    reference = knn.KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(vectors, labels)
    products, positions = neighbors.nearest(vectors, queries, 20)
    shares = neighbors.vote(labels[positions], products, 5, temperature=0.07)
    np.testing.assert_allclose(shares, reference.predict_proba(queries), atol=1e-4)


def test_an_index_without_classes_has_no_vote() -> None:
    labels, products = np.full((2, 3), -1), np.ones((2, 3), np.float32)
    assert neighbors.vote(labels, products, 0, temperature=0.07).shape == (2, 0)
