"""`formats`: one result as text, whatever its name and labels hold."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.predictions import ImageResult, Prediction
from resnext.results import formats
from resnext.results.formats import text_format

CAT = Prediction(label="Egyptian cat", probability=0.7134567, index=285, synset_id="n02124075")
TABBY = Prediction(label="tabby", probability=0.098, index=281, synset_id="n02123045")
GOOD = ImageResult(source="cat.jpg", predictions=(CAT, TABBY))
FAILED = ImageResult(source="bad.jpg", error="the file is empty")
UNSURE = ImageResult(source="fog.jpg", predictions=(TABBY,), rejected=True)

# What a file system, a folder of classes or a hostile model file can hold.
any_text = st.text(st.characters(exclude_characters="\0"), min_size=1)
UNDECODABLE = os.fsdecode(b"caf\xff\xe9.jpg")


def _named(name: str, label: str = "cat") -> ImageResult:
    row = (Prediction(label=label, probability=0.5, index=0),)
    return ImageResult(source=name, predictions=row)


def _text(name: str, *results: ImageResult, **options: object) -> str:
    lines = text_format(name, **options)  # type: ignore[arg-type]
    return lines.head + lines.separator.join(map(lines.row, results)) + lines.tail


def test_json_is_one_list() -> None:
    assert json.loads(_text("json", GOOD, FAILED)) == [GOOD.to_json(), FAILED.to_json()]
    assert json.loads(_text("json")) == []


def test_json_lines_are_one_object_each() -> None:
    first, second = _text("jsonl", GOOD, FAILED).splitlines()
    assert json.loads(first) == GOOD.to_json()
    assert json.loads(second) == FAILED.to_json()


def test_json_shows_letters_of_any_script() -> None:
    assert '"source": "猫.jpg"' in _text("jsonl", _named("猫.jpg"))


@given(any_text, any_text)
def test_json_keeps_every_name_exactly(name: str, label: str) -> None:
    text = _text("jsonl", _named(name, label))
    assert len(text.encode().splitlines()) == len(text.splitlines()) == 1
    document = json.loads(text)
    assert (document["source"], document["predictions"][0]["label"]) == (name, label)


def test_json_keeps_the_bytes_of_a_name() -> None:
    name = json.loads(_text("jsonl", _named(UNDECODABLE)))["source"]
    assert os.fsencode(name) == b"caf\xff\xe9.jpg"


def test_csv_has_one_row_per_picture_and_rank() -> None:
    assert _text("csv", GOOD, FAILED, UNSURE).splitlines() == [
        "source,rank,label,probability,index,synset_id,rejected,error",
        "cat.jpg,1,Egyptian cat,0.713457,285,n02124075,false,",
        "cat.jpg,2,tabby,0.098,281,n02123045,false,",
        "bad.jpg,,,,,,false,the file is empty",
        "fog.jpg,1,tabby,0.098,281,n02123045,true,",
    ]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_csv_keeps_names_that_are_no_formulas(name: str) -> None:
    if name[0] in "=+-@\t\r":
        name = "x" + name
    text = _text("csv", _named(name, label=name))
    _, row = csv.reader(io.StringIO(text, newline=""))
    assert (row[0], row[2]) == (name, name)


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_csv_gives_a_spreadsheet_nothing_to_run(first: str) -> None:
    name = first + 'HYPERLINK("http://x","y").jpg'
    _, row = csv.reader(io.StringIO(_text("csv", _named(name, label=name)), newline=""))
    assert row[0] == "./" + name  # the same file
    assert row[2] == "'" + name


@pytest.mark.parametrize("label", ["-1", "+1", "-0.5", "-", "@"])
def test_csv_leaves_numbers_and_signs_alone(label: str) -> None:
    _, row = csv.reader(io.StringIO(_text("csv", _named("a.jpg", label=label))))
    assert row[2] == label


def test_the_table_shows_a_block_per_picture() -> None:
    assert _text("table", GOOD, FAILED, UNSURE) == (
        "cat.jpg\n"
        "   71.3%  Egyptian cat  n02124075\n"
        "    9.8%  tabby         n02123045\n"
        "\n"
        "bad.jpg\n"
        "  error: the file is empty\n"
        "\n"
        "fog.jpg (rejected: the model is not sure)\n"
        "    9.8%  tabby  n02123045\n"
    )


def test_the_table_has_one_line_per_picture_for_top_1() -> None:
    assert _text("table", GOOD, FAILED, UNSURE, top_k=1) == (
        "cat.jpg: Egyptian cat (71.3%)\n"
        "bad.jpg: error: the file is empty\n"
        "fog.jpg: rejected, at best tabby (9.8%)\n"
    )


def test_the_table_lines_up_wide_letters() -> None:
    result = ImageResult(
        source="a.jpg",
        predictions=(
            Prediction(label="猫", probability=0.5, index=0, synset_id="n1"),
            Prediction(label="cat", probability=0.5, index=1, synset_id="n2"),
        ),
    )
    assert _text("table", result).splitlines()[1:] == ["   50.0%  猫   n1", "   50.0%  cat  n2"]


def test_colors_add_nothing_but_colors() -> None:
    colored = _text("table", GOOD, FAILED, color=True)
    assert "\x1b[1mcat.jpg\x1b[0m" in colored
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"):
        colored = colored.replace(code, "")
    assert colored == _text("table", GOOD, FAILED)


@given(any_text, any_text)
def test_the_table_lets_no_name_drive_the_terminal(name: str, label: str) -> None:
    for top_k in (1, 5):
        text = _text("table", _named(name, label), top_k=top_k)
        assert len(text.splitlines()) == (1 if top_k == 1 else 2)
        assert not {"\x1b", "\r", "\x9b", "\u202e", "\u2028"} & set(text)


def test_the_table_keeps_joined_emoji() -> None:
    assert "👩\u200d🚀.jpg" in _text("table", _named("👩\u200d🚀.jpg"))


@pytest.mark.parametrize("name", formats.TEXT_FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("source", [UNDECODABLE, "猫.jpg", "\ud800.jpg", "é.jpg"])
def test_every_name_fits_every_encoding(name: str, encoding: str, source: str) -> None:
    text = _text(name, _named(source, label=source), encoding=encoding)
    assert text.encode(encoding).decode(encoding) == text


def test_what_cannot_be_encoded_is_escaped() -> None:
    assert _text("csv", _named(UNDECODABLE)).splitlines()[1].startswith(r"caf\udcff\udce9.jpg,")


def test_rows_follow_the_columns() -> None:
    assert list(formats.COLUMNS) == _text("csv").strip().split(",")
    assert formats.rows(FAILED) == [
        ("bad.jpg", None, None, None, None, None, False, "the file is empty")
    ]
