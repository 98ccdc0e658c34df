"""`tables`: CSV in its dialects, Parquet and saved data sets by their columns."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import DatasetError, MissingExtraError
from resnext.training import tables
from resnext.training.listing import Listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three empty pictures."""
    (tmp_path / "cats").mkdir()
    for name in ("cats/1.jpg", "cats/a, b.jpg", "2.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def _csv(folder: Path, text: str | bytes, name: str = "t.csv") -> Listing:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
    return tables.read_csv(str(folder / name))


def _pairs(listing: Listing) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.name, entry.classes) for entry in listing.train]


EXPECTED = [("cats/1.jpg", ("cat",)), ("2.jpg", ("dog",))]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\ncats/1.jpg,cat\n2.jpg,dog\n",
        "\ufeffPath, Label\r\ncats/1.jpg,cat\r\n\r\n2.jpg,dog",
        "label\tfilename\ncat\tcats/1.jpg\ndog\t2.jpg\n",
        "image;class\ncats/1.jpg;cat\n2.jpg;dog\n",
        ',"file","labels",note\n0,cats/1.jpg,cat,"x, y"\n1,"2.jpg",dog,"new\nline"\n',
        "image_path,class_name\n./cats/1.jpg,cat\ncats/../2.jpg,dog\n",
    ],
)
def test_a_table_is_read_in_its_dialect(folder: Path, text: str) -> None:
    assert _pairs(_csv(folder, text)) == EXPECTED


def test_a_path_with_a_comma_is_quoted(folder: Path) -> None:
    assert _pairs(_csv(folder, 'path,label\n"cats/a, b.jpg",x\n')) == [("cats/a, b.jpg", ("x",))]
    with pytest.raises(DatasetError, match="line 2 has 3 cells; expected 2") as caught:
        _csv(folder, "path,label\ncats/a, b.jpg,x\n")
    assert "in quotes" in caught.value.hint


def test_labels_may_be_separated_where_columns_are_too(folder: Path) -> None:
    listing = _csv(folder, "path,label\ncats/1.jpg,a;b\n2.jpg,b|c\n")
    assert listing.multi_label
    assert _pairs(listing) == [("cats/1.jpg", ("a", "b")), ("2.jpg", ("b", "c"))]


def test_a_column_tells_the_part(folder: Path) -> None:
    listing = _csv(folder, "path,label,split\ncats/1.jpg,a,train\n2.jpg,b,Validation\n")
    assert [entry.name for entry in listing.train] == ["cats/1.jpg"]
    assert [entry.name for entry in listing.val or ()] == ["2.jpg"]
    with pytest.raises(DatasetError, match=r"unknown split: line 2 \('tarin'\)"):
        _csv(folder, "path,label,split\n2.jpg,a,tarin\n")


@pytest.mark.parametrize(
    "text, columns",
    [("cats/1.jpg,cat\n", "cats/1.jpg, cat"), ("path,x\n", "path, x"), ("", "of an empty file")],
)
def test_missing_columns_are_named(folder: Path, text: str, columns: str) -> None:
    with pytest.raises(DatasetError, match=f"has the columns {columns}; expected one of path, "):
        _csv(folder, text)


@pytest.mark.parametrize(
    "text", ['path,label\n"2.jpg,a\n', "path,label\n" + "x" * 200_000 + ",a\n"]
)
def test_what_is_no_csv_is_named_with_its_line(folder: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=r"t\.csv: line \d+ is no CSV"):
        _csv(folder, text)


@pytest.mark.skipif(os.name != "posix", reason="names elsewhere are Unicode")
def test_a_table_can_name_files_of_any_bytes(folder: Path) -> None:
    with open(os.path.join(os.fsencode(folder), b"\xff.jpg"), "wb"):
        pass
    [entry] = _csv(folder, b"path,label\n\xff.jpg,caf\xe9\n").train
    assert os.path.exists(entry.source)
    assert entry.classes == ("caf\\udce9",)


pa = pytest.importorskip("pyarrow", reason="needs pip install 'resnext[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")


def _parquet(folder: Path, name: str = "t.parquet", **columns: Any) -> Listing:
    pq.write_table(pa.table(columns), folder / name)
    return tables.read_parquet({"": [str(folder / name)]}, str(folder))


