"""Embeddings of a stream of items: each keeps what it came with."""

from __future__ import annotations

from pathlib import Path

from resnext import Classifier, ImageError, testing
from resnext.explore.embedding import embed_items

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def test_items_keep_their_place_among_bad_ones(tmp_path: Path) -> None:
    tiny = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    items = [("a", CAT), ("b", b"nothing"), ("c", CAT)]
    with Classifier(tiny, precision="fp32", threads=1) as classifier:
        found = list(embed_items(classifier, items, lambda item: item[1], batch_size=2))
    assert [item for item, _ in found] == items
    assert [isinstance(row, ImageError) for _, row in found] == [False, True, False]
