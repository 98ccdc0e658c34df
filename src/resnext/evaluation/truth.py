"""Pictures with right answers: every layout, and ImageNet's own.

ImageNet's validation pictures lie in class folders, or flat beside a file of answers. A
number in such a file means what the file's kind says: ILSVRC ids count from 1 in an order of
their own, Caffe's and ReaL's numbers from 0 in the order of the synset ids.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from resnext.catalogue import imagenet1k
from resnext.errors import DatasetError, counted
from resnext.sources import EXTENSIONS, iter_sources
from resnext.training.folders import files, subfolders
from resnext.training.layouts import read_layout
from resnext.training.listing import Entry, class_name, few, part_of, sort_names

# Files of answers that are found by themselves, beside flat pictures or one folder above.
KNOWN_FILES = (
    "val_annotations.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
)

_ASSETS = Path(__file__).parent.with_name("assets")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\b")
_SYNSET = re.compile(r"n\d{8}")
_TINY = KNOWN_FILES[0]
_HINT = f"give the file of answers with --labels, such as {KNOWN_FILES[-1]}"

Answers = tuple[str, ...]
Lines = Sequence[tuple[int, list[str]]]  # number in the file, from 1, and words


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """Pictures and what is right for each.

    Args:
        entries: The pictures; one of several classes is right with any of them, and one of
            none counts for nothing.
        classes: Names of the classes that have a picture, in order.
        layout: What was found, for people.
        notes: What one should know, one sentence each.
    """

    entries: Sequence[Entry]
    classes: tuple[str, ...]
    layout: str
    notes: tuple[str, ...] = ()


def open_truth(
    path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None
) -> Truth:
    """Find pictures and their right answers.

    Args:
        path: What `open_data` takes, of which the part to validate on is used; or a folder
            of ImageNet's validation pictures.
        labels: File of answers, which then count alone: ILSVRC's ground truth, a synset id
            a line, Kaggle's LOC_val_solution.csv, Caffe's val.txt, Tiny ImageNet's
            val_annotations.txt or ReaL's real.json.

    Raises:
        DatasetError: There is no picture, or no answer for one.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    place = os.path.abspath(os.fsdecode(path))
    notes: tuple[str, ...] = ()
    part = _part_to_validate_on(place)
    if part:
        notes = (f"the part `{part}` is evaluated",)
        place = os.path.join(place, part)
    answers = _find_answers(place) if labels is None else os.path.abspath(os.fsdecode(labels))
    if answers is not None:
        return _with_answers(place, answers, notes)
    if _is_flat(place):
        raise DatasetError(
            f"{place}: its pictures are in no class folder, and there is no file of answers"
            f" ({', '.join(KNOWN_FILES)}) beside them",
            hint=_HINT,
        )
    listing = read_layout(place)
    entries = listing.train if listing.val is None else listing.val
    if listing.val is not None:
        notes += ("the part to validate on is evaluated",)
    notes += tuple(note for note in listing.notes if "`test` is not used" not in note)
    order = listing.classes or ()
    return _truth(entries, order, "class folders or a table", notes)


def _truth(
    entries: Sequence[Entry], order: Sequence[str], layout: str, notes: tuple[str, ...]
) -> Truth:
    if not entries:
        raise DatasetError("there is no picture; expected at least one")
    found = {name for entry in entries for name in entry.classes}
    if not found:
        raise DatasetError(f"none of the {counted(len(entries), 'picture')} has a class")
    given = tuple(name for name in order if name in found)
    classes = given if len(given) == len(found) else sort_names(found)
    return Truth(entries=entries, classes=classes, layout=layout, notes=notes)


def _part_to_validate_on(place: str) -> str | None:
    """Return the folder to validate on, where the folders are parts and it has pictures.

    `read_layout` would list the part to learn from as well: a million files of ImageNet.
    """
    if not os.path.isdir(place):
        return None
    names = subfolders(place)
    parts = {part: name for name in reversed(names) if (part := part_of(name))}
    # A class may be called `train` as well; then other classes stand beside it.
    if not parts or len(parts) not in (len(names), 2, 3):
        return None
    name = parts.get("val") or parts.get("test")
    if name is None:
        return None
    inner = os.path.join(place, name)
    return name if subfolders(inner) or files(inner, EXTENSIONS) else None


