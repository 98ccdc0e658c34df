"""Embeddings of a stream of items: each keeps what it came with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from resnext import Classifier, ImageError, testing
from resnext.explore import embedding
from resnext.explore.embedding import embed_items
from resnext.hub.cache import cache_home

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def test_items_keep_their_place_among_bad_ones(tmp_path: Path) -> None:
    tiny = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    items = [("a", CAT), ("b", b"nothing"), ("c", CAT)]
    with Classifier(tiny, precision="fp32", threads=1) as classifier:
        found = list(embed_items(classifier, items, lambda item: item[1], batch_size=2))
    assert [item for item, _ in found] == items
    assert [isinstance(row, ImageError) for _, row in found] == [False, True, False]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = testing.write_pictures(tmp_path / "data", classes=("red", "green"), per_class=10)
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "empty.png").write_bytes(b"")
    return [folder / "bad.png", *sorted(folder.glob("*/*.png")), folder / "empty.png"]


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    tiny = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    engine = testing.ConstantEngine([0, 0], input_size=32, embedding_size=1024)
    return Classifier(tiny, engine=engine)


def computed(classifier: Classifier) -> int:
    assert isinstance(classifier.engine, testing.ConstantEngine)
    return sum(classifier.engine.batch_sizes)


@pytest.mark.parametrize("few", [0, 5])
def test_a_run_that_was_stopped_goes_on(
    pictures: list[Path], classifier: Classifier, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "FEW", few)
    expected = list(embed_items(classifier, pictures, str))
    first = embed_items(classifier, pictures, str, keep=True)
    for _ in range(12):
        next(first)
    first.close()
    done = computed(classifier)
    found = list(embed_items(classifier, pictures, str, keep=True))
    unseen = max(0, few - 1)  # good ones at the start, whose features are not looked for
    assert computed(classifier) - done == 20 - (11 - unseen)
    assert [path for path, _ in found] == pictures
    for (_, row), (_, right) in zip(found, expected, strict=True):
        if isinstance(right, ImageError):
            assert isinstance(row, ImageError)
            assert row.reason == right.reason
        else:
            np.testing.assert_array_equal(row, right)
    again = computed(classifier)
    list(embed_items(classifier, reversed(pictures), str, keep=True))
    assert computed(classifier) - again == 2 * unseen  # at its start, and those above


def test_copies_and_moved_pictures_are_computed_once(
    pictures: list[Path], classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "FEW", 0)
    list(embed_items(classifier, pictures, str, keep=True))
    shutil.move(pictures[3], tmp_path / "moved.png")
    before = computed(classifier)
    [(_, row)] = embed_items(classifier, [tmp_path / "moved.png"], str, keep=True)
    assert isinstance(row, np.ndarray)
    assert computed(classifier) == before


@pytest.mark.parametrize("keep", [True, False])
def test_few_pictures_leave_nothing_behind(
    pictures: list[Path], classifier: Classifier, keep: bool
) -> None:
    list(embed_items(classifier, pictures, str, keep=keep))
    assert not (cache_home() / "features").exists()
