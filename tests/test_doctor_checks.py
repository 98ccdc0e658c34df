"""Checks of single pictures and of classes, on facts alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnext.doctor import checks, facts
from resnext.doctor.facts import Table
from resnext.doctor.intake import Intake
from resnext.training.listing import Entry, FileSlice


def make_table(*names: str, parts: str = "", **fields: object) -> Table:
    """Return a table of good pictures, named part/class/file, with fields set for all."""
    entries = tuple(Entry(name, name, (name.split("/")[-2],)) for name in names)
    records = np.zeros(len(names), facts._RECORD)
    usual: dict[str, object] = {
        "readable": True, "format": "JPEG", "mode": "RGB", "depth": 8, "width": 200,
        "height": 100, "spread": 255, "dark": 10, "light": 240, "ended": True,
    }  # fmt: skip
    for field, value in (usual | fields).items():
        records[field] = value
    numbers = np.array([int(digit) for digit in parts or "0" * len(names)], np.int8)
    intake = Intake(place="/data", entries=entries, parts=numbers, labelled=True)
    return Table(intake=intake, records=records, problems={})


@pytest.mark.parametrize(
    ("name", "format", "action"),
    [
        ("a/x.jpg", "JPEG", None),
        ("a/x.JPEG", "JPEG", None),
        ("a/x.jfif", "JPEG", None),
        ("a/x.dib", "BMP", None),
        ("a/x.png", "JPEG", "rename:x.jpg"),
        ("a/x.y.gif", "WEBP", "rename:x.y.webp"),
        ("a/x", "PNG", "rename:x.png"),
        ("a/IMG 1.5", "TIFF", "rename:IMG 1.5.tif"),
        ("a/x.jpg", "PPM", "rename:x.ppm"),
    ],
)
def test_extensions(name: str, format: str, action: str | None) -> None:
    found = checks.check_extensions(make_table(name, format=format))
    assert [one.action for one in found] == ([] if action is None else [action])


def test_rows_of_a_table_without_an_extension_have_no_name_to_mend() -> None:
    table = make_table("a/0")
    entry = Entry("a/0", FileSlice("a/0", "/data/x.parquet", 0, 9), ("a",))
    intake = Intake(place="/data", entries=(entry,), parts=np.zeros(1, np.int8), labelled=True)
    assert checks.check_extensions(Table(intake=intake, records=table.records, problems={})) == []


def test_a_new_name_is_one_that_no_file_has_or_gets(tmp_path: Path) -> None:
    names = ["a/x.png", "a/x.gif", "a/X.bmp", "b/x.png", "a/y.png", "a/y.jpg"]
    table = make_table(*names)
    found = checks.check_extensions(table)
    assert [(one.path, one.action) for one in found] == [
        ("a/x.png", "rename:x.jpg"),
        ("a/x.gif", "rename:x-2.jpg"),
        ("a/X.bmp", "rename:X-3.jpg"),
        ("b/x.png", "rename:x.jpg"),
        ("a/y.png", "rename:y-2.jpg"),
    ]
    (tmp_path / "x.jpg").write_bytes(b"not in the list, such as a hidden or an unreadable one")
    entry = Entry("a/x.png", str(tmp_path / "x.png"), ("a",))
    intake = Intake(place="/data", entries=(entry,), parts=np.zeros(1, np.int8), labelled=True)
    table = Table(intake=intake, records=table.records[:1], problems={})
    assert [one.action for one in checks.check_extensions(table)] == ["rename:x-2.jpg"]


def test_only_what_was_looked_into_is_to_be_removed() -> None:
    table = make_table("a/damaged.jpg", "a/locked.jpg", "a/folder", readable=False)
    table.records["content"][0] = 7
    table.problems.update({
        0: "is damaged or of a kind not supported: marker",
        1: "cannot be read: Permission denied",
        2: "cannot be listed: Permission denied",
    })  # fmt: skip
    found = checks.check_readable(table)
    assert {one.problem for one in found} == {"unreadable"}
    assert [one.action for one in found] == ["remove", "review", "review"]


def test_small_pictures_are_only_odd_among_larger_ones() -> None:
    names = [f"a/{number}.jpg" for number in range(9)]
    table = make_table(*names, width=28, height=28)
    assert checks.check_sizes(table) == []
    table.records["width"][1:], table.records["height"][1:] = 200, 100
    [finding] = checks.check_sizes(table)
    assert (finding.problem, finding.path) == ("tiny", "a/0.jpg")
    assert finding.detail == "is 28x28; half of all have 100 pixels or more"


@pytest.mark.parametrize(("width", "is_odd"), [(500, False), (501, True)])
def test_long_pictures(width: int, is_odd: bool) -> None:
    assert bool(checks.check_sizes(make_table("a/1.jpg", width=width, height=100))) == is_odd


@pytest.mark.parametrize("value", range(10))
def test_orientation(value: int) -> None:
    found = checks.check_orientation(make_table("a/1.jpg", orientation=value))
    assert bool(found) == (value in (2, 4, 5, 7, 9))


def test_classes_that_are_rare_or_in_one_part_only() -> None:
    names = [f"train/many/{n}.jpg" for n in range(60)] + [f"train/few/{n}.jpg" for n in range(5)]
    names += [f"train/rare/{n}.jpg" for n in range(4)]
    names += ["val/many/1.jpg", "val/other/1.jpg"]
    found = checks.check_classes(make_table(*names, parts="0" * 69 + "11"))
    assert [(one.label, one.detail) for one in found] == [
        ("few", "has 5 pictures; many has 60"),
        ("rare", "has 4 pictures; many has 60"),
        ("other", "is in val, but not in train"),
        ("few", "is not in val"),
        ("rare", "is not in val"),
    ]


def test_pictures_of_no_class_among_others_are_told() -> None:
    table = make_table("a/1.jpg", "b/1.jpg")
    entries = (table.entries[0], Entry("stray.jpg", "stray.jpg", ()))
    intake = Intake(place="/data", entries=entries, parts=np.zeros(2, np.int8), labelled=True)
    notes = list(checks.unlabelled(Table(intake=intake, records=table.records, problems={})))
    assert notes == ["1 picture is in no class: stray.jpg"]
