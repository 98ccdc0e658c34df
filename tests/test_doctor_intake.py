"""What is examined: every layout that training reads, and folders that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from resnext.doctor.intake import PARTS, Intake, take_in
from resnext.errors import DatasetError


def write(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(top / name, "PNG")
    return top


def listed(intake: Intake) -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (PARTS[part], entry.name, entry.classes)
        for part, entry in zip(intake.parts.tolist(), intake.entries, strict=True)
    ]


def test_parts_come_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path, "test/a/3.png", "val/a/2.png", "train/a/1.png", "train/b/1.png")
    intake = take_in(tmp_path)
    assert listed(intake) == [
        ("train", "train/a/1.png", ("a",)),
        ("train", "train/b/1.png", ("b",)),
        ("val", "val/a/2.png", ("a",)),
        ("test", "test/a/3.png", ("a",)),
    ]
    assert (intake.labelled, intake.refusal, intake.notes) == (True, "", ())


def test_test_alone_beside_train_comes_once(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png")
    assert [name for _, name, _ in listed(take_in(tmp_path))] == [
        "train/a/1.png", "train/b/1.png", "test/a/2.png",
    ]  # fmt: skip


def test_what_training_refuses_is_read_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/deep/1.png", "val/a/2.png")
    (tmp_path / "train" / "empty").mkdir()
    intake = take_in(tmp_path)
    assert "empty: there are no pictures" in intake.refusal
    assert listed(intake) == [
        ("train", "train/a/1.png", ("a",)),
        ("train", "train/b/deep/1.png", ("b",)),
        ("val", "val/a/2.png", ("a",)),
    ]


def test_a_link_to_another_class_is_a_refusal_and_no_loop(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    intake = take_in(tmp_path)
    assert "lead to the same pictures" in intake.refusal
    assert {name for _, name, _ in listed(intake)} >= {"a/1.png", "b/1.png"}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_flat_folder_has_no_classes(tmp_path: Path, labelled: bool) -> None:
    write(tmp_path, "1.png", "2.png")
    intake = take_in(tmp_path, labelled=labelled)
    assert not intake.labelled
    assert [entry.classes for entry in intake.entries] == [(), ()]


def test_folders_need_not_be_classes(tmp_path: Path) -> None:
    intake = take_in(write(tmp_path, "2024/1.png", "2025/1.png", "3.png"), labelled=False)
    assert not intake.labelled
    assert [entry.name for entry in intake.entries] == ["2024/1.png", "2025/1.png", "3.png"]


def test_notes_of_the_layout_are_kept(tmp_path: Path) -> None:
    intake = take_in(write(tmp_path, "a/1.png", "b/1.png", "stray.png"))
    assert any("stray.png" in note for note in intake.notes)


def test_nothing_to_examine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for place in (tmp_path, tmp_path / "a"):
        with pytest.raises(DatasetError, match="there are no pictures"):
            take_in(place)
    for place in (tmp_path / "file.txt", tmp_path / "nowhere"):
        with pytest.raises(DatasetError):
            take_in(place)
    with pytest.raises(DatasetError, match="is no folder"):
        take_in(tmp_path / "file.txt", labelled=False)