def _is_flat(place: str) -> bool:
    return os.path.isdir(place) and not subfolders(place) and bool(files(place, EXTENSIONS))


def _find_answers(place: str) -> str | None:
    """Return the file of answers that belongs to flat pictures, or None."""
    if not os.path.isdir(place):
        return None
    if os.path.isfile(os.path.join(place, _TINY)):
        return os.path.join(place, _TINY)
    if not _is_flat(place):
        return None
    folders = (place, os.path.dirname(place))
    beside = (os.path.join(folder, name) for folder in folders for name in KNOWN_FILES)
    return next((path for path in beside if os.path.isfile(path)), None)


def _with_answers(place: str, path: str, notes: tuple[str, ...]) -> Truth:
    if not os.path.isdir(place):
        raise DatasetError(f"{place} is no folder; a file of answers is for a folder of pictures")
    root = os.path.join(place, "")
    pictures = sorted(
        (source.name.removeprefix(root).replace(os.sep, "/"), source.name)
        for source in iter_sources([place])
        if not source.problem
    )
    if not pictures:
        raise DatasetError(f"{place}: there is no picture")
    rows, kind = read_answers(path, [name for name, _ in pictures], folder=place)
    entries = [Entry(name, full, row) for (name, full), row in zip(pictures, rows, strict=True)]
    without = sum(not entry.classes for entry in entries)
    if without:
        notes += (
            f"{counted(without, 'picture has', 'pictures have')} no label in"
            f" {os.path.basename(path)}: left out",
        )
    notes += (f"answers from {os.path.basename(path)}: {kind}",)
    return _truth(entries, imagenet1k().synset_ids or (), kind, notes)


