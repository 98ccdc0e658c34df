"""Labelled pictures from CSV, Parquet, and saved data sets."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from resnext.errors import DatasetError, import_extra
from resnext.hub.cache import cache_home
from resnext.training.listing import Listing, choose_parts, few, part_of
from resnext.training.rows import Row, by_part, make_listing

PICTURE_NAMES = (
    "path", "image_path", "filepath", "file_path", "filename", "file_name", "file", "image", "img"
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "class_name")
PART_NAMES = ("split",)


def read_csv(path: str) -> Listing:
    """Read a table of paths and labels, one picture a line; a tab or `;` may separate too.

    Args:
        path: Absolute path; what it names is relative to its folder.

    Raises:
        DatasetError: It is no such table, or a picture or label is missing.
    """
    return make_listing(by_part(list(_csv_rows(path)), path), path, os.path.dirname(path))


def read_parquet(parts: Mapping[str, Sequence[str]], top: str) -> Listing:
    """Read Parquet or Arrow files.

    Args:
        parts: Absolute paths of the files by "train", "val" and "test"; "" for all there is.
        top: Absolute path of their folder, which what they name is relative to.

    Raises:
        DatasetError: A file is damaged, lacks columns, or a picture or label is missing.
        MissingExtraError: pyarrow is not installed.
    """
    arrow = import_extra("resnext.training.arrow", extra="parquet")
    chosen = choose_parts(parts, top)
    files = {"train": chosen.train} | ({} if chosen.val is None else {"val": chosen.val})
    first = chosen.train[0]
    columns = _choose_columns(arrow, first)
    for path in (path for paths in files.values() for path in paths):
        if _choose_columns(arrow, path) != columns:
            raise DatasetError(f"{path} and {first} have other columns or other classes")
    rows = {
        part: [
            row
            for path in paths
            for row in arrow.read_rows(
                path,
                columns,
                name=os.path.relpath(path, top).replace(os.sep, "/"),
                cache=cache_home() / "datasets",
            )
        ]
        for part, paths in files.items()
    }
    grouped = rows if len(rows) > 1 else by_part(rows["train"], top)
    lists = arrow.is_list(first, columns.label)
    listing = make_listing(grouped, top, top, classes=columns.classes, lists=lists)
    return replace(listing, notes=chosen.notes + listing.notes)


def is_saved(folder: str) -> bool:
    """Tell whether `datasets.save_to_disk` made a folder."""
    return any(
        os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json")
    )


def read_saved(top: str) -> Listing:
    """Read what `datasets.save_to_disk` wrote: a data set, or one for each part.

    Args:
        top: Absolute path of the folder.

    Raises:
        DatasetError: As for `read_parquet`.
        MissingExtraError: pyarrow is not installed.
    """
    index = os.path.join(top, "dataset_dict.json")
    if not os.path.isfile(index):
        return read_parquet({"": _saved_files(top)}, top)
    splits = _read_json(index).get("splits") or []
    known = {part: split for split in splits if (part := part_of(str(split)))}
    if not known and len(splits) == 1:
        known = {"": splits[0]}
    if not known:
        raise DatasetError(f"{index} names the parts {few(splits)}; expected train and validation")
    return read_parquet(
        {part: _saved_files(os.path.join(top, split)) for part, split in known.items()}, top
    )


def _saved_files(folder: str) -> list[str]:
    state = _read_json(os.path.join(folder, "state.json"))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DatasetError(
            f"{folder} is a selection of rows that was saved by an old version of `datasets`",
            hint="load it and save it again with a newer version",
        )
    files = [os.path.join(folder, file["filename"]) for file in state.get("_data_files") or []]
    missing = [path for path in files if not os.path.isfile(path)]
    if missing or not files:
        raise DatasetError(f"{folder}: files of the data set are missing: {few(missing)}")
    return files


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    return document if isinstance(document, dict) else {}


def _csv_rows(path: str) -> Iterator[Row]:
    try:
        # Names of files can hold any bytes, and so can a table of them.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(header), strict=True)
            names = next(reader, [])
            picture, label, part = _choose_csv_columns(path, names)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise DatasetError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells; expected"
                        f" {len(names)}",
                        hint='write a path with a comma in quotes: "a,b.jpg"',
                    )
                yield Row(
                    f"line {reader.line_num}",
                    cells[picture],
                    cells[label],
                    None if part is None else cells[part],
                )
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num} is no CSV: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


def _delimiter(header: str) -> str:
    """Return what separates known names; a `;` in a label must not be taken for one."""
    for delimiter in ",\t;":
        names = [name.strip('"').lower() for name in header.strip().split(delimiter)]
        if len(names) > 1 and _find(names, PICTURE_NAMES) is not None:
            return delimiter
    return ","


def _choose_csv_columns(path: str, names: Sequence[str]) -> tuple[int, int, int | None]:
    places = [_find(names, wanted) for wanted in (PICTURE_NAMES, LABEL_NAMES, PART_NAMES)]
    if places[0] is None or places[1] is None:
        raise _no_columns(path, names)
    return places[0], places[1], places[2]


def _find(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the position of the first wanted name among names."""
    lower = [name.strip().lower() for name in names]
    return next((lower.index(name) for name in wanted if name in lower), None)


def _no_columns(path: str, names: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{path} has the columns {few(names) or 'of an empty file'}; expected one of"
        f" {', '.join(PICTURE_NAMES)} and one of {', '.join(LABEL_NAMES)}",
        hint="name them in the first line: path,label",
    )


def _choose_columns(arrow: ModuleType, path: str) -> Any:
    """Choose the columns of a Parquet or Arrow file.

    Raises:
        DatasetError: There is no picture or label, or too many to choose.
    """
    found = arrow.inspect(path)
    candidates = found.pictures or found.columns
    picture = _find(candidates, PICTURE_NAMES)
    if picture is None and len(found.pictures) == 1:
        picture = 0
    label = _find(found.columns, LABEL_NAMES)
    if label is None and len(found.class_names) == 1:
        label = found.columns.index(next(iter(found.class_names)))
    if picture is None or label is None:
        raise _no_columns(path, found.columns)
    part = _find(found.columns, PART_NAMES)
    name = found.columns[label]
    return arrow.Columns(
        picture=candidates[picture],
        label=name,
        part=None if part is None else found.columns[part],
        classes=found.class_names.get(name),
    )
