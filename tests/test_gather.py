"""From pictures of any layout to the rows of an index."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from resnext import Classifier
from resnext.errors import ConfigError, DatasetError
from resnext.explore import gather
from resnext.explore.index import open_index


@pytest.mark.parametrize(("part", "count"), [("train", 18), ("val", 6), ("all", 24)])
def test_a_data_set_gives_the_part_asked_for_with_its_classes(
    train_and_val: Path, part: str, count: int
) -> None:
    found = gather.gather(str(train_and_val), part=part)
    items = list(found.items)
    assert len(items) == found.total == count
    assert found.class_names == ("blue", "green", "red")
    for item in items:
        assert Path(item.name).is_file()
        assert Path(item.name).parent.name == found.class_names[item.label]


def test_pictures_without_classes_have_no_labels_and_that_is_said(
    train_and_val: Path, tmp_path: Path
) -> None:
    for number, file in enumerate(sorted(train_and_val.rglob("*.png"))[:3]):
        shutil.copy(file, tmp_path / f"{number}.png")
    found = gather.gather(str(tmp_path))
    assert [item.label for item in found.items] == [-1, -1, -1]
    assert found.class_names == ()
    assert "no labels" in found.notes[0]


def test_an_empty_class_costs_neither_labels_nor_part(train_and_val: Path, tmp_path: Path) -> None:
    data = shutil.copytree(train_and_val, tmp_path / "data")
    (data / "train" / "empty").mkdir()
    found = gather.gather(str(data), part="val")
    assert [Path(item.name).parent.parent.name for item in found.items] == ["val"] * 6
    assert [item.label for item in found.items] == [0, 0, 1, 1, 2, 2]
    assert found.class_names == ("blue", "green", "red")
    assert "train/empty: there are no pictures" in found.notes[-1]
    assert len(list(gather.gather(str(data)).items)) == 18


def test_a_table_that_cannot_be_read_is_no_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\nabsent.png,a\n")
    with pytest.raises(DatasetError, match=r"absent\.png"):
        gather.gather(str(tmp_path / "t.csv"))


def test_pictures_in_no_class_among_others_have_no_label(
    train_and_val: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(train_and_val / "train", tmp_path / "data")
    (data / "empty").mkdir()  # so that training refuses, and every picture is found
    shutil.copy(data / "red" / "0000.png", data / "stray.png")
    items = {Path(item.name).name: item.label for item in gather.gather(str(data)).items}
    assert items["stray.png"] == -1


def test_the_part_test_is_not_in_an_index_and_that_is_said(
    train_and_val: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(train_and_val, tmp_path / "data")
    shutil.copytree(train_and_val / "val", data / "test")
    found = gather.gather(str(data), part="all")
    assert found.total == 24
    assert "the part `test` is not used" in found.notes


def test_a_part_that_is_left_out_is_told(train_and_val: Path) -> None:
    note = "the part `val` is left out: 6 pictures; --part all takes both"
    assert note in gather.gather(str(train_and_val)).notes
    for part in ("train", "val", "all"):  # as one asked for
        assert note not in gather.gather(str(train_and_val), part=part).notes


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent", "no such file or folder"), ("absent.jpg", "no such file"), ("*.png", "no picture")],
)
def test_where_nothing_is_there_it_is_told_at_once(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=said):
        gather.gather(str(tmp_path / name))


@pytest.mark.parametrize(
    ("lines", "said"),
    [("", "standard input names no picture"), ("absent.jpg\n", "^absent.jpg: there is no such")],
)
def test_standard_input_without_a_picture_is_told_at_once(
    lines: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    with pytest.raises(DatasetError, match=said):
        gather.gather("-")


def test_a_first_line_that_is_gone_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / name) for name in ("gone.jpg", "a.jpg", "b.jpg")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    assert [item.name for item in gather.gather("-").items] == names


@pytest.mark.parametrize("part", [None, "val"])
def test_a_set_of_val_alone_is_refused_with_the_path_to_give(
    part: str | None, train_and_val: Path, tmp_path: Path
) -> None:
    shutil.copytree(train_and_val / "val", tmp_path / "only" / "val")
    with pytest.raises(DatasetError, match="has val, but no train") as error:
        gather.gather(str(tmp_path / "only"), part=part)
    assert str(tmp_path / "only" / "val") in error.value.hint


def test_a_part_that_is_not_there_is_refused(train_and_val: Path) -> None:
    alone = train_and_val / "train"
    assert gather.gather(str(alone), part="train").total == 18
    with pytest.raises(ConfigError, match="has no part val; it has train"):
        gather.gather(str(alone), part="val")
    for unlabelled in (alone / "red", alone / "red" / "*.png"):
        with pytest.raises(ConfigError, match="it has no parts, and no classes"):
            gather.gather(str(unlabelled), part="train")
        assert len(list(gather.gather(str(unlabelled), part="all").items)) == 6


def test_parts_without_train_are_no_classes(train_and_val: Path, tmp_path: Path) -> None:
    shutil.copytree(train_and_val / "val", tmp_path / "data" / "val")
    with pytest.raises(DatasetError, match="but no train.*\n\nhint: give the path of the part"):
        gather.gather(str(tmp_path / "data"))


def test_pictures_in_shards_are_called_by_what_is_in_them(
    train_and_val: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for number, file in enumerate(sorted((train_and_val / "val").rglob("*.png"))):
            shard.add(file, f"{number:03d}.png")
            label = tmp_path / "label"
            label.write_text(str(number // 2))
            shard.add(label, f"{number:03d}.cls")
    found = gather.gather(str(tmp_path / "a.tar"))
    assert [item.label for item in found.items] == [0, 0, 1, 1, 2, 2]


def test_an_unknown_part_is_refused(train_and_val: Path) -> None:
    with pytest.raises(ConfigError, match="part is 'test'"):
        gather.gather(str(train_and_val), part="test")


def test_a_bad_picture_is_left_out_and_told(
    train_and_val: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(train_and_val / "train", tmp_path / "data")
    bad = tmp_path / "data" / "green" / "0000.png"
    bad.write_bytes(b"nothing")
    with Classifier(tiny_model, threads=1, precision="fp32") as classifier:
        builder = gather.Builder(classifier, str(tiny_model))
        told: list[tuple[int, int]] = []
        everything = gather.gather(str(tmp_path / "data"))
        count = builder.build(tmp_path / "i", everything, progress=lambda *done: told.append(done))
        assert count == 17
        assert [error.path for error in builder.failed] == [str(bad)]
        assert told == [(n, 18) for n in range(1, 19)]
        nothing = gather.Gathered(items=[gather.Item("x", str(bad))])
        with pytest.raises(DatasetError, match="no picture"):
            builder.build(tmp_path / "j", nothing)
    assert str(bad) not in open_index(tmp_path / "i").names
    assert not (tmp_path / "j").exists()
