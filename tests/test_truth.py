"""Right answers in every layout: ImageNet's kinds of files, folders, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from resnext import catalogue, testing
from resnext.errors import DatasetError
from resnext.evaluation.truth import ilsvrc_order, open_truth

# The first pictures of ILSVRC2012's validation set: ILSVRC ids, synset ids.
FIRST = (
    (490, "n01751748"), (361, "n09193705"), (171, "n02105855"), (822, "n04263257"),
    (297, "n03125729"), (482, "n01735189"), (13, "n02346627"), (704, "n02776631"),
    (599, "n03794056"), (164, "n02328150"),
)  # fmt: skip
SYNSETS = [synset for _, synset in FIRST]


def write(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def imagenet(folder: Path, numbers: Sequence[int] = range(1, 11)) -> Path:
    return write(folder, [f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers])


def answers(place: Path, labels: Path | None = None) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.classes for entry in open_truth(place, labels=labels).entries}


def test_the_order_of_ilsvrc_is_a_permutation_that_fits_the_first_pictures() -> None:
    order = ilsvrc_order()
    assert sorted(order) == sorted(catalogue.imagenet1k().synset_ids or ())
    assert order != tuple(sorted(order))
    assert [order[number - 1] for number, _ in FIRST] == SYNSETS


def ground_truth(path: Path, total: int = 10) -> None:
    numbers = [number for number, _ in FIRST] + [1] * (total - len(FIRST))
    path.write_text("".join(f"{number}\n" for number in numbers))


def synset_lines(path: Path) -> None:
    path.write_text("".join(f"{synset}\n" for synset in SYNSETS))


def kaggle(path: Path) -> None:
    rows = [
        f"ILSVRC2012_val_{number:08d},{synset} 1 2 3 4 {synset} 5 6 7 8\n"
        for number, synset in reversed(list(enumerate(SYNSETS, start=1)))
    ]
    path.write_text("ImageId,PredictionString\n" + "".join(rows))


def caffe(path: Path) -> None:
    ids = list(catalogue.imagenet1k().synset_ids or ())
    rows = [
        f"ILSVRC2012_val_{number:08d}.JPEG {ids.index(synset)}\n"
        for number, synset in enumerate(SYNSETS, start=1)
    ]
    path.write_text("".join(rows))


@pytest.mark.parametrize(
    ("name", "fill"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", ground_truth),
        ("imagenet_2012_validation_synset_labels.txt", synset_lines),
        ("LOC_val_solution.csv", kaggle),
        ("val.txt", caffe),
    ],
)
def test_flat_pictures_beside_each_kind_of_answers(name, fill, tmp_path: Path) -> None:
    place = imagenet(tmp_path / "val")
    fill(tmp_path / name)
    expected = {
        f"ILSVRC2012_val_{number:08d}.JPEG": (synset,)
        for number, synset in enumerate(SYNSETS, start=1)
    }
    assert answers(place, tmp_path / name) == expected
    if name == "val.txt":
        with pytest.raises(DatasetError, match="no file of answers"):
            open_truth(place)
    else:
        assert answers(place) == expected
        found = open_truth(place)
        assert any(name in note for note in found.notes)
        assert set(found.classes) == set(SYNSETS)


def test_some_of_the_pictures_get_the_answers_of_their_numbers(tmp_path: Path) -> None:
    place = imagenet(tmp_path / "val", [2, 7])
    ground_truth(tmp_path / "ILSVRC2012_validation_ground_truth.txt", total=50_000)
    assert list(answers(place).values()) == [("n09193705",), ("n02346627",)]


def test_other_names_go_by_their_order_if_there_are_as_many(tmp_path: Path) -> None:
    place = write(tmp_path / "val", [f"{letter}.png" for letter in "jihgfedcba"])
    synset_lines(tmp_path / "synset_labels.txt")
    assert answers(place)["a.png"] == ("n01751748",)
    assert answers(place)["j.png"] == ("n02328150",)
    (place / "a.png").unlink()
    with pytest.raises(DatasetError, match="10 lines for 9 pictures"):
        open_truth(place)


@pytest.mark.parametrize("before", ["", "./", "val/", "photos/val/"])
def test_equal_file_names_are_told_apart_by_their_folders(before: str, tmp_path: Path) -> None:
    place = write(tmp_path / "photos" / "val", ["cat/0001.jpg", "dog/0001.jpg"])
    path = tmp_path / "list.txt"
    path.write_text(f"{before}dog/0001.jpg 207\n{before}cat/0001.jpg 281\n")
    expected = {"cat/0001.jpg": ("n02123045",), "dog/0001.jpg": ("n02099601",)}
    assert answers(place, path) == expected


def test_the_file_name_will_do_where_no_other_picture_and_no_other_line_has_it(
    tmp_path: Path,
) -> None:
    place = write(tmp_path / "val", ["cat/0001.jpg", "dog/0002.jpg"])
    path = tmp_path / "list.txt"
    path.write_text("0002.jpg 207\nelsewhere/0001.jpg 281\n")
    expected = {"cat/0001.jpg": ("n02123045",), "dog/0002.jpg": ("n02099601",)}
    assert answers(place, path) == expected


def test_lines_without_names_follow_the_order_in_one_folder_below(tmp_path: Path) -> None:
    place = write(tmp_path / "val", ["images/b.png", "images/a.png"])
    path = tmp_path / "lines.txt"
    path.write_text("n02123045\nn02099601\n")
    expected = {"images/a.png": ("n02123045",), "images/b.png": ("n02099601",)}
    assert answers(place, path) == expected


TWINS = ("cat/0001.jpg", "dog/0001.jpg")
TWO_LINES = "n02123045\nn02099601\n"


@pytest.mark.parametrize(
    ("pictures", "content", "message"),
    [
        (TWINS, "0001.jpg 281\n", "dog/0001.jpg may be 0001.jpg, as may cat/0001.jpg"),
        (TWINS, "cat/0001.jpg 281\n", "has no line for dog/0001.jpg"),
        (["1.jpg"], "a/1.jpg 281\nb/1.jpg 207\n", "1.jpg may be a/1.jpg, b/1.jpg"),
        (["1.jpg"], "1.jpg 281\n./1.jpg 207\n", "has 1.jpg twice"),
        (["1.jpg"], "1.jpg 281\n2.jpg\n", "line 2: 2.jpg has ''"),
        (["1.jpg", "2.jpg"], "n02123045\n\nn02099601 x\n", "line 3 has 2 words; expected one"),
        (TWINS, TWO_LINES, "the pictures lie in several folders"),
        (["a/2.jpg", "b/1.jpg"], TWO_LINES, "the pictures lie in several folders"),
        (
            ["ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00000001.JPEG"],
            TWO_LINES,
            "has lines 1 to 2; ILSVRC2012_val_00000000.JPEG would have line 0",
        ),
    ],
)
def test_lines_that_may_be_of_another_picture_are_refused(
    pictures: Sequence[str], content: str, message: str, tmp_path: Path
) -> None:
    place = write(tmp_path / "val", pictures)
    path = tmp_path / "answers.txt"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        open_truth(place, labels=path)


def test_json_and_kaggle_do_not_mix_up_equal_names_either(tmp_path: Path) -> None:
    place = write(tmp_path / "val", TWINS)
    real = tmp_path / "real.json"
    real.write_text("[[281], [207]]")
    with pytest.raises(DatasetError, match="several folders"):
        open_truth(place, labels=real)
    table = tmp_path / "table.csv"
    row = "0001,n02123045 1 2 3 4\n"
    table.write_text("ImageId,PredictionString\n" + row)
    with pytest.raises(DatasetError, match="may be 0001, as may cat/0001.jpg"):
        open_truth(place, labels=table)
    table.write_text("ImageId,PredictionString\n" + 2 * row)
    with pytest.raises(DatasetError, match="has 0001 twice"):
        open_truth(place, labels=table)


def test_real_labels_over_class_folders(tmp_path: Path) -> None:
    place = write(
        tmp_path / "val",
        ["n01751748/ILSVRC2012_val_00000001.JPEG", "n09193705/ILSVRC2012_val_00000003.JPEG"],
    )
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[65, 0], [970], []]))
    found = open_truth(place, labels=path)
    assert [entry.classes for entry in found.entries] == [("n01751748", "n01440764"), ()]
    assert any(note.startswith("1 picture has no label") for note in found.notes)
    assert found.classes == ("n01440764", "n01751748")


def test_tiny_imagenet(tmp_path: Path) -> None:
    top = tmp_path / "tiny-imagenet-200"
    write(top / "train", ["n01443537/images/n01443537_0.JPEG"])
    write(top / "test", ["images/test_0.JPEG"])
    write(top / "val", ["images/val_0.JPEG", "images/val_1.JPEG"])
    lines = "val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\t52\t55\t57\t59\n"
    (top / "val" / "val_annotations.txt").write_text(lines)
    expected = {"images/val_0.JPEG": ("n03444034",), "images/val_1.JPEG": ("n04067472",)}
    assert answers(top / "val") == expected
    found = open_truth(top)
    assert "the part `val` is evaluated" in found.notes
    assert {entry.name: entry.classes for entry in found.entries} == expected


def test_class_folders_alone_and_in_parts(tmp_path: Path) -> None:
    names = ("b", "a")
    testing.write_pictures(tmp_path / "plain", classes=names, per_class=2)
    found = open_truth(tmp_path / "plain")
    assert found.classes == ("a", "b")
    assert (len(found.entries), found.notes) == (4, ())
    testing.write_pictures(tmp_path / "parts" / "train", classes=names, per_class=3)
    testing.write_pictures(tmp_path / "parts" / "val", classes=["a"], per_class=2)
    found = open_truth(tmp_path / "parts")
    assert [entry.name for entry in found.entries] == ["a/0000.png", "a/0001.png"]
    assert found.classes == ("a",)
    assert found.notes == ("the part `val` is evaluated",)


def test_a_table_evaluates_its_rows_to_validate_on(tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png"])
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\n1.png,cat,train\n2.png,dog,val\n")
    found = open_truth(table)
    assert [(entry.name, entry.classes) for entry in found.entries] == [("2.png", ("dog",))]
    assert found.classes == ("dog",)
    assert "the part to validate on is evaluated" in found.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("0\n" * 10, "from 0 to 0; expected ILSVRC ids, 1 to 1000"),
        ("cat\n" * 10, "expected synset ids, or ILSVRC ids"),
        ("x.JPEG 3\n", "has no line for ILSVRC2012_val_00000001.JPEG"),
        ("x.JPEG cat\n", "'cat'"),
        ("x.JPEG 1000\n", "'1000'"),
        ("5\n" * 9, "has lines 1 to 9; ILSVRC2012_val_00000010.JPEG would have line 10"),
        ("ImageId,PredictionString\nx,cat 1 2 3 4\n", "is no picture with boxes"),
    ],
)
def test_files_of_something_else_are_refused(content: str, message: str, tmp_path: Path) -> None:
    place = imagenet(tmp_path / "val")
    path = tmp_path / "answers.txt"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        open_truth(place, labels=path)


@pytest.mark.parametrize("content", ["{}", "[[1000]]", "[1]", "[[true]]", "no"])
def test_json_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    place = imagenet(tmp_path / "val", [1])
    path = tmp_path / "real.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match="JSON|expected a list"):
        open_truth(place, labels=path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        open_truth(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        open_truth(tmp_path / "empty")
    with pytest.raises(DatasetError, match="no picture"):
        open_truth(tmp_path / "empty", labels=tmp_path / "real.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        open_truth(imagenet(tmp_path / "val"), labels=tmp_path / "none.txt")
