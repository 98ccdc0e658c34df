"""`sinks`: every format to every place, complete, interrupted and failing."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from resnext.errors import ConfigError, EngineError, MissingExtraError, OutputError
from resnext.predictions import ImageResult, Prediction
from resnext.results import sinks
from resnext.results.sinks import Embedding, format_of, open_embedding_sink, open_sink

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs pip install 'resnext[parquet]'"
)
PARQUET = pytest.param("parquet", marks=needs_pyarrow)
TEXTS = ("table", "json", "jsonl", "csv")

CAT = Prediction(label="cat", probability=0.75, index=3, synset_id="n1")
DOG = Prediction(label="dog", probability=0.25, index=5)
RESULTS = [
    ImageResult(source="a.jpg", predictions=(CAT, DOG)),
    ImageResult(source="b.jpg", error="the file is empty"),
    ImageResult(source="c.jpg", predictions=(DOG,), rejected=True),
]
ROWS = [
    ("a.jpg", 1, "cat", 0.75, 3, "n1", False, None),
    ("a.jpg", 2, "dog", 0.25, 5, None, False, None),
    ("b.jpg", None, None, None, None, None, False, "the file is empty"),
    ("c.jpg", 1, "dog", 0.25, 5, None, True, None),
]


def _read_parquet(path: Path) -> list[tuple[object, ...]]:
    import pyarrow.parquet as pq

    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def _write(format: str, target: Path, results: list[ImageResult]) -> None:
    with open_sink(format, target) as sink:
        for result in results:
            sink.write(result)


class _Interrupted(Exception):
    pass


def _interrupt(format: str, target: Path, after: int = 2) -> Path | None:
    with pytest.raises(_Interrupted), open_sink(format, target) as sink:
        for result in RESULTS[:after]:
            sink.write(result)
        raise _Interrupted
    return sink.partial


@pytest.mark.parametrize("format", TEXTS)
def test_a_file_holds_what_a_stream_gets(format: str, tmp_path: Path) -> None:
    stream = io.StringIO()
    with open_sink(format, stream) as sink:
        for result in RESULTS:
            sink.write(result)
    _write(format, tmp_path / "out", RESULTS)
    assert (tmp_path / "out").read_bytes() == stream.getvalue().encode()
    assert sink.count == 3
    assert not stream.closed


@pytest.mark.parametrize("format", TEXTS)
def test_a_stream_gets_each_result_at_once(format: str) -> None:
    stream = io.StringIO()
    sink = open_sink(format, stream)
    for result in RESULTS:
        sink.write(result)
        assert result.source in stream.getvalue()
    sink.close()


def test_json_reads_back(tmp_path: Path) -> None:
    _write("json", tmp_path / "a.json", RESULTS)
    assert json.loads((tmp_path / "a.json").read_text()) == [r.to_json() for r in RESULTS]


def test_csv_reads_back(tmp_path: Path) -> None:
    _write("csv", tmp_path / "a.csv", RESULTS)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows if row["rank"] == "1"] == ["cat", "dog"]
    assert [row["source"] for row in rows if row["error"]] == ["b.jpg"]


@needs_pyarrow
def test_parquet_reads_back(tmp_path: Path) -> None:
    _write("parquet", tmp_path / "a.parquet", RESULTS)
    assert _read_parquet(tmp_path / "a.parquet") == ROWS


@needs_pyarrow
def test_parquet_escapes_what_is_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xff.jpg")
    _write("parquet", tmp_path / "a.parquet", [ImageResult(source=name, error="x")])
    assert _read_parquet(tmp_path / "a.parquet")[0][0] == r"caf\udcff.jpg"


@pytest.mark.parametrize(
    ("format", "empty"),
    [
        ("table", ""),
        ("json", "[\n\n]\n"),
        ("jsonl", ""),
        ("csv", "source,rank,label,probability,index,synset_id,rejected,error\n"),
    ],
)
def test_no_results_are_an_empty_document(format: str, empty: str, tmp_path: Path) -> None:
    _write(format, tmp_path / "out", [])
    assert (tmp_path / "out").read_text() == empty


@needs_pyarrow
def test_no_results_are_an_empty_parquet_table(tmp_path: Path) -> None:
    _write("parquet", tmp_path / "out", [])
    assert _read_parquet(tmp_path / "out") == []


@pytest.mark.parametrize("format", [*TEXTS, PARQUET])
def test_an_interruption_keeps_what_was_done(format: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    _write(format, target, RESULTS)
    complete = target.read_bytes()
    _write(format, tmp_path / "expected", RESULTS[:2])
    assert _interrupt(format, target) == tmp_path / "out.partial"
    assert target.read_bytes() == complete
    assert (tmp_path / "out.partial").read_bytes() == (tmp_path / "expected").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["expected", "out", "out.partial"]


@pytest.mark.parametrize("format", [*TEXTS, PARQUET])
def test_an_interruption_before_the_first_result_leaves_nothing(
    format: str, tmp_path: Path
) -> None:
    assert _interrupt(format, tmp_path / "out", after=0) is None
    assert os.listdir(tmp_path) == []


def test_an_interrupted_stream_ends_as_a_whole_document() -> None:
    stream = io.StringIO()
    with pytest.raises(_Interrupted), open_sink("json", stream) as sink:
        sink.write(RESULTS[0])
        raise _Interrupted
    assert json.loads(stream.getvalue()) == [RESULTS[0].to_json()]
    assert sink.partial is None


def test_a_reader_that_left_is_not_an_output_error() -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError), open_sink("json", Pipe()) as sink:
        sink.write(RESULTS[0])


@pytest.mark.parametrize("format", [*TEXTS, PARQUET])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_disk_is_an_output_error(format: str) -> None:
    with (
        pytest.raises(OutputError, match="/dev/full: the disk is full"),
        open_sink(format, "/dev/full") as sink,
    ):
        sink.write(RESULTS[0])


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    sink = open_sink("csv", tmp_path / "a.csv")
    sink.close()
    sink.close()
    sink.abort()
    assert os.listdir(tmp_path) == ["a.csv"]


def test_closing_that_fails_keeps_what_was_done(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    sink = open_sink("json", target)
    sink.write(RESULTS[0])
    target.mkdir()
    with pytest.raises(OutputError, match="a.json: cannot be written"):
        sink.close()
    assert sink.partial == tmp_path / "a.json.partial"
    assert json.loads(sink.partial.read_text()) == [RESULTS[0].to_json()]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", "csv"),
        ("A.CSV", "csv"),
        ("a.b.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.txt", "table"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
    ],
)
def test_a_suffix_names_a_format(name: str, format: str) -> None:
    assert format_of(name) == format


@pytest.mark.parametrize("name", ["a", "a.xlsx", "csv"])
def test_another_suffix_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the suffix names none of the formats table, json"):
        format_of(name)


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="format is 'jsnl'; expected one of table, json"):
        open_sink("jsnl", io.StringIO())


def test_parquet_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="parquet cannot go to a stream"):
        open_sink("parquet", io.StringIO())


def test_parquet_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, *, extra: str) -> None:
        raise MissingExtraError("`pyarrow` is not installed", hint=f"resnext[{extra}]")

    monkeypatch.setattr(sinks, "import_extra", absent)
    with pytest.raises(MissingExtraError, match=r"resnext\[parquet\]"):
        open_sink("parquet", tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _table_on(terminal: io.StringIO) -> str:
    with open_sink("table", terminal) as sink:
        sink.write(RESULTS[0])
    return terminal.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="Windows consoles differ")
def test_only_a_terminal_gets_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in _table_on(_Terminal())
    assert "\x1b[" not in _table_on(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in _table_on(_Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in _table_on(_Terminal())


VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
SOURCES = ["a.jpg", os.fsdecode(b"caf\xff\n.jpg"), "猫.jpg"]


def _embed(format: str, target: Path, count: int = 3) -> None:
    with open_embedding_sink(format, target, embedding_size=4) as sink:
        for source, vector in zip(SOURCES[:count], VECTORS[:count], strict=True):
            sink.write(Embedding(source, vector))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_numpy_reads_back_with_its_names(count: int, tmp_path: Path) -> None:
    _embed("npy", tmp_path / "a.npy", count)
    array = np.load(tmp_path / "a.npy")
    assert array.shape == (count, 4)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, VECTORS[:count])
    assert json.loads((tmp_path / "a.sources.json").read_text()) == SOURCES[:count]
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.sources.json"]


def test_numpy_can_map_the_file_into_memory(tmp_path: Path) -> None:
    _embed("npy", tmp_path / "a.npy")
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, VECTORS)


@needs_pyarrow
def test_embeddings_in_parquet_read_back(tmp_path: Path) -> None:
    _embed("parquet", tmp_path / "a.parquet")
    rows = _read_parquet(tmp_path / "a.parquet")
    assert [row[0] for row in rows] == ["a.jpg", "caf\\udcff\n.jpg", "猫.jpg"]
    np.testing.assert_array_equal(np.float32([row[1] for row in rows]), VECTORS)


def test_interrupted_embeddings_are_kept_with_their_names(tmp_path: Path) -> None:
    _embed("npy", tmp_path / "a.npy")
    with (
        pytest.raises(_Interrupted),
        open_embedding_sink("npy", tmp_path / "a.npy", embedding_size=4) as sink,
    ):
        sink.write(Embedding("x.jpg", VECTORS[0]))
        raise _Interrupted
    assert sink.partial == tmp_path / "a.npy.partial"
    np.testing.assert_array_equal(np.load(sink.partial), VECTORS[:1])
    assert json.loads((tmp_path / "a.sources.json.partial").read_text()) == ["x.jpg"]
    assert len(np.load(tmp_path / "a.npy")) == 3
    assert len(json.loads((tmp_path / "a.sources.json").read_text())) == 3


def test_embeddings_of_another_size_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"shape \(3,\); expected \(4,\)"),
        open_embedding_sink("npy", tmp_path / "a.npy", embedding_size=4) as sink,
    ):
        sink.write(Embedding("a.jpg", np.zeros(3, np.float32)))
    assert os.listdir(tmp_path) == []


def test_embeddings_have_their_own_formats(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'csv'; expected one of npy, parquet"):
        open_embedding_sink("csv", tmp_path / "a.csv", embedding_size=4)
    assert format_of("a.npy", sinks.EMBEDDING_FORMATS) == "npy"


def test_an_array_that_cannot_be_created_leaves_no_names(tmp_path: Path) -> None:
    (tmp_path / "a.npy").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        open_embedding_sink("npy", tmp_path / "a.npy", embedding_size=4)
    assert os.listdir(tmp_path) == ["a.npy"]
