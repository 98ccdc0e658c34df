"""`parquet`: typed columns, groups, vectors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet", reason="needs pip install 'resnext[parquet]'")

from resnext.results import parquet  # noqa: E402
from resnext.results.formats import COLUMNS  # noqa: E402
from resnext.results.parquet import RowWriter  # noqa: E402


def test_columns_have_their_types_even_when_empty() -> None:
    buffer = io.BytesIO()
    RowWriter(buffer, COLUMNS).close()
    schema = pq.read_table(buffer).schema
    assert {field.name: str(field.type) for field in schema} == dict(COLUMNS)


def test_rows_come_back_with_their_gaps() -> None:
    buffer = io.BytesIO()
    writer = RowWriter(buffer, {"name": "string", "rank": "int32"})
    rows = [("a", 1), ("b", None)]
    for row in rows:
        writer.add(row)
    writer.close()
    assert [tuple(row.values()) for row in pq.read_table(buffer).to_pylist()] == rows


def test_lists_come_back_with_their_gaps() -> None:
    buffer = io.BytesIO()
    writer = RowWriter(buffer, {"names": "string[]"})
    rows = [["a", "b"], [], None]
    for row in rows:
        writer.add((row,))
    writer.close()
    assert pq.read_table(buffer)["names"].to_pylist() == rows


def test_memory_is_bounded_by_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    with open(tmp_path / "a.parquet", "wb") as file:
        writer = RowWriter(file, {"n": "int32"})
        for number in range(10):
            writer.add((number,))
            assert len(writer._rows) < 4
        writer.close()
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]


def test_vectors_are_exact() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    buffer = io.BytesIO()
    writer = RowWriter(buffer, {"source": "string", "embedding": 3})
    for index, vector in enumerate(vectors):
        writer.add((str(index), vector))
    writer.close()
    table = pq.read_table(buffer)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[3]"
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), vectors)
