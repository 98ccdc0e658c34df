"""Way 5, as text: a result as table block, JSON, JSON line or CSV rows.

Text that the output cannot hold is escaped, never lost and never an error: a byte of a
file name that is not UTF-8 becomes `\\udcNN`, and in tables control characters, which
could drive a terminal, become `\\x1b` and the like.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnext.predictions import ImageResult

# One row per picture and rank, in CSV and Parquet alike; the values are Arrow type names.
COLUMNS: Mapping[str, str | int] = {
    "source": "string",
    "rank": "int32",
    "label": "string",
    "probability": "double",
    "index": "int32",
    "synset_id": "string",
    "rejected": "bool",
    "error": "string",
}
TEXT_FORMATS = ("table", "json", "jsonl", "csv")

_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
# Joiners make one emoji out of several; every other format character can deceive the eye.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How results become text: `head`, rows with `separator` between them, `tail`."""

    row: Callable[[ImageResult], str]
    head: str = ""
    separator: str = ""
    tail: str = ""


def text_format(
    name: str, *, encoding: str = "utf-8", top_k: int = 5, color: bool = False
) -> TextFormat:
    """Return the text format of this name.

    Args:
        name: One of `TEXT_FORMATS`.
        encoding: Encoding of the output; what it cannot hold is escaped.
        top_k: Predictions a picture; with 1, the table has one line a picture.
        color: Whether the table may use ANSI colors.
    """
    if name == "jsonl":
        return TextFormat(row=lambda result: _json(result, encoding) + "\n")
    if name == "json":
        return TextFormat(
            row=lambda result: _json(result, encoding), head="[\n", separator=",\n", tail="\n]\n"
        )
    if name == "csv":
        return TextFormat(
            row=lambda result: encodable(_csv(result), encoding), head=",".join(COLUMNS) + "\n"
        )
    paint = _ansi if color else _no_ansi
    if top_k == 1:
        return TextFormat(row=lambda result: encodable(_line(result, paint), encoding))
    return TextFormat(row=lambda result: encodable(_block(result, paint), encoding), separator="\n")


def rows(result: ImageResult) -> list[tuple[Any, ...]]:
    """Return the rows of one result, in the order of `COLUMNS`.

    A picture that failed has one row, with an `error` and without a rank.
    """
    common = {"source": result.source, "rejected": result.rejected, "error": result.error}
    records = [
        common | prediction.to_json() | {"rank": rank}
        for rank, prediction in enumerate(result.predictions, start=1)
    ]
    return [tuple(map(record.get, COLUMNS)) for record in records or [common]]


def encodable(text: str, encoding: str = "utf-8") -> str:
    """Escape what the encoding cannot hold, such as `\\udcff` for a byte 0xff in a name."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable(text: str) -> str:
    """Escape control and invisible format characters; letters and emoji stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    if character in _JOINERS or category not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode("ascii")


def _json(result: ImageResult, encoding: str) -> str:
    document = result.to_json()
    text = json.dumps(document, ensure_ascii=False)
    # Pure ASCII keeps lone surrogates, and line separators that some readers split at.
    if text.isprintable() and encodable(text, encoding) == text:
        return text
    return json.dumps(document)


def _csv(result: ImageResult) -> str:
    return "".join(",".join(map(_csv_field, COLUMNS, row)) + "\n" for row in rows(result))


def _csv_field(column: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    text = _defused(value, "./" if column == "source" else "'")
    # Not the csv module: it leaves a lone carriage return bare (Python 3.11), which ends
    # the row in most readers.
    if any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _defused(text: str, prefix: str) -> str:
    """Keep a spreadsheet from running a name such as `=HYPERLINK(...)` as a formula."""
    if len(text) > 1 and text[0] in "=+-@\t\r" and not _NUMBER.fullmatch(text):
        return prefix + text
    return text


def _no_ansi(text: str, _: str) -> str:
    return text


def _ansi(text: str, style: str) -> str:
    return f"{style}{text}{_PLAIN}"


def _block(result: ImageResult, paint: Callable[[str, str], str]) -> str:
    """Show a picture as its name and one line for each prediction."""
    note = " (rejected: the model is not sure)" if result.rejected else ""
    lines = [paint(printable(result.source), _BOLD) + note]
    if result.error is not None:
        lines.append(paint(f"  error: {printable(result.error)}", _RED))
    labels = [printable(prediction.label) for prediction in result.predictions]
    width = max(map(_columns, labels), default=0)
    for prediction, label in zip(result.predictions, labels, strict=True):
        line = f"  {prediction.probability:6.1%}  {label}"
        if prediction.synset_id is not None:
            line += " " * (width - _columns(label) + 2)
            line += paint(printable(prediction.synset_id), _DIM)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _line(result: ImageResult, paint: Callable[[str, str], str]) -> str:
    """Show a picture and its best prediction on one line."""
    source = paint(printable(result.source), _BOLD)
    if result.error is not None:
        return f"{source}: " + paint(f"error: {printable(result.error)}", _RED) + "\n"
    best = result.predictions[0]
    doubt = "rejected, at best " if result.rejected else ""
    return f"{source}: {doubt}{printable(best.label)} ({best.probability:.1%})\n"


def _columns(text: str) -> int:
    """Count the terminal columns of a text: East Asian letters and emoji take two."""
    return sum(
        0
        if unicodedata.combining(character) or character in _JOINERS
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
