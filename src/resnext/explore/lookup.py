"""Pictures to the pictures most like them, and the class these vote for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext.classifier import Classifier
from resnext.errors import ImageError
from resnext.explore import neighbors
from resnext.explore.embedding import embed_items
from resnext.explore.index import Index, Neighbor
from resnext.sources import Source

_TOGETHER = 64  # pictures that look at the vectors at once: 11 times as fast as one by one
_VOTES_SHOWN = 5
_LEAST = 0.005  # share of a vote that is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found for one picture.

    Args:
        source: The picture.
        neighbors: Nearest first; empty where the picture could not be read.
        votes: Classes of the neighbors and their shares of the vote, largest first.
        error: Why the picture could not be read, or None.
    """

    source: Source
    neighbors: tuple[Neighbor, ...] = ()
    votes: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values, numbers to six significant digits."""
        return {
            "source": self.source.name,
            "neighbors": [
                {"name": one.name, "similarity": _short(one.similarity), "label": one.label}
                for one in self.neighbors
            ],
            "votes": [{"label": label, "share": _short(share)} for label, share in self.votes],
            "error": self.error,
        }


def look_up(
    classifier: Classifier,
    index: Index,
    sources: Iterable[Source],
    count: int,
    *,
    temperature: float = neighbors.TEMPERATURE,
) -> Iterator[Found]:
    """Find the nearest pictures of each of a stream of pictures, of 64 at a time.

    Args:
        classifier: The model that made the index.
        index: Where to look.
        sources: The pictures.
        count: How many neighbors of each, which also vote.
        temperature: Of the vote: `neighbors.vote`.

    Raises:
        ModelFileError: The index was made by another model.
        ConfigError: `count` or the temperature is out of range.
    """
    index.check(classifier)
    classes = index.document.class_names
    embedded = embed_items(classifier, sources, lambda source: source)
    while some := list(itertools.islice(embedded, _TOGETHER)):
        rows = [row for _, row in some if not isinstance(row, ImageError)]
        answers: Iterator[tuple[Any, Any, Any]] = iter(())
        if rows:
            products, positions = index.nearest(np.stack(rows), count)
            labels = index.labels[positions]
            shares = neighbors.vote(labels, products, len(classes), temperature=temperature)
            answers = zip(products, positions, shares, strict=True)
        for source, row in some:
            if isinstance(row, ImageError):
                yield Found(source=source, error=row.reason)
            else:
                yield _tell(source, index, *next(answers))


def _tell(source: Source, index: Index, products: Any, positions: Any, shares: Any) -> Found:
    best = np.argsort(-shares, kind="stable")[:_VOTES_SHOWN]
    classes = index.document.class_names
    return Found(
        source=source,
        neighbors=index.name(products, positions),
        votes=tuple((classes[n], float(shares[n])) for n in best if shares[n] >= _LEAST),
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")