@pytest.mark.parametrize(
    "labels", [["cat", "dog"], pa.array(["cat", "dog"]).dictionary_encode()], ids=["text", "codes"]
)
def test_a_parquet_table_of_paths_is_like_a_csv(folder: Path, labels: Any) -> None:
    listing = _parquet(folder, image=["cats/1.jpg", "2.jpg"], label=labels, other=[1, 2])
    assert _pairs(listing) == EXPECTED
    assert not (Path(os.environ["RESNEXT_HOME"]) / "datasets").exists()


def test_lists_and_separators_are_several_labels(folder: Path) -> None:
    listing = _parquet(folder, path=["cats/1.jpg", "2.jpg"], labels=[["a"], ["b"]])
    assert listing.multi_label
    listing = _parquet(folder, path=["cats/1.jpg", "2.jpg"], label=["a|b", "b"])
    assert _pairs(listing)[0][1] == ("a", "b")


def test_a_parquet_column_tells_the_part(folder: Path) -> None:
    listing = _parquet(folder, path=["cats/1.jpg", "2.jpg"], label=[0, 1], split=["train", "test"])
    assert (len(listing.train), len(listing.val or ())) == (1, 1)
    with pytest.raises(DatasetError, match="unknown split"):
        _parquet(folder, path=["cats/1.jpg", "2.jpg"], label=[0, 1], split=["train", None])


def test_parquet_errors_name_the_row(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"without a label: row 1 of t\.parquet"):
        _parquet(folder, path=["cats/1.jpg", "2.jpg"], label=["a", None])
    with pytest.raises(DatasetError, match=r"not there: 9\.jpg \(row 0 of t\.parquet\)"):
        _parquet(folder, path=["9.jpg", "2.jpg"], label=["a", "b"])
    with pytest.raises(DatasetError, match="has the columns path, x; expected one of"):
        _parquet(folder, path=["2.jpg"], x=[1])


def test_parts_with_other_columns_are_refused(folder: Path) -> None:
    for name, label in (("train", "label"), ("val", "class")):
        pq.write_table(pa.table({"path": ["2.jpg"], label: ["a"]}), folder / f"{name}.parquet")
    files = {part: [str(folder / f"{part}.parquet")] for part in ("train", "val")}
    with pytest.raises(DatasetError, match="other columns or other classes"):
        tables.read_parquet(files, str(folder))


def test_without_pyarrow_the_extra_is_named(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "resnext.training.arrow", None)
    with pytest.raises(MissingExtraError, match="extra `parquet`"):
        tables.read_parquet({"": ["x.parquet"]}, str(folder))


def test_a_saved_data_set_is_read_by_its_parts(repository: Path) -> None:
    saved = repository / "tests" / "golden" / "huggingface" / "saved"
    assert tables.is_saved(str(saved)) and tables.is_saved(str(saved / "train"))
    listing = tables.read_saved(str(saved))
    assert listing.classes == ("zebra", "ant", "mole")
    assert [entry.classes[0] for entry in listing.train] == ["zebra", "ant", "mole"] * 2
    assert [entry.classes[0] for entry in listing.val or ()] == ["ant", "zebra"]
    assert listing.train[1].name == "train/data-00000-of-00001.arrow/1"
    assert tables.read_saved(str(saved / "train")).val is None


def test_what_is_wrong_with_a_saved_data_set_is_named(repository: Path, tmp_path: Path) -> None:
    saved = shutil.copytree(repository / "tests/golden/huggingface/saved", tmp_path / "saved")
    state = saved / "train" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"_indices_files": [{"filename": "x"}]}))
    with pytest.raises(DatasetError, match="saved by an old version"):
        tables.read_saved(str(saved))
    state.write_text(json.dumps(content | {"_data_files": [{"filename": "gone.arrow"}]}))
    with pytest.raises(DatasetError, match=r"files of the data set are missing: .*gone\.arrow"):
        tables.read_saved(str(saved))
    state.write_text("{")
    with pytest.raises(DatasetError, match=r"state\.json: cannot be read"):
        tables.read_saved(str(saved))
    (saved / "dataset_dict.json").write_text('{"splits": ["red", "blue"]}')
    with pytest.raises(DatasetError, match="names the parts red, blue; expected train and"):
        tables.read_saved(str(saved))
