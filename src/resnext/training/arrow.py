"""[parquet] Rows of pictures and labels from Arrow and Parquet files.

The only module of training that imports pyarrow. The bytes of a picture stay where they are:
in an uncompressed Arrow file they lie in one piece, and a `FileSlice` reads them without
pyarrow. Parquet packs them, so it is written as Arrow once, into the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resnext.errors import DatasetError, ResNeXtError
from resnext.files import atomic, output_error
from resnext.training.listing import FileSlice
from resnext.training.rows import Row

_ROWS_AT_ONCE = 256  # unpacked in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns hold what; chosen by the names and by what Hugging Face says of them.

    Args:
        picture: Name of the column with paths, bytes, or both.
        label: Name of the column with the label or labels.
        part: Name of the column with the part, or None.
        classes: What integer labels count, or None: then they are names themselves.
    """

    picture: str
    label: str
    part: str | None
    classes: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is known of a file without reading its rows.

    Args:
        columns: Names.
        pictures: Those of type Image.
        class_names: Names of the classes in each column of type ClassLabel.
    """

    columns: tuple[str, ...]
    pictures: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]


def inspect(path: str) -> Found:
    """Look at the schema of a file.

    Raises:
        DatasetError: It is no Parquet or Arrow file.
    """
    with _errors_named(path):
        schema = _schema(path)
        names = schema.names
        features = _features(schema)
        class_names = {name: _class_names(features.get(name)) for name in names}
        pictures = [
            name
            for name in names
            if features.get(name, {}).get("_type") == "Image"
            or _holds_bytes(schema.field(name).type)
        ]
    return Found(
        columns=tuple(names),
        pictures=tuple(pictures),
        class_names={name: found for name, found in class_names.items() if found},
    )


def read_rows(path: str, columns: Columns, *, name: str, cache: Path) -> Iterator[Row]:
    """Read a file.

    Args:
        path: The file.
        columns: Which columns to read.
        name: What to call the file in the names of pictures.
        cache: Folder for what has to be unpacked.

    Yields:
        Its rows. Labels that count `columns.classes` have become names.

    Raises:
        DatasetError: The file is damaged, or a label is out of range.
        OutputError: What has to be unpacked cannot be written.
    """
    with _errors_named(path):
        table = _open(path, columns, cache)
        table.check()
        pictures = table.pictures(columns.picture, name)
        labels = table.content.column(columns.label).to_pylist()
        parts: list[str | None] = [None] * len(labels)
        if columns.part is not None:
            parts = [str(part) for part in table.content.column(columns.part).to_pylist()]
    for number, (picture, label, part) in enumerate(zip(pictures, labels, parts, strict=True)):
        place = f"row {number} of {name}"
        yield Row(place, picture, _by_name(label, columns.classes, place), part)


def is_list(path: str, column: str) -> bool:
    """Tell whether a column holds lists: several labels for each picture."""
    with _errors_named(path):
        kind = _schema(path).field(column).type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


@contextlib.contextmanager
def _errors_named(path: str) -> Iterator[None]:
    try:
        yield
    except ResNeXtError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}: cannot be read as a Parquet or Arrow file: {error}") from error


def _schema(path: str) -> pa.Schema:
    if _is_parquet(path):
        return pq.read_schema(path)
    with open(path, "rb") as file:
        return _stream(file).schema


def _is_parquet(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def _stream(file: Any) -> Any:
    """Open Arrow in either of its two forms."""
    start = file.read(6)
    file.seek(0)
    return pa.ipc.open_file(file) if start == b"ARROW1" else pa.ipc.open_stream(file)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what Hugging Face wrote about the columns, or nothing."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info["info"]["features"]
        return {name: value for name, value in features.items() if isinstance(value, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """Return the names in a ClassLabel, or in a list of them."""
    while isinstance(feature, dict) and "feature" in feature:
        feature = feature["feature"]
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return tuple(str(name) for name in feature.get("names") or ()) or None
    return None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _by_name(label: Any, classes: tuple[str, ...] | None, place: str) -> Any:
    """Replace numbers that count classes by names; -1 is Hugging Face's "no label"."""
    if classes is None:
        return label
    if isinstance(label, list):
        return [name for item in label for name in _by_name(item, classes, place)]
    if label is None or label == -1:
        return []
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise DatasetError(
            f"{place} has label {label!r}; expected 0 to {len(classes) - 1}, as there are classes"
        )
    return [classes[label]]  # in a list it is not taken apart at a `|` in it


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of a file; the bytes of an Arrow file are where the file is mapped."""

    content: pa.Table
    path: str
    mapped: pa.Buffer | None = None

    def check(self) -> None:
        """Make sure that no offset leads out of the file: pyarrow would follow it.

        Raises:
            ArrowException: One does, or a text is not UTF-8.
        """
        self.content.validate(full=True)

    def pictures(self, column: str, name: str) -> list[str | FileSlice | None]:
        """Return the picture of each row: where its bytes lie, else its path."""
        pictures: list[str | FileSlice | None] = []
        for chunk in self.content.column(column).chunks:
            paths: Sequence[Any] = [None] * len(chunk)
            places: list[tuple[int, int] | None] = [None] * len(chunk)
            if pa.types.is_struct(chunk.type):
                if chunk.type.get_field_index("path") >= 0:
                    paths = chunk.field("path").to_pylist()
                if _holds_bytes(chunk.type):
                    places = self._places(chunk.field("bytes"))
            elif _holds_bytes(chunk.type):
                places = self._places(chunk)
            else:
                paths = chunk.to_pylist()
            for place, path in zip(places, paths, strict=True):
                picture = path
                if place is not None:
                    picture = FileSlice(f"{name}/{len(pictures)}", self.path, *place)
                pictures.append(picture)
        return pictures

    def is_plain(self, column: str) -> bool:
        """Tell whether the bytes of all pictures lie in the file as they are."""
        for chunk in self.content.column(column).chunks:
            data = chunk
            if pa.types.is_struct(chunk.type) and _holds_bytes(chunk.type):
                data = chunk.field("bytes")
            if not _holds_bytes(data.type) or data.buffers()[2] is None:
                continue
            first = data.buffers()[2].address - self._start
            if not 0 <= first <= self._size - data.buffers()[2].size:
                return False
        return True

    @property
    def _start(self) -> int:
        return 0 if self.mapped is None else int(self.mapped.address)

    @property
    def _size(self) -> int:
        return 0 if self.mapped is None else int(self.mapped.size)

    def _places(self, chunk: pa.Array) -> list[tuple[int, int] | None]:
        """Return offset and size in the file of each value, None for null."""
        _, ends, data = chunk.buffers()
        if data is None:
            return [None] * len(chunk)
        kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
        ends = np.frombuffer(ends, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
        starts = (ends[:-1].astype(np.int64) + data.address - self._start).tolist()
        sizes = np.diff(ends).tolist()
        valid = chunk.is_valid().to_pylist()
        return [
            (start, size) if there else None
            for start, size, there in zip(starts, sizes, valid, strict=True)
        ]


def _open(path: str, columns: Columns, cache: Path) -> _Table:
    chosen = [columns.picture, columns.label]
    if columns.part is not None:
        chosen.append(columns.part)
    if _is_parquet(path):
        file = pq.ParquetFile(path)
        if not _holds_bytes(file.schema_arrow.field(columns.picture).type):
            return _Table(file.read(columns=chosen), path)
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=chosen)
    else:
        table = _map(path)
        if table.is_plain(columns.picture):
            return table
        batches = iter(table.content.select(chosen).to_batches(_ROWS_AT_ONCE))
    return _map(_unpack(path, chosen, batches, cache))


def _map(path: str) -> _Table:
    """Read an Arrow file without copying."""
    with pa.memory_map(path) as file:
        mapped = file.read_buffer()
    return _Table(_stream(pa.BufferReader(mapped)).read_all(), path, mapped)


def _unpack(
    path: str, chosen: Sequence[str], batches: Iterator[pa.RecordBatch], cache: Path
) -> str:
    """Write rows as plain Arrow, unless that has been done before; return where.

    Of several processes, such as torchrun starts, one does it and the others wait.
    """
    status = os.stat(path)
    key = repr((os.path.abspath(path), status.st_size, status.st_mtime_ns, *chosen))
    target = cache / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.arrow"
    if target.exists():
        return str(target)
    guard = filelock.FileLock(f"{cache}.lock")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        guard.acquire()
    except OSError as error:
        raise output_error(cache, error) from error
    try:
        if not target.exists():
            _write(target, _read(batches, path), path)
    finally:
        guard.release()
    return str(target)


def _write(target: Path, batches: Iterator[pa.RecordBatch], path: str) -> None:
    with atomic(target) as file:
        writer = None
        for batch in batches:
            writer = writer or pa.ipc.new_stream(file, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise DatasetError(f"{path}: has no rows")
        writer.close()


def _read(batches: Iterator[pa.RecordBatch], path: str) -> Iterator[pa.RecordBatch]:
    with _errors_named(path):  # what cannot be read is no fault of the file that is written
        yield from batches
