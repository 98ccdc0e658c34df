"""Embed a stream of pictures, each with what it came with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnext.classifier import Classifier
from resnext.errors import ImageError

Item = TypeVar("Item")


def embed_items(
    classifier: Classifier,
    items: Iterable[Item],
    source: Callable[[Item], Any],
    *,
    batch_size: int | None = None,
) -> Iterator[tuple[Item, NDArray[np.float32] | ImageError]]:
    """Compute the pooled features of the pictures of a stream of items.

    Args:
        classifier: The model.
        items: Anything; taken as they are needed, however many.
        source: Returns the picture of an item, as `Classifier.predict` takes it.
        batch_size: Pictures per engine call; by default what suits the engine.

    Yields:
        Each item, in order, with its (D,) features or why it has none.
    """
    waiting: deque[Item] = deque()

    def pictures() -> Iterator[Any]:  # runs in a thread of its own, ahead of the engine
        for item in items:
            waiting.append(item)
            yield source(item)

    for row in classifier.embed_each(pictures(), batch_size=batch_size):
        yield waiting.popleft(), row
