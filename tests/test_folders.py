"""`folders`: a folder per class, whatever else lies there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from resnext.errors import DatasetError
from resnext.training import folders
from resnext.training.listing import Listing


def _touch(top: Path, *names: str) -> Path:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return top


def _read(top: Path) -> Listing:
    return folders.read_folder(str(top))


def _found(top: Path) -> dict[str, str]:
    return {entry.name: entry.classes[0] for entry in _read(top).train}


def test_a_folder_is_a_class_with_all_below_it(tmp_path: Path) -> None:
    _touch(tmp_path, "dog/1.jpg", "cat/2.PNG", "cat/deep/er/3.webp", "cat/10.jpg", "dog/note.txt")
    read = _read(tmp_path)
    assert [(entry.name, entry.classes) for entry in read.train] == [
        ("cat/10.jpg", ("cat",)),
        ("cat/2.PNG", ("cat",)),
        ("cat/deep/er/3.webp", ("cat",)),
        ("dog/1.jpg", ("dog",)),
    ]
    assert read.train[0].source == str(tmp_path / "cat" / "10.jpg")
    assert (read.val, read.classes, read.notes) == (None, ("cat", "dog"), ())


@pytest.mark.parametrize("second", ["val", "Valid", "validation", "test", "testing"])
def test_parts_stand_above_the_classes(tmp_path: Path, second: str) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{second}/b/3.jpg")
    read = _read(tmp_path)
    assert [entry.name for entry in read.train] == ["train/a/1.jpg", "train/b/2.jpg"]
    assert read.val is not None
    assert [(e.name, e.classes) for e in read.val] == [(f"{second}/b/3.jpg", ("b",))]


def test_a_train_folder_alone_is_a_part_too(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg")
    assert _found(tmp_path) == {"train/a/1.jpg": "a", "train/b/2.jpg": "b"}


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    _touch(tmp_path, "train/1.jpg", "bus/2.jpg", "car/3.jpg")
    assert set(_found(tmp_path).values()) == {"train", "bus", "car"}


@pytest.mark.parametrize(
    ("names", "part", "hint"),
    [
        (("train/cat/1.jpg", "train/dog/2.jpg", "unlabeled/3.jpg"), "train", "/train itself"),
        (("train/cat/1.jpg", "train/dog/2.jpg", "runs/a/batch.png"), "train", "/train itself"),
        (("cat/1.jpg", "dog/2.jpg", "val/cat/3.jpg"), "val", "into a folder train"),
    ],
)
def test_a_part_beside_other_folders_becomes_no_class(
    names: tuple[str, ...], part: str, hint: str, tmp_path: Path
) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=f"/{part}: it is not clear whether this is a") as caught:
        _read(tmp_path)
    assert hint in caught.value.hint


def test_a_class_with_the_name_of_a_part_has_pictures_and_may_have_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "train/1.jpg", "train/steam/2.jpg", "bus/3.jpg")
    assert set(_found(tmp_path).values()) == {"train", "bus"}


def test_what_is_beside_the_parts_is_left_out_and_named(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "test/x.jpg", "extra/a/1.jpg")
    read = _read(tmp_path)
    assert len(read.train) == 1
    assert any("`test` is not used" in note for note in read.notes)
    assert any("beside `train`: extra" in note for note in read.notes)


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    with pytest.raises(DatasetError, match="has both val and valid"):
        _read(tmp_path)


def test_parts_of_loose_pictures_are_no_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "train/1.jpg", "val/2.jpg", "labels.csv")
    with pytest.raises(DatasetError, match="train has no folders") as caught:
        _read(tmp_path)
    assert caught.value.hint == f"open its table: {tmp_path / 'labels.csv'}"


def test_a_folder_without_folders_says_what_to_do(tmp_path: Path) -> None:
    _touch(tmp_path, "1.jpg")
    with pytest.raises(DatasetError, match="has no folders; expected one for each class") as caught:
        _read(tmp_path)
    assert "make one folder of pictures for each class" in caught.value.hint


def test_an_empty_class_is_named_but_may_lack_in_val(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/1.jpg")
    (tmp_path / "val" / "b").mkdir()
    assert len(_read(tmp_path).val or ()) == 1
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(DatasetError, match=r"1 of its folders .*: train/c: there are no pictures"):
        _read(tmp_path)


def test_loose_pictures_and_tables_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "b/2.jpg", "3.jpg", "labels.csv")
    first, second = _read(tmp_path).notes
    assert first.endswith("in no class folder: 3.jpg")
    assert second.endswith("labels.csv")


def test_what_is_hidden_or_no_picture_is_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/.DS_Store", "a/Thumbs.db", "b/2.jpg")
    _touch(tmp_path, ".git/x.jpg", "__MACOSX/a/._1.jpg", ".DS_Store")
    assert _found(tmp_path) == {"a/1.jpg": "a", "b/2.jpg": "b"}


def test_odd_names_are_names(tmp_path: Path) -> None:
    names = ["a b", "-", "😀", "a[1]", "x{1..2}", "new\nline", "https:"]
    _touch(tmp_path, *[f"{name}/{name}.jpg" for name in names])
    assert _found(tmp_path) == {f"{name}/{name}.jpg": name for name in names}


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are Unicode")
def test_a_class_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff.jpg"), "wb"):
        pass
    _touch(tmp_path, "b/1.jpg")
    read = _read(tmp_path)
    assert read.classes == ("b", "caf\\udce9")
    assert os.path.exists(read.train[1].source)


def test_links_in_circles_end_and_never_relabel(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "all").symlink_to(tmp_path)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to("broken")
    assert _found(tmp_path) == {"a/1.jpg": "a", "b/2.jpg": "b"}
    assert "a link leads there from class a: a/all/b" in _read(tmp_path).notes[0]


def test_links_to_other_disks_are_followed(tmp_path: Path) -> None:
    away = _touch(tmp_path / "away", "cats/1.jpg", "more/2.jpg")
    top = _touch(tmp_path / "top", "b/3.jpg")
    (top / "a").symlink_to(away / "cats")
    (top / "b" / "more").symlink_to(away / "more")
    assert _found(top) == {"a/1.jpg": "a", "b/3.jpg": "b", "b/more/2.jpg": "b"}


def test_a_class_of_only_links_to_another_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "all").symlink_to(tmp_path / "a")
    with pytest.raises(DatasetError, match="b: there are no pictures but those of another class"):
        _read(tmp_path)


def test_two_classes_in_one_place_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "a/sub/1.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a" / "sub")
    with pytest.raises(DatasetError, match="the folders a and b lead to the same pictures"):
        _read(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="all folders are readable")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "b/2.jpg", "b/locked/3.jpg")
    (tmp_path / "b" / "locked").chmod(0)
    try:
        with pytest.raises(DatasetError, match="b/locked: cannot be listed"):
            _read(tmp_path)
    finally:
        (tmp_path / "b" / "locked").chmod(0o700)
