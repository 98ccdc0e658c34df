"""`arrow`: pictures inside Arrow and Parquet files are found without copying them."""

from __future__ import annotations

import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="needs pip install 'resnext[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

from resnext import images  # noqa: E402
from resnext.errors import DatasetError, OutputError  # noqa: E402
from resnext.training import arrow  # noqa: E402
from resnext.training.listing import FileSlice  # noqa: E402
from resnext.training.rows import Row  # noqa: E402


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PLAIN = arrow.Columns(picture="image", label="label", part=None, classes=None)
PICTURES = [_png(value) for value in range(5)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNED = pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])


def _table(kind: Any = STRUCT, features: Any = None) -> Any:
    """Five pictures, the fourth by its path only."""
    cells: list[Any] = [{"bytes": data, "path": None} for data in PICTURES]
    cells[3] = {"bytes": None, "path": "3.png"}
    if not pa.types.is_struct(kind):
        cells = [cell["bytes"] for cell in cells]
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    if features is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return pa.table({"image": pa.array(cells, kind), "label": [0, 1, 2, 1, -1]}, schema=schema)


def _write(table: Any, path: Path, form: str) -> str:
    if form == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if form == "packed" else None)
        opener = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
        with open(path, "wb") as file, opener(file, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=2)
    return str(path)


def _rows(path: str, cache: Path, columns: Any = PLAIN) -> list[Row]:
    return list(arrow.read_rows(path, columns, name="a", cache=cache))


@pytest.mark.parametrize("form", ["stream", "file", "packed", "parquet"])
@pytest.mark.parametrize(
    "kind",
    [STRUCT, TURNED, pa.binary(), pa.large_binary()],
    ids=["struct", "turned", "binary", "large"],
)
def test_the_bytes_are_read_where_they_lie(tmp_path: Path, form: str, kind: Any) -> None:
    path = _write(_table(kind), tmp_path / "a", form)
    rows = _rows(path, tmp_path / "cache")
    assert [row.label for row in rows] == [0, 1, 2, 1, -1]
    assert rows[3].picture == ("3.png" if pa.types.is_struct(kind) else None)
    for number in (0, 1, 2, 4):
        picture = rows[number].picture
        assert isinstance(picture, FileSlice)
        assert (picture.name, picture.read()) == (f"a/{number}", PICTURES[number])
        np.testing.assert_array_equal(images.read(picture)[0, 0], (number, 0, 0))
    unpacked = form in ("packed", "parquet")
    assert (tmp_path / "cache").exists() == unpacked
    assert (picture.path != path) == unpacked


def test_what_is_unpacked_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = _write(_table(), tmp_path / "a.parquet", "parquet")
    first = _rows(path, cache)
    [kept] = cache.iterdir()
    before = kept.stat().st_mtime_ns
    assert _rows(path, cache) == first
    assert kept.stat().st_mtime_ns == before
    os.utime(path, ns=(time.time_ns(), before + 10**9))
    again = _rows(path, cache)
    assert len(list(cache.iterdir())) == 2
    assert [row.label for row in again] == [row.label for row in first]


def test_of_several_processes_one_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(_table(), tmp_path / "a.parquet", "parquet")
    write, written = arrow._write, []

    def slowly(target: Path, *rest: Any) -> None:
        written.append(target)
        time.sleep(0.2)  # the others are waiting by then
        write(target, *rest)

    monkeypatch.setattr(arrow, "_write", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _rows(path, tmp_path / "cache"), range(4)))
    assert len(written) == 1
    assert found == [found[0]] * 4


def test_a_full_or_forbidden_cache_is_an_output_error(tmp_path: Path) -> None:
    path = _write(_table(), tmp_path / "a.parquet", "parquet")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/cache: cannot be written"):
        _rows(path, tmp_path / "file" / "cache")


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["zebra", "ant", "mole"], "_type": "ClassLabel"},
}


@pytest.mark.parametrize("form", ["stream", "parquet"])
def test_hugging_face_names_the_columns_and_classes(tmp_path: Path, form: str) -> None:
    path = _write(_table(features=FEATURES), tmp_path / "a", form)
    found = arrow.inspect(path)
    assert found.columns == ("image", "label")
    assert found.pictures == ("image",)
    assert found.class_names == {"label": ("zebra", "ant", "mole")}
    columns = arrow.Columns(picture="image", label="label", part=None, classes=("z", "a|b", "m"))
    labels = [row.label for row in _rows(path, tmp_path, columns)]
    assert labels == [["z"], ["a|b"], ["m"], ["a|b"], []]  # -1 is no label


def test_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    path = _write(_table(), tmp_path / "a", "stream")
    columns = arrow.Columns(picture="image", label="label", part=None, classes=("z", "a"))
    with pytest.raises(
        DatasetError, match="row 2 of a has label 2; expected 0 to 1, as there are classes"
    ):
        _rows(path, tmp_path, columns)


@pytest.mark.parametrize(
    "metadata",
    [b"{", b"[]", b"{}", b'{"info": {"features": [1]}}', b'{"info": {"features": {"label": 3}}}'],
)
def test_odd_metadata_is_no_metadata(tmp_path: Path, metadata: bytes) -> None:
    table = _table().replace_schema_metadata({"huggingface": metadata})
    found = arrow.inspect(_write(table, tmp_path / "a", "stream"))
    assert (found.pictures, found.class_names) == (("image",), {})


def test_lists_of_class_labels_have_names(tmp_path: Path, repository: Path) -> None:
    path = str(repository / "tests/golden/huggingface/several/data-00000-of-00001.arrow")
    found = arrow.inspect(path)
    assert found.class_names == {"labels": ("x|y", "z")}
    assert arrow.is_list(path, "labels") and not arrow.is_list(path, "img")
    columns = arrow.Columns(picture="img", label="labels", part=None, classes=("x|y", "z"))
    assert [row.label for row in _rows(path, tmp_path, columns)] == [["x|y", "z"], [], ["x|y"]]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", b"x" * 100])
def test_what_is_no_such_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet: cannot be read as a Parquet or Arrow"):
        arrow.inspect(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("form", ["stream", "file", "parquet"])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, form: str) -> None:
    path = _write(_table(), tmp_path / "a", form)
    data = Path(path).read_bytes()
    for cut in range(0, len(data) - 20, 97):
        Path(path).write_bytes(data[:cut])
        with pytest.raises(DatasetError, match="a: cannot be read"):
            _rows(path, tmp_path / "cache")


def test_what_cannot_be_unpacked_is_the_fault_of_the_file(tmp_path: Path) -> None:
    path = _write(_table(), tmp_path / "a.parquet", "parquet")
    with open(path, "r+b") as file:  # the first page: only reading the rows finds it
        file.seek(4)
        file.write(b"\xff" * 60)
    assert arrow.inspect(path).columns == ("image", "label")
    with pytest.raises(DatasetError, match=r"a\.parquet: cannot be read"):
        _rows(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offsets_that_lead_out_of_the_file_are_refused(tmp_path: Path) -> None:
    path = _write(_table(pa.binary()), tmp_path / "a", "stream")
    data = bytearray(Path(path).read_bytes())
    lengths = np.cumsum([0, *map(len, PICTURES[:2])], dtype=np.int32).tobytes()
    assert lengths in data
    place = data.index(lengths)
    data[place + 4 : place + 8] = np.int32(2**30).tobytes()
    Path(path).write_bytes(data)
    with pytest.raises(DatasetError, match="a: cannot be read"):
        _rows(path, tmp_path / "cache")
