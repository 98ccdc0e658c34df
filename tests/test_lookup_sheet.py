"""From an index to the nearest pictures of others, and to a page of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from resnext import Classifier, testing
from resnext.errors import ModelFileError
from resnext.explore import gather, lookup, sheet
from resnext.explore.index import Index, open_index
from resnext.sources import Source


@pytest.fixture(autouse=True)
def _shared_cache(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of this file compile the network once."""
    monkeypatch.setenv("RESNEXT_HOME", str(tiny_model.with_name("home")))


def make(tiny_model: Path, data: Path, place: Path, *, part: str = "train") -> Index:
    with Classifier(tiny_model, threads=1, precision="fp32") as classifier:
        builder = gather.Builder(classifier, str(tiny_model))
        builder.build(place, gather.gather(str(data), part=part))
        assert not builder.failed
    return open_index(place)


@pytest.mark.parametrize("together", [64, 2, 1])
def test_looking_up_gives_the_nearest_of_each_picture_and_names_bad_ones(
    train_and_val: Path,
    tiny_model: Path,
    tmp_path: Path,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "_TOGETHER", together)
    index = make(tiny_model, train_and_val, tmp_path / "i")
    queries = [Source(index.names[0]), Source("absent.png"), Source(index.names[17])]
    with Classifier(index.document.model, threads=1, precision="fp32") as classifier:
        first, absent, last = lookup.look_up(classifier, index, queries, 4)
        rows = classifier.embed([query.name for query in (queries[0], queries[2])])
    expected = index.search(rows, 4)
    for found, nearest in zip((first, last), expected, strict=True):
        # To a random network all pictures are nearly the same: which is first may change.
        assert len(found.neighbors) == 4
        assert [one.similarity for one in found.neighbors] == pytest.approx(
            [one.similarity for one in nearest], abs=1e-4
        )
        for one in found.neighbors:
            assert one.label == Path(one.name).parent.name
        assert sum(share for _, share in found.votes) <= 1 + 1e-9
    assert absent.error == "there is no such file"
    assert absent.to_json()["neighbors"] == []
    assert first.to_json()["neighbors"][0]["name"] == first.neighbors[0].name


def test_pictures_look_at_the_vectors_together(
    train_and_val: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(tiny_model, train_and_val, tmp_path / "i")
    asked = []
    nearest = Index.nearest

    def count(self: Index, rows: Any, count: int) -> Any:
        asked.append(len(rows))
        return nearest(self, rows, count)

    monkeypatch.setattr(Index, "nearest", count)
    queries = [Source(name) for name in index.names[:5]] + [Source("absent.png")] * 64
    with Classifier(index.document.model, threads=1, precision="fp32") as classifier:
        found = list(lookup.look_up(classifier, index, queries, 2))
    assert asked == [5]
    assert [one.source for one in found] == queries
    assert [one.error is None for one in found] == [True] * 5 + [False] * 64


def test_another_model_may_not_ask(train_and_val: Path, tiny_model: Path, tmp_path: Path) -> None:
    index = make(tiny_model, train_and_val, tmp_path / "i", part="val")
    other = testing.write_tiny_model(tmp_path / "other.safetensors", seed=1)
    with (
        Classifier(other, engine=testing.ConstantEngine([0.0, 1.0])) as classifier,
        pytest.raises(ModelFileError, match="another model"),
    ):
        next(lookup.look_up(classifier, index, [], 1))


def test_the_contact_sheet_shows_what_is_there_and_names_the_rest(
    train_and_val: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(train_and_val / "val", tmp_path / "data")
    index = make(tiny_model, tmp_path / "data", tmp_path / "<i>.index")
    (tmp_path / "data" / "red" / "0000.png").unlink()
    queries = [Source(str(train_and_val / "val" / "red" / "0001.png")), Source("<absent>.png")]
    with Classifier(tiny_model, threads=1, precision="fp32") as classifier:
        results = list(lookup.look_up(classifier, index, queries, 6))
    page = sheet.write_sheet(tmp_path / "sheet.html", index, results).read_text()
    assert page.count("<img") == 6  # the query and five of six neighbors
    assert page.count("<figure>") == 7
    assert page.count("0000.png") >= 3
    assert "&lt;absent&gt;.png: there is no such file" in page
    assert "<absent>" not in page
    assert "1.000" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
