"""`listing`: names of classes and parts, and pictures inside larger files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext import images
from resnext.errors import ConfigError, DatasetError, ImageError
from resnext.sources import Source
from resnext.training import listing
from resnext.training.listing import Entry, FileSlice


def _png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_slice_is_a_picture_wherever_it_goes(tmp_path: Path) -> None:
    first, second = _png("red"), _png("blue")
    (tmp_path / "both").write_bytes(first + second)
    place = FileSlice("blue.png", str(tmp_path / "both"), len(first), len(second))
    place = pickle.loads(pickle.dumps(place))
    assert place.read() == second
    assert place.read(5) == second[:5]
    np.testing.assert_array_equal(images.read(place)[0, 0], (0, 0, 255))


def test_a_slice_that_is_no_more_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(_png("red")[:40])
    with pytest.raises(ImageError, match=r"a\.png: is damaged"):
        images.read(FileSlice("a.png", str(tmp_path / "cut"), 0, len(_png("red"))))
    with pytest.raises(ImageError, match="there is no such file"):
        images.read(FileSlice("a.png", str(tmp_path / "gone"), 0, 10))


@pytest.mark.parametrize(
    "word, part",
    [("train", "train"), ("Training", "train"), (" VALID ", "val"), ("validation", "val")]
    + [("val", "val"), ("test", "test"), ("trains", None), ("", None)],
)
def test_parts_have_usual_names(word: str, part: str | None) -> None:
    assert listing.part_of(word) == part


def test_val_is_taken_before_test_which_is_then_said_to_be_unused() -> None:
    chosen = listing.choose_parts({"train": 1, "test": 2, "val": 3}, "x")
    assert (chosen.train, chosen.val) == (1, 3)
    assert "`test` is not used" in chosen.notes[0]
    chosen = listing.choose_parts({"train": 1, "test": 2}, "x")
    assert (chosen.train, chosen.val) == (1, 2)
    assert chosen.notes == ("there is no part `val`: `test` is taken for it",)
    assert listing.choose_parts({"": 5}, "x").val is None
    with pytest.raises(DatasetError, match="x has test and val, but no train"):
        listing.choose_parts({"val": 1, "test": 2}, "x")


def test_messages_show_a_few_and_count_the_others() -> None:
    assert listing.few(["a"]) == "a"
    assert listing.few([str(n) for n in range(1234)]) == "0, 1, 2, 3, 4 and 1,229 more"


def test_one_class_name_has_one_spelling_that_can_be_written() -> None:
    assert listing.class_name("cafe\u0301") == listing.class_name("caf\u00e9") == "caf\u00e9"
    assert listing.class_name("a\udcff") == "a\\udcff"
    listing.class_name("a\udcff").encode()


def test_numbers_are_sorted_as_numbers_and_names_as_text() -> None:
    assert listing.sort_names(["10", "9", "10", "1"]) == ("1", "9", "10")
    assert listing.sort_names(["10", "9", "x"]) == ("10", "9", "x")


def test_synset_ids_get_the_names_of_imagenet() -> None:
    labels = listing.make_labels(("n01443537", "n99999999"))
    assert labels.class_names == ("goldfish", "n99999999")
    assert labels.synset_ids == ("n01443537", "n99999999")
    assert listing.make_labels(("n01443537", "cat")).synset_ids is None


def test_numbers_of_classes_follow_the_list_of_names() -> None:
    entries = [Entry("1", "", ("b",)), Entry("2", "", ("a", "b")), Entry("3", "", ())]
    made = listing.make_set(entries, ("b", "c", "a"), multi_label=True)
    assert [sample.labels for sample in made.samples] == [(0,), (2, 0), ()]
    assert made.labels.class_names == ("b", "c", "a")


def test_results_never_go_into_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    for folder in (data, data / "report", tmp_path / "link" / "report"):
        with pytest.raises(ConfigError, match="in the data set, in which nothing is changed"):
            listing.check_apart(folder, data)
    listing.check_apart(tmp_path / "data-report", data)
    listing.check_apart(tmp_path, data)
    listing.check_apart(tmp_path / "table.csv" / "report", tmp_path / "table.csv")


def test_results_never_go_among_the_pictures_of_a_table(tmp_path: Path) -> None:
    pictures = [
        Entry("1", str(tmp_path / "photos" / "cat" / "1.jpg"), ("cat",)),
        Entry("2", Source(str(tmp_path / "photos" / "dog" / "2.jpg")), ("dog",)),
    ]
    for folder in ("photos/cat", "photos/cat/check", "photos/dog/check"):
        with pytest.raises(ConfigError, match="among the pictures, where nothing is changed"):
            listing.check_outside(tmp_path / folder, pictures)
    for folder in ("t.csv-check", "photos/t.csv-check", "photos"):  # which have none themselves
        listing.check_outside(tmp_path / folder, pictures)
    listing.check_outside(tmp_path / "photos" / "dog" / "check", pictures[:1])
    apart = [Entry("1", "/here/1.jpg", ()), Entry("2", "/there/2.jpg", ())]
    listing.check_outside(Path("/elsewhere/check"), apart)
    with pytest.raises(ConfigError, match="is in /there"):
        listing.check_outside(Path("/there/check"), apart)
    listing.check_outside(tmp_path, [Entry("0", b"in a shard", ())])
