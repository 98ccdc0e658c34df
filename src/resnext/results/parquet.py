"""Way 5, one format: rows to Parquet (needs the `parquet` extra).

The only module that imports pyarrow; `sinks` reaches it when Parquet is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 8192  # held in memory until written: 64 MB of 2048 float32


class RowWriter:
    """Collects rows and writes them in groups; the file is complete after `close`.

    Args:
        file: Where the bytes go, open for writing.
        columns: Name to Arrow type name such as `string`, or `string[]` for a list of them;
            a number n stands for a vector of n float32.
    """

    def __init__(self, file: BinaryIO, columns: Mapping[str, str | int]) -> None:
        self._schema = pa.schema([(name, _type(kind)) for name, kind in columns.items()])
        self._file = file
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[Sequence[Any]] = []

    def add(self, row: Sequence[Any]) -> None:
        """Add one row: a value for each column, None where it has none."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last group and the footer."""
        self._flush()
        self._open().close()

    def _open(self) -> pq.ParquetWriter:
        # Not in the constructor, which would then need to undo what it has written.
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        return self._writer

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        columns = zip(*rows, strict=True)
        types = self._schema.types
        arrays = [_array(column, kind) for column, kind in zip(columns, types, strict=True)]
        self._open().write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _type(kind: str | int) -> pa.DataType:
    if isinstance(kind, int):
        return pa.list_(pa.float32(), kind)
    if kind.endswith("[]"):
        return pa.list_(pa.type_for_alias(kind[:-2]))
    return pa.type_for_alias(kind)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        # Through one flat array: a list of Python floats would take ten times the memory.
        return pa.FixedSizeListArray.from_arrays(np.concatenate(values), type=kind)
    return pa.array(values, kind)