def read_answers(
    path: str, pictures: Sequence[str], *, folder: str
) -> tuple[Sequence[Answers], str]:
    """Read a file of answers.

    Args:
        path: The file.
        pictures: Names of the pictures below the folder, sorted: line by line files follow
            that order where the names have no number of their own.
        folder: The folder, for lines that name a picture from above it.

    Returns:
        The classes of each picture, and what kind of file it is.

    Raises:
        DatasetError: The file is none of those known, is of other pictures, or does not say
            which line is whose.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    if path.lower().endswith(".json"):
        return _by_position(path, _read_real(path, text), pictures), "ReaL labels"
    lines = [
        (number, line.split())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not lines:
        raise DatasetError(f"{path} is empty", hint=_HINT)
    _, words = lines[0]
    if words[0].lower().startswith("imageid,"):
        return _by_name(path, _read_kaggle(path, text), pictures, folder), "Kaggle's table"
    if len(words) == 1:
        column, kind = _read_column(path, lines)
        return _by_position(path, column, pictures), kind
    return _by_name(path, _read_pairs(path, lines), pictures, folder), "names and classes"


def _read_real(path: str, text: str) -> list[Answers]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON: {error}") from error
    ids = imagenet1k().synset_ids or ()
    good = isinstance(rows, list) and all(
        isinstance(row, list) and all(_is_index(number, len(ids)) for number in row) for row in rows
    )
    if not good:
        raise DatasetError(
            f"{path}: expected a list of labels, 0 to {len(ids) - 1}, for each picture, as ReaL has"
        )
    return [tuple(ids[number] for number in row) for row in rows]


def _read_kaggle(path: str, text: str) -> dict[str, Answers]:
    """Read `ImageId,PredictionString` rows; each box has a synset id and four numbers."""
    found: dict[str, Answers] = {}
    for row in list(csv.reader(text.splitlines()))[1:]:
        ids = tuple(dict.fromkeys(row[1].split()[::5])) if len(row) == 2 else ()
        if not ids or not all(map(_SYNSET.fullmatch, ids)):
            raise DatasetError(f"{path}: {few(row)!r} is no picture with boxes of synset ids")
        _add(path, found, row[0], ids)
    return found


def _read_column(path: str, lines: Lines) -> tuple[list[Answers], str]:
    for number, words in lines:
        if len(words) > 1:
            raise DatasetError(
                f"{path}: line {number} has {len(words)} words; expected one, as before it"
            )
    values = [words[0] for _, words in lines]
    if all(map(_SYNSET.fullmatch, values)):
        return [(value,) for value in values], "a synset id a line"
    order = ilsvrc_order()
    if not all(value.isascii() and value.isdigit() for value in values):
        raise DatasetError(f"{path}: {few(values)}: expected synset ids, or ILSVRC ids", hint=_HINT)
    numbers = [int(value) for value in values]
    if not all(1 <= number <= len(order) for number in numbers):
        raise DatasetError(
            f"{path}: has numbers from {min(numbers)} to {max(numbers)}; expected ILSVRC ids, 1"
            f" to {len(order)}",
            hint="numbers that count synset ids from 0 need the name of the picture before them",
        )
    return [(order[number - 1],) for number in numbers], "an ILSVRC id a line"


def _read_pairs(path: str, lines: Lines) -> dict[str, Answers]:
    """Read `name class ...` lines: a synset id, or its number from 0 as Caffe counts."""
    ids = imagenet1k().synset_ids or ()
    found: dict[str, Answers] = {}
    for number, (name, *rest) in lines:
        value = rest[0] if rest else ""
        if value.isascii() and value.isdigit() and _is_index(int(value), len(ids)):
            value = ids[int(value)]
        elif not _SYNSET.fullmatch(value):
            raise DatasetError(
                f"{path}: line {number}: {name} has {value!r}; expected a synset id, or a number of"
                " one from 0"
            )
        _add(path, found, name, (class_name(value),))
    return found


def _add(path: str, found: dict[str, Answers], name: str, answers: Answers) -> None:
    name = posixpath.normpath(name)
    if name in found:
        raise DatasetError(f"{path}: has {name} twice; expected one line for each picture")
    found[name] = answers


def _by_name(
    path: str, found: Mapping[str, Answers], pictures: Sequence[str], folder: str
) -> list[Answers]:
    """Look up by as much of the path as a line has, or by a file name that none shares."""
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for line in found:
        by_file[posixpath.basename(line)].append(line)
    counts = Counter(map(posixpath.basename, pictures))
    taken: dict[str, str] = {}
    for picture in pictures:
        file = posixpath.basename(picture)
        lines = _lines_of(f"{folder}/{picture}".replace(os.sep, "/"), found)
        if not lines and counts[file] == 1:
            lines = by_file.get(file) or by_file.get(os.path.splitext(file)[0], [])
        if not lines:
            raise DatasetError(f"{path}: has no line for {picture}")
        other = taken.setdefault(lines[0], picture)
        if len(lines) > 1 or other != picture:
            shown = few(lines) if len(lines) > 1 else f"{lines[0]}, as may {other}"
            raise DatasetError(
                f"{path}: {picture} may be {shown}",
                hint=f"name the pictures as below {folder}, such as {picture}",
            )
    return [found[line] for line in taken]


def _lines_of(picture: str, found: Mapping[str, Answers]) -> list[str]:
    """Return the line with the longest end of a picture's path, with or without extension."""
    while picture:
        for name in (picture, os.path.splitext(picture)[0]):
            if name in found:
                return [name]
        picture = picture.partition("/")[2]
    return []


def _by_position(path: str, rows: Sequence[Answers], pictures: Sequence[str]) -> Sequence[Answers]:
    """Look up by the number in ImageNet's file names or, without one, by sorted name."""
    files = [posixpath.basename(name) for name in pictures]
    numbers = [int(found[1]) for name in files if (found := _NUMBER.match(name))]
    if len(numbers) < len(pictures):
        if len(rows) != len(pictures):
            raise DatasetError(
                f"{path}: has {counted(len(rows), 'line')} for"
                f" {counted(len(pictures), 'picture')}, whose names are not like"
                " ILSVRC2012_val_00000001.JPEG",
                hint="expected a line for each picture, in the order of their names",
            )
        if files != sorted(set(files)):
            raise DatasetError(
                f"{path}: has lines without names, and the pictures lie in several folders: their"
                " order is not clear",
                hint="write a name before each class",
            )
        return rows
    for name, number in zip(pictures, numbers, strict=True):
        if not 1 <= number <= len(rows):
            raise DatasetError(
                f"{path}: has lines 1 to {len(rows)}; {name} would have line {number}"
            )
    return [rows[number - 1] for number in numbers]


def _is_index(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


@cache
def ilsvrc_order() -> tuple[str, ...]:
    """Return the synset ids of ImageNet-1k in the order of their ILSVRC ids, from 1."""
    text = (_ASSETS / "ilsvrc2012.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["synset_ids"])
