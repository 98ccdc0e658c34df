"""`shards`: tar files are read by their headers, and what is wrong with one is named."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext import images
from resnext.errors import DatasetError
from resnext.training import shards

PNG = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(PNG, "PNG")


def _write(path: Path, members: dict[str, Any], format: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else str(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def _read(path: str, classes: tuple[str, ...] | None = None) -> dict[str, tuple[str, ...]]:
    entries, _ = shards.read_shards([path], classes, top=os.path.dirname(path))
    return {entry.name: entry.classes for entry in entries}


def test_a_picture_and_its_label_share_a_key(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.tar",
        {
            "1.cls": "3\n",
            "1.jpg": PNG.getvalue(),
            "./sub/1.png": PNG.getvalue(),
            "sub/1.json": json.dumps({"label": "cat", "size": 3}),
            "1.seg.png": b"a mask",
            "text.txt": b"no picture",
            ".hidden.jpg": b"",
        },
    )
    assert _read(path) == {"a.tar/1.jpg": ("3",), "a.tar/sub/1.png": ("cat",)}


def test_pictures_are_read_where_they_lie(tmp_path: Path) -> None:
    colors = ("red", "lime", "blue")
    members: dict[str, Any] = {}
    for color in colors:
        buffer = io.BytesIO()
        Image.new("RGB", (3, 3), color).save(buffer, "PNG")
        members |= {f"{color}.png": buffer.getvalue(), f"{color}.cls": color}
    entries, _ = shards.read_shards([_write(tmp_path / "a.tar", members)], None, top=str(tmp_path))
    for entry, color in reversed(list(zip(entries, colors, strict=True))):
        expected = np.asarray(Image.new("RGB", (3, 3), color))
        np.testing.assert_array_equal(images.read(entry.source), expected)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [90, 99, 100, 101, 150, 190])
def test_long_and_foreign_names_are_read_as_tarfile_does(
    tmp_path: Path, format: int, length: int
) -> None:
    stem = "d" * (length // 2) + "/" + "k" * (length // 2 - 5)
    names = [stem + ".jpg", stem + ".cls"]
    if format != tarfile.USTAR_FORMAT:
        names += ["größe😀.jpg", "größe😀.cls"]
    path = _write(
        tmp_path / "a.tar", {n: b"x" if n.endswith("jpg") else b"0" for n in names}, format
    )
    with tarfile.open(path) as tar:
        expected = {f"a.tar/{m.name}": m.offset_data for m in tar if m.name.endswith("jpg")}
    entries, _ = shards.read_shards([path], None, top=str(tmp_path))
    assert {entry.name: entry.source.offset for entry in entries} == expected


def test_links_folders_and_devices_in_a_tar_are_no_pictures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../etc/passwd"
            tar.addfile(member)
    assert _read(str(tmp_path / "a.tar")) == {}


def test_numbers_count_the_lines_of_the_classes_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeffzebra\nant \n7\n", encoding="utf-8")
    classes = shards.read_classes(str(tmp_path))
    assert classes == ("zebra", "ant", "7")
    members = {"1.jpg": "", "1.cls": "1", "2.jpg": "", "2.cls": "zebra", "3.jpg": "", "3.cls": "02"}
    assert list(_read(_write(tmp_path / "a.tar", members), classes).values()) == [
        ("ant",),
        ("zebra",),
        ("7",),
    ]


@pytest.mark.parametrize("text", ["", "a\n\nb", "a\na"])
def test_a_classes_file_with_gaps_or_twins_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DatasetError, match="a class is empty or named twice"):
        shards.read_classes(str(tmp_path))


def test_no_classes_file_is_no_error(tmp_path: Path) -> None:
    assert shards.read_classes(str(tmp_path)) is None
    (tmp_path / "classnames.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="cannot be read as UTF-8"):
        shards.read_classes(str(tmp_path))


@pytest.mark.parametrize("label", ["3", "-1", "unknown"])
def test_a_label_outside_of_the_classes_names_the_picture(tmp_path: Path, label: str) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": "", "k.cls": label})
    with pytest.raises(DatasetError, match=rf"a\.tar/k\.jpg \('{label}'\); classes.txt has 3"):
        _read(path, ("x", "y", "z"))


@pytest.mark.parametrize(
    "members",
    [{}, {"k.cls": ""}, {"k.json": "{}"}, {"k.json": "[1]"}, {"k.json": '{"label": true}'}],
)
def test_a_picture_without_label_is_named(tmp_path: Path, members: dict[str, Any]) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": ""} | members)
    with pytest.raises(DatasetError, match=r"1 picture has no usable label: a\.tar/k\.jpg"):
        _read(path)


def test_lists_of_labels_are_several(tmp_path: Path) -> None:
    members = {
        "k.jpg": "",
        "k.json": '{"labels": ["a", 1]}',
        "l.jpg": "",
        "l.json": '{"label": []}',
    }
    path = _write(tmp_path / "a.tar", members)
    entries, several = shards.read_shards([path], None, top=str(tmp_path))
    assert several
    assert [entry.classes for entry in entries] == [("a", "1"), ()]


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": "", "k.json": "{"})
    with pytest.raises(DatasetError, match=r"a\.tar/k\.json: is no JSON"):
        _read(path)


def test_two_pictures_of_a_key_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": "", "k.png": "", "k.cls": "1"})
    with pytest.raises(DatasetError, match=r"k has 2 pictures: k\.jpg, k\.png; expected one"):
        _read(path)


def test_the_last_ending_says_what_a_file_is(tmp_path: Path) -> None:
    members = {
        "006.image.jpg": "",
        "006.cls": "3",
        "photo.v2.JPG": "",
        "photo.v2.cls": "4",
        "other.image.png": "",
        "other.meta.json": '{"label": "cat"}',
        "whole.jpg": "",
        "whole.mask.png": "",
        "whole.mask.cls": "0",
        "whole.cls": "5",
    }
    assert _read(_write(tmp_path / "a.tar", members)) == {
        "a.tar/006.image.jpg": ("3",),
        "a.tar/photo.v2.JPG": ("4",),
        "a.tar/other.image.png": ("cat",),
        "a.tar/whole.jpg": ("5",),
    }


@pytest.mark.parametrize("second", ["k.v1.jpg", "k.mask.png"])
def test_of_long_endings_none_is_guessed(tmp_path: Path, second: str) -> None:
    path = _write(tmp_path / "a.tar", {"k.v0.jpg": "", second: "", "k.cls": "1"})
    with pytest.raises(DatasetError, match=r"k has 2 pictures: k\.v0\.jpg, k\.") as raised:
        _read(path)
    assert "up to the first dot" in raised.value.hint


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _write(path, {"k.jpg": "", "k.cls": "1"})
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("k.jpg"))
    with pytest.raises(DatasetError, match=r"k has 2 pictures: k\.jpg, k\.jpg"):
        _read(str(path))


@pytest.mark.parametrize("label", [{"cls": "1"}, {"json": '{"label": "cat"}'}])
@pytest.mark.parametrize("other", ["heic", "npy", None])
def test_a_label_without_a_picture_is_named(
    tmp_path: Path, label: dict[str, str], other: str | None
) -> None:
    members = {"l.jpg": "", "l.cls": "1"} | {f"k.{ending}": text for ending, text in label.items()}
    members |= {f"k.{other}": ""} if other else {}
    with pytest.raises(DatasetError, match=r"1 label has no picture: a\.tar/k \(") as raised:
        _read(_write(tmp_path / "a.tar", members))
    assert other is None or other in str(raised.value)


def test_what_describes_no_picture_is_left_alone(tmp_path: Path) -> None:
    members = {"k.jpg": "", "k.cls": "1", "stats.json": '{"pictures": 1}', "list.json": "[1]"}
    assert _read(_write(tmp_path / "a.tar", members)) == {"a.tar/k.jpg": ("1",)}


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 1500, 2600, 3072])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": b"x" * 2000, "k.cls": b"1"})
    with open(path, "r+b") as file:
        file.truncate(cut)
    with pytest.raises(DatasetError, match=r"a\.tar: is (cut short|no tar file, or damaged)"):
        _read(path)


def test_a_flipped_bit_in_a_header_is_found(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tar", {"k.jpg": b"x" * 600, "k.cls": b"1"})
    data = bytearray(Path(path).read_bytes())
    data[512 + 1024 + 2] ^= 1  # in the name of the second member
    Path(path).write_bytes(data)
    with pytest.raises(DatasetError, match="damaged, at byte 1,536"):
        _read(path)


@pytest.mark.parametrize("mode, name", [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_a_packed_shard_is_refused_with_the_reason(tmp_path: Path, mode: Any, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", mode):
        pass
    with pytest.raises(DatasetError, match=f"is packed with {name}; expected a plain tar"):
        _read(str(tmp_path / "a.tar"))


def test_empty_and_missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with pytest.raises(DatasetError, match=r"a\.tar: is empty"):
        _read(str(tmp_path / "a.tar"))
    paths = shards.expand(str(tmp_path / "s-{08..11}.tar"))
    assert [os.path.basename(path) for path in paths] == [
        f"s-{number}.tar" for number in ("08", "09", "10", "11")
    ]
    with pytest.raises(DatasetError, match=r"4 of 4 shards missing: .*s-08\.tar"):
        shards.read_shards(paths, None, top=str(tmp_path))
    assert shards.expand("a{0..1}b{2..3}") == ["a0b2", "a0b3", "a1b2", "a1b3"]
    assert shards.expand("{a,b}.tar") == ["{a,b}.tar"]
