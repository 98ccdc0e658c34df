"""The nearest of many vectors, exactly, and what their labels say.

A matrix product in blocks: 100,000 x 2048 float32 take 30 ms of two cores for one query, 2.7 ms
a query for 64 (`benchmarks/search.py`), and nothing has to be built, tuned or approximated.
Legend: N vectors, Q queries, D features, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError

TEMPERATURE = 0.07  # of the vote: arXiv:1805.01978, section 3.4; also arXiv:1911.05722's
_ROWS, _QUERIES = 4096, 1024  # a block of vectors has 32 MB at D = 2048, one of products 16 MB

Rows = NDArray[np.float32]


def unit(rows: Rows) -> Rows:
    """Scale (N, D) rows to length 1, so that their product is the cosine; zeros stay zeros."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    scaled: Rows = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def nearest(vectors: Rows, queries: Rows, count: int) -> tuple[Rows, NDArray[np.int64]]:
    """Find the vectors with the largest product with each query.

    Args:
        vectors: (N, D), also mapped from a file: they are read a block at a time.
        queries: (Q, D).
        count: How many; all N where there are fewer.

    Returns:
        Products and positions, (Q, count) each, largest first, equal ones by position.

    Raises:
        ConfigError: `count` is below 1, or D is not the same.
    """
    if count < 1:
        raise ConfigError(f"count is {count}; expected at least 1")
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ConfigError(f"queries have shape {queries.shape}; expected (Q, {vectors.shape[1]})")
    count = min(count, len(vectors))
    products = np.empty((len(queries), count), np.float32)
    positions = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), _QUERIES):
        some = slice(start, start + _QUERIES)
        for row, best in enumerate(_search(vectors, queries[some], count), start=start):
            products[row], positions[row] = best
    return products, positions


def vote(
    labels: NDArray[np.integer], similarities: Rows, num_classes: int, *, temperature: float
) -> NDArray[np.float64]:
    """Let the neighbors of each query vote for their class, the nearer the more.

    A vote weighs exp(similarity / temperature); `TEMPERATURE` is usual.

    Args:
        labels: (Q, k) class of each neighbor, -1 where it has none and does not vote.
        similarities: (Q, k) cosines.
        num_classes: K.
        temperature: Above 0.

    Returns:
        (Q, K) shares, which add up to 1, or are all 0 where nobody votes.

    Raises:
        ConfigError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; expected a number above 0")
    if not labels.size or not num_classes:
        return np.zeros((len(labels), num_classes))
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
    weights = np.where(labels >= 0, weights, 0).astype(np.float64)
    shares = np.zeros((len(labels), num_classes))
    rows = np.broadcast_to(np.arange(len(labels))[:, None], labels.shape)
    np.add.at(shares, (rows, np.maximum(labels, 0)), weights)
    totals = shares.sum(axis=1, keepdims=True)
    return shares / np.where(totals > 0, totals, 1)


def _search(vectors: Rows, queries: Rows, count: int) -> list[tuple[Rows, NDArray[np.int64]]]:
    found = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for start in range(0, len(vectors), _ROWS):
        products = queries @ vectors[start : start + _ROWS].T
        found = [_merge(best, row, start, count) for best, row in zip(found, products, strict=True)]
    return found


def _merge(
    best: tuple[Rows, NDArray[np.int64]], row: Rows, start: int, count: int
) -> tuple[Rows, NDArray[np.int64]]:
    """Add a block to the best so far; of equals, those that came first stay."""
    full = len(best[0]) == count
    candidates = np.flatnonzero(row > best[0][-1]) if full else np.arange(len(row))
    if len(candidates) > count:
        limit = np.partition(row[candidates], -count)[-count]
        candidates = candidates[row[candidates] >= limit]
    products = np.concatenate([best[0], row[candidates]])
    positions = np.concatenate([best[1], candidates + start])
    order = np.argsort(-products, kind="stable")[:count]
    return products[order], positions[order]
