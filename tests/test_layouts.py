"""`layouts`: what lies at a path decides how it is read."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import pytest

from resnext import testing
from resnext.errors import DatasetError, ResNeXtError
from resnext.training.layouts import read_layout
from resnext.training.listing import Listing


def _tar(path: Path, *labels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            for name, content in ((f"{number}.jpg", b"x"), (f"{number}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _names(listing: Listing) -> tuple[list[str], list[str] | None]:
    val = None if listing.val is None else [entry.name for entry in listing.val]
    return [entry.name for entry in listing.train], val


def test_a_folder_of_shards_has_parts_by_name(tmp_path: Path) -> None:
    _tar(tmp_path / "set-train-0001.tar", 1)
    _tar(tmp_path / "set-train-0000.tar", 0)
    _tar(tmp_path / "set-validation-0000.tar", 1)
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    (tmp_path / ".hidden.tar").touch()
    listing = read_layout(str(tmp_path))
    assert _names(listing) == (
        ["set-train-0000.tar/0.jpg", "set-train-0001.tar/0.jpg"],
        ["set-validation-0000.tar/0.jpg"],
    )
    assert listing.classes == ("zebra", "ant")
    assert [entry.classes for entry in listing.train] == [("zebra",), ("ant",)]


@pytest.mark.parametrize("place", [".", "train"])
def test_shards_may_lie_in_folders_of_their_part(tmp_path: Path, place: str) -> None:
    _tar(tmp_path / "train" / "0.tar", 0, 1)
    _tar(tmp_path / "val" / "0.tar", 1)
    (tmp_path / place / "classes.txt").write_text("zebra\nant\n")
    listing = read_layout(str(tmp_path))
    assert _names(listing) == (["train/0.tar/0.jpg", "train/0.tar/1.jpg"], ["val/0.tar/0.jpg"])
    assert listing.classes == ("zebra", "ant")


def test_shards_without_parts_are_all_there_is(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", 0)
    _tar(tmp_path / "b.tar", 1)
    assert _names(read_layout(str(tmp_path))) == (["a.tar/0.jpg", "b.tar/0.jpg"], None)
    _tar(tmp_path / "train.tar", 1)
    with pytest.raises(DatasetError, match=r"not clear what .*a\.tar, .*b\.tar is for, beside tra"):
        read_layout(str(tmp_path))


def test_a_pattern_or_one_shard_is_taken_whole(tmp_path: Path) -> None:
    for number in range(3):
        _tar(tmp_path / f"val-{number:02d}.tar", number)
    listing = read_layout(str(tmp_path / "val-{00..01}.tar"))
    assert _names(listing) == (["val-00.tar/0.jpg", "val-01.tar/0.jpg"], None)
    assert _names(read_layout(str(tmp_path / "val-02.tar"))) == (["val-02.tar/0.jpg"], None)
    with pytest.raises(DatasetError, match=r"2 of 5 shards missing: .*val-03\.tar"):
        read_layout(str(tmp_path / "val-{00..04}.tar"))


def test_a_packed_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(DatasetError, match="is packed with gzip"):
        read_layout(str(tmp_path / "a.tar.gz"))


def test_tables_are_known_by_their_ending(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, per_class=1)
    for name, tab in (("t.csv", ","), ("T.TSV", "\t")):
        (tmp_path / name).write_text(f"path{tab}label\nred/0000.png{tab}r\n")
        assert _names(read_layout(str(tmp_path / name))) == (["red/0000.png"], None)


def test_hugging_faces_layouts_are_known(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pip install 'resnext[parquet]'")
    top = repository / "tests" / "golden" / "huggingface"
    saved = read_layout(str(top / "saved"))
    packed = read_layout(str(top / "parquet"))
    assert saved.classes == packed.classes == ("zebra", "ant", "mole")
    for one, other in zip(
        [*saved.train, *(saved.val or ())], [*packed.train, *(packed.val or ())], strict=True
    ):
        assert one.source.read() == other.source.read()
        assert one.classes == other.classes
    assert packed.train[0].name == "data/train-00000-of-00001.parquet/0"
    file = top / "parquet" / "data" / "train-00000-of-00001.parquet"
    assert len(read_layout(str(file)).train) == 6
    by_part = tmp_path / "train"
    by_part.mkdir()
    shutil.copy(file, by_part / "0000.parquet")
    assert _names(read_layout(str(tmp_path)))[0][0] == "train/0000.parquet/0"


def test_a_table_beside_class_folders_does_not_hide_them(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, per_class=2)
    (tmp_path / "features.parquet").write_bytes(b"no pictures")
    listing = read_layout(str(tmp_path))
    assert len(listing.train) == 6
    assert "features.parquet" in listing.notes[0]


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DatasetError, match="there is no such file or folder") as caught:
        read_layout(str(tmp_path / "picturse"))
    assert caught.value.hint == "did you mean 'pictures'?"
    for odd in (str(tmp_path / "no" / "where"), "/nul\0.csv", "/" + "x" * 5000, "/{1..3}"):
        with pytest.raises(DatasetError, match="no such file or folder"):
            read_layout(odd)


def test_a_file_where_a_folder_is_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(DatasetError, match=r"cat\.jpg is one file; expected a folder, or a file"):
        read_layout(str(tmp_path / "cat.jpg"))


@pytest.mark.parametrize("kind", ["tar", "csv", "parquet", "arrow"])
def test_damaged_bytes_give_pictures_or_one_of_our_errors(
    repository: Path, tmp_path: Path, kind: str
) -> None:
    top = repository / "tests" / "golden" / "huggingface"
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        _tar(path, 0, 1, 2)
    elif kind == "csv":
        path.write_text('path,label,split\n"x.csv",a|b,train\n./x.csv,b,val\n')
    else:
        pytest.importorskip("pyarrow", reason="needs pip install 'resnext[parquet]'")
        name = "parquet/data/train-00000-of-00001" if kind == "parquet" else "several/data-00000"
        shutil.copy(next(top.glob(f"{name}*.{kind}")), path)
    data = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice((len(data), rng.randrange(len(data))))])
        try:
            read_layout(str(path))
        except ResNeXtError:
            refused += 1
    assert 10 < refused < 60


@pytest.mark.skipif(os.name != "posix", reason="no named pipes")
@pytest.mark.parametrize("name", ["pipe", "pipe.csv", "pipe.tar", "pipe.parquet"])
def test_a_pipe_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DatasetError, match="is no folder and no regular file"):
        read_layout(str(tmp_path / name))
