"""Embed a stream of pictures, each with what it came with.

Of many pictures the features are kept where `check` and `finetune` keep theirs, so that a
run that was stopped goes on, and the same pictures are computed once for all commands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnext.classifier import Classifier
from resnext.errors import ImageError
from resnext.training.features import FeatureStore, identify_picture, open_store
from resnext.weights import read_tensors

# Pictures of a run that are computed without looking for their features: a second of work,
# and as long as it takes to open a store that is full (250,000 pictures: 1.3 s).
FEW = 256

Item = TypeVar("Item")


def embed_items(
    classifier: Classifier,
    items: Iterable[Item],
    source: Callable[[Item], Any],
    *,
    batch_size: int | None = None,
    keep: bool = False,
) -> Generator[tuple[Item, NDArray[np.float32] | ImageError], None, None]:
    """Compute the pooled features of the pictures of a stream of items.

    Args:
        classifier: The model.
        items: Anything; taken as they are needed, however many.
        source: Returns the picture of an item, as `Classifier.predict` takes it.
        batch_size: Pictures per engine call; by default what suits the engine.
        keep: Store features and take those that are stored, from the 257th picture on.

    Yields:
        Each item, in order, with its (D,) features or why it has none.
    """
    waiting: deque[tuple[Item, bytes | None]] = deque()
    stores: list[FeatureStore] = []

    def pictures() -> Iterator[Any]:  # runs in a thread of its own, ahead of the engine
        for number, item in enumerate(items):
            key, picture = None, source(item)
            if keep and number >= FEW:
                stores[:] = stores or [open_store(classifier, read_tensors(classifier.local))]
                key, picture = _look_for(picture, stores[0])
            waiting.append((item, key))
            yield picture

    try:
        for row in classifier.embed_each(pictures(), batch_size=batch_size):
            item, key = waiting.popleft()
            if key is not None:
                row = _take(stores[0], key, row)
            yield item, row
    finally:
        for store in stores:
            store.flush()


def _look_for(picture: Any, store: FeatureStore) -> tuple[bytes | None, Any]:
    """Return the key of a picture, and its bytes; none where the store has its features.

    Without bytes it goes the way of the others, which keeps it in its place, in no time. What
    cannot be read or is an address goes without a key: there is nothing to compare.
    """
    try:
        key, content = identify_picture(picture)
    except ImageError:
        return None, picture
    return key, b"" if key in store else content


def _take(
    store: FeatureStore, key: bytes, row: NDArray[np.float32] | ImageError
) -> NDArray[np.float32] | ImageError:
    if key in store:
        return store[key]
    if not isinstance(row, ImageError) and store.has_room:
        store.add(key, row)
    return row
