"""Way 5: results to a stream or a file (text, Parquet, NumPy).

A stream, such as standard output, gets each result as soon as it is known. A file takes
its name only when it is complete; an interrupted run leaves `<name>.partial`, readable.
"""

from __future__ import annotations

import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnext.errors import ConfigError, EngineError, OutputError, closest, import_extra
from resnext.predictions import ImageResult
from resnext.results.formats import COLUMNS, TEXT_FORMATS, TextFormat, encodable, rows, text_format
from resnext.results.outputs import OutputFile, OutputStream

FORMATS = (*TEXT_FORMATS, "parquet")
EMBEDDING_FORMATS = ("npy", "parquet")

_SUFFIX_FORMATS = {"ndjson": "jsonl", "txt": "table", "pq": "parquet"}

PathLike = str | os.PathLike[str]
Row = TypeVar("Row")


class Embedding(NamedTuple):
    """Name of a picture and its (D,) float32 features."""

    source: str
    vector: NDArray[np.float32]


class AbstractSink(ABC, Generic[Row]):
    """Takes rows one at a time.

    As a context manager it closes at the end, and aborts on an exception.

    Attributes:
        count: Number of rows written.
        partial: Where an aborted run left what it had written, or None.
    """

    # Whether what is in the file can be read although `_finish` failed.
    _readable_unfinished = False

    def __init__(self, *outputs: OutputFile | OutputStream) -> None:
        self.count = 0
        self.partial: Path | None = None
        self._outputs = outputs  # the one that counts as the result comes last
        self._finished = self._closed = False

    def write(self, row: Row) -> None:
        """Write one row.

        Raises:
            OutputError: It cannot be written.
        """
        self._write(row)
        self.count += 1

    def close(self) -> None:
        """Complete the output: a file takes its final name.

        Raises:
            OutputError: It cannot be completed.
        """
        if self._closed:
            return
        try:
            self._finish()
            self._finished = True
            for output in self._outputs:
                output.commit()
        except BaseException:
            self.abort()
            raise
        self._closed = True

    def abort(self) -> None:
        """Stop early: a file keeps its old content, `partial` gets what was written."""
        if self._closed:
            return
        self._closed = True
        if not self._finished:
            with suppress(OSError, ValueError):
                self._finish()
                self._finished = True
        readable = self._finished or self._readable_unfinished
        for output in self._outputs:
            self.partial = output.keep() if readable and self.count else output.discard()

    @abstractmethod
    def _write(self, row: Row) -> None:
        """Write one row."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what makes the rows so far a complete file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()


def open_sink(
    format: str, target: PathLike | TextIO, *, top_k: int = 5
) -> AbstractSink[ImageResult]:
    """Open a sink for predictions.

    Args:
        format: One of `FORMATS`.
        target: Name of a file, or a text stream, which is flushed after every result and
            left open. Parquet needs a file.
        top_k: Predictions a picture; with 1, the table has one line a picture.

    Raises:
        ConfigError: There is no such format, or it cannot go to a stream.
        OutputError: The file cannot be created.
        MissingExtraError: The format needs an extra.

    Example:
        >>> import sys
        >>> with open_sink("csv", sys.stdout) as sink:
        ...     sink.write(ImageResult(source="a.jpg", error="empty file"))
        source,rank,label,probability,index,synset_id,rejected,error
        a.jpg,,,,,,false,empty file
    """
    _check_format(format, FORMATS)
    if isinstance(target, str | os.PathLike):
        if format == "parquet":
            return _ParquetSink(target, COLUMNS, rows)
        return _TextSink(text_format(format, top_k=top_k), OutputFile(target))
    if format == "parquet":
        raise ConfigError("format parquet cannot go to a stream", hint="give a file with -o")
    encoding, color = target.encoding or "utf-8", _wants_color(target)
    lines = text_format(format, encoding=encoding, top_k=top_k, color=color)
    return _TextSink(lines, OutputStream(target))


def open_embedding_sink(
    format: str, target: PathLike, *, embedding_size: int
) -> AbstractSink[Embedding]:
    """Open a sink for embeddings.

    Args:
        format: "npy", an (N, D) float32 array with the N names beside it in
            `<stem>.sources.json`; or "parquet", with columns `source` and `embedding`.
        target: Name of a file.
        embedding_size: D.

    Raises:
        ConfigError: There is no such format.
        OutputError: The file cannot be created.
        MissingExtraError: The format needs an extra.
    """
    _check_format(format, EMBEDDING_FORMATS)
    if format == "parquet":
        columns: Mapping[str, str | int] = {"source": "string", "embedding": embedding_size}
        return _ParquetSink(target, columns, lambda row: [row])
    return _NumpySink(target, embedding_size)


def format_of(path: PathLike, formats: Sequence[str] = FORMATS) -> str:
    """Return the format that the suffix of a file name stands for.

    Args:
        path: Such as `results.csv`; `.ndjson`, `.txt` and `.pq` are known too.
        formats: The formats to choose from.

    Raises:
        ConfigError: The suffix stands for none of them.
    """
    name = named_format(path)
    if name not in formats:
        raise ConfigError(
            f"{os.fspath(path)}: the suffix names none of the formats {', '.join(formats)}",
            hint="rename the output"
            + (", or name the format with --format" if "table" in formats else ""),
        )
    return name


def named_format(path: PathLike) -> str:
    """Return the suffix of a file name, or the format that it is another name of."""
    suffix = Path(path).suffix[1:].lower()
    return _SUFFIX_FORMATS.get(suffix, suffix)


def _check_format(format: str, formats: Sequence[str]) -> None:
    if format not in formats:
        near = closest(format, formats)
        raise ConfigError(
            f"format is {format!r}; expected one of {', '.join(formats)}",
            hint=f"did you mean {near[0]}?" if near else "",
        )


def _wants_color(stream: TextIO) -> bool:
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # Of the Windows consoles only Windows Terminal obeys ANSI codes without being asked to.
    return os.name == "posix" or "WT_SESSION" in os.environ


class _TextSink(AbstractSink[ImageResult]):
    _readable_unfinished = True

    def __init__(self, lines: TextFormat, output: OutputFile | OutputStream) -> None:
        super().__init__(output)
        self._lines, self._output = lines, output

    def _write(self, row: ImageResult) -> None:
        lines = self._lines
        before = lines.separator if self.count else lines.head
        self._output.append(before + lines.row(row))

    def _finish(self) -> None:
        before = "" if self.count else self._lines.head
        self._output.append(before + self._lines.tail)


class _ParquetSink(AbstractSink[Row]):
    def __init__(
        self,
        path: PathLike,
        columns: Mapping[str, str | int],
        to_rows: Callable[[Row], Iterable[Sequence[Any]]],
    ) -> None:
        parquet = import_extra("resnext.results.parquet", extra="parquet")
        self._file = OutputFile(path)
        super().__init__(self._file)
        self._to_rows = to_rows
        self._writer = parquet.RowWriter(self._file.raw, columns)

    def _write(self, row: Row) -> None:
        with self._file.naming_errors():
            for values in self._to_rows(row):
                self._writer.add([encodable(v) if isinstance(v, str) else v for v in values])

    def _finish(self) -> None:
        with self._file.naming_errors():
            self._writer.close()


class _NumpySink(AbstractSink[Embedding]):
    """Rows go to the file as they come; at last the header says how many."""

    def __init__(self, path: PathLike, embedding_size: int) -> None:
        self._names = OutputFile(Path(path).with_suffix(".sources.json"))
        try:
            self._array = OutputFile(path)
        except OutputError:
            self._names.discard()
            raise
        # The names appear first: whoever sees the array finds what its rows are.
        super().__init__(self._names, self._array)
        self._size = embedding_size

    def _write(self, row: Embedding) -> None:
        vector = np.ascontiguousarray(row.vector, "<f4")
        if vector.shape != (self._size,):
            raise EngineError(f"an embedding has shape {vector.shape}; expected ({self._size},)")
        self._array.append((b"" if self.count else self._header()) + vector.tobytes())
        self._names.append((",\n" if self.count else "[\n") + json.dumps(row.source))

    def _finish(self) -> None:
        self._names.append("\n]\n" if self.count else "[]\n")
        with self._array.naming_errors():
            self._array.raw.seek(0)
            self._array.raw.write(self._header())

    def _header(self) -> bytes:
        # NumPy pads the header so that the number of rows can grow in place.
        header = io.BytesIO()
        shape = (self.count, self._size)
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        return header.getvalue()
