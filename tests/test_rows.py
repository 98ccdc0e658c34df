"""`rows`: what tables say becomes pictures with labels, or an error that says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnext.errors import DatasetError
from resnext.training import rows
from resnext.training.listing import FileSlice, Listing
from resnext.training.rows import Row


def _listing(folder: Path, *labelled: tuple[Any, Any], **options: Any) -> Listing:
    """Make a listing of pairs of picture and label; pictures named by text are made."""
    made = [Row(f"line {n}", picture, label) for n, (picture, label) in enumerate(labelled, 2)]
    for row in made:
        if isinstance(row.picture, str) and "missing" not in row.picture and row.picture:
            (folder / row.picture).parent.mkdir(parents=True, exist_ok=True)
            (folder / row.picture).touch()
    return rows.make_listing({"": made}, "t.csv", str(folder), **options)


@pytest.mark.parametrize(
    "label, names",
    [
        ("cat", ("cat",)),
        (" a cat ", ("a cat",)),
        (7, ("7",)),
        (7.0, ("7",)),
        ("07", ("07",)),
        (["a|b"], ("a|b",)),
        ("cafe\u0301", ("caf\u00e9",)),
    ],
)
def test_a_label_is_text_or_a_number(tmp_path: Path, label: Any, names: tuple[str, ...]) -> None:
    listing = _listing(tmp_path, ("1.jpg", label))
    assert (listing.train[0].classes, listing.multi_label) == (names, False)


@pytest.mark.parametrize("label", ["a|b", "a;b", " a | b ;", "a;a|b", ["a", "b"], ["a", None, "b"]])
def test_several_labels_of_one_picture_make_all_of_the_set_so(tmp_path: Path, label: Any) -> None:
    listing = _listing(tmp_path, ("1.jpg", label), ("2.jpg", "a"), ("3.jpg", ""))
    assert [entry.classes for entry in listing.train] == [("a", "b"), ("a",), ()]
    assert listing.multi_label


def test_a_list_of_one_may_be_of_several(tmp_path: Path) -> None:
    assert _listing(tmp_path, ("1.jpg", ["a"]), lists=True).multi_label


@pytest.mark.parametrize("label", ["", " ", None, float("nan"), [], "|"])
def test_pictures_without_a_label_are_listed(tmp_path: Path, label: Any) -> None:
    labelled: list[tuple[Any, Any]] = [("1.jpg", "a")] + [(f"{n}.jpg", label) for n in range(2, 9)]
    with pytest.raises(
        DatasetError,
        match=r"t\.csv: 7 of 8 pictures without a label: line 3, .*, line 7 and 2 more",
    ):
        _listing(tmp_path, *labelled)


def test_pictures_that_are_not_there_are_listed(tmp_path: Path) -> None:
    missing = [(f"missing/{n}.jpg", "a") for n in range(6)] + [("", "a"), (None, "a"), (".", "b")]
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DatasetError) as caught:
        _listing(tmp_path, ("1.jpg", "a"), *missing[:7], (None, "b"))
    assert caught.value.message == (
        "t.csv: 8 of 9 pictures not there: missing/0.jpg (line 3), missing/1.jpg (line 4),"
        " missing/2.jpg (line 5), missing/3.jpg (line 6), missing/4.jpg (line 7) and 3 more"
    )
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize("path", ["nul\0.jpg missing", "missing" * 2000])
def test_impossible_paths_are_not_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(DatasetError, match="1 of 1 picture not there"):
        _listing(tmp_path, (path, "a"))


def test_a_row_that_stands_there_twice_counts_once(tmp_path: Path) -> None:
    listing = _listing(tmp_path, ("1.jpg", "a"), ("./1.jpg", "a"), ("2.jpg", "b"))
    assert [entry.name for entry in listing.train] == ["1.jpg", "2.jpg"]
    assert listing.notes == ("1 row stands in the table twice; each picture counts once",)


def test_a_picture_of_two_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1\.jpg is cat in line 2, but dog in line 3") as caught:
        _listing(tmp_path, ("1.jpg", "cat"), ("x/../1.jpg", "dog"))
    assert "with a | between" in caught.value.hint


def test_pictures_inside_files_need_no_path(tmp_path: Path) -> None:
    inside = FileSlice("data.parquet/0", "data.parquet", 0, 9)
    listing = _listing(tmp_path, (inside, "a"))
    assert (listing.train[0].name, listing.train[0].source) == ("data.parquet/0", inside)


def test_absolute_paths_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "1.jpg"
    listing = _listing(tmp_path / "table", (str(elsewhere), "a"))
    assert listing.train[0].source == str(elsewhere)


def test_parts_have_usual_names_or_are_refused() -> None:
    def row(part: str | None) -> Row:
        return Row(f"line {part}", "", "", part)

    assert list(rows.by_part([row(None), row(None)], "t")) == [""]
    found = rows.by_part([row("Train"), row("valid"), row("train"), row("test")], "t")
    assert {part: len(members) for part, members in found.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    with pytest.raises(DatasetError, match=r"2 rows have an unknown split: line x \('x'\)"):
        rows.by_part([row("train"), row("x"), row("")], "t")
