"""From the rows of a table to pictures with labels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnext.errors import DatasetError, counted
from resnext.training.listing import (
    Entry,
    FileSlice,
    Listing,
    choose_parts,
    class_name,
    few,
    part_of,
)

SEPARATORS = "|;"  # between the labels of one picture


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, as it stands there.

    Args:
        place: Such as "line 7".
        picture: Path, `FileSlice`, or None.
        label: Text, number, list of these, or None.
        part: "train", "val", "test", or a word that is neither; None without such a column.
    """

    place: str
    picture: str | FileSlice | None
    label: Any
    part: str | None = None


def by_part(rows: list[Row], where: str) -> dict[str, list[Row]]:
    """Group rows by their part; "" where the table does not tell.

    Raises:
        DatasetError: A part has no usual name.
    """
    if all(row.part is None for row in rows):
        return {"": rows}
    parts: dict[str, list[Row]] = {}
    bad = [f"{row.place} ({row.part!r})" for row in rows if not part_of(row.part or "")]
    if bad:
        raise DatasetError(
            f"{where}: {counted(len(bad), 'row has', 'rows have')} an unknown split: {few(bad)}",
            hint="write train, val or test",
        )
    for row in rows:
        parts.setdefault(part_of(row.part or "") or "", []).append(row)
    return parts


def make_listing(
    rows: Mapping[str, list[Row]],
    where: str,
    folder: str,
    *,
    classes: tuple[str, ...] | None = None,
    lists: bool = False,
) -> Listing:
    """Make pictures of rows, by part.

    Args:
        rows: By part.
        where: The data set, for errors.
        folder: What paths are relative to.
        classes: Names in the order of the class indices, if known.
        lists: Whether pictures may be of several classes, even if none is.
    """
    chosen = choose_parts(rows, where)
    both = [chosen.train, *([] if chosen.val is None else [chosen.val])]
    labels = [[_names(row.label) for row in part] for part in both]
    several = lists or any(len(names) > 1 for part in labels for names in part)
    notes = chosen.notes
    parts: list[list[Entry]] = []
    for part, names in zip(both, labels, strict=True):
        if not several:
            _check_labelled(part, names, where)
        entries, repeated = _entries(part, names, where, folder)
        if repeated:
            notes += (
                f"{counted(repeated, 'row stands', 'rows stand')} in the table twice; each"
                " picture counts once",
            )
        parts.append(entries)
    return Listing(
        train=parts[0],
        val=parts[1] if len(parts) > 1 else None,
        classes=None if classes is None else tuple(class_name(name) for name in classes),
        multi_label=several,
        notes=notes,
    )


def _names(label: Any) -> tuple[str, ...]:
    """Return the class names in a cell."""
    if isinstance(label, str):
        for separator in SEPARATORS[1:]:
            label = label.replace(separator, SEPARATORS[0])
        label = [name.strip() for name in label.split(SEPARATORS[0])]
    elif not isinstance(label, list):
        label = [label]
    found = []
    for name in label:
        if isinstance(name, float):
            name = None if math.isnan(name) else int(name) if name.is_integer() else name
        if name is not None and name != "":
            found.append(class_name(str(name)))
    return tuple(dict.fromkeys(found))


def _check_labelled(rows: Sequence[Row], names: Sequence[tuple[str, ...]], where: str) -> None:
    bad = [row.place for row, found in zip(rows, names, strict=True) if not found]
    if bad:
        raise DatasetError(
            f"{where}: {len(bad)} of {counted(len(rows), 'picture')} without a label: {few(bad)}",
            hint="remove these rows, or label them",
        )


def _entries(
    rows: Sequence[Row], labels: Sequence[tuple[str, ...]], where: str, folder: str
) -> tuple[list[Entry], int]:
    """Return the pictures of rows, and how many rows only repeat another."""
    entries: dict[str, Entry] = {}
    places: dict[str, str] = {}
    missing: list[str] = []
    repeated = 0
    for row, names in zip(rows, labels, strict=True):
        source: str | FileSlice
        if isinstance(row.picture, FileSlice):
            name, source = row.picture.name, row.picture
        else:
            name = os.path.normpath(row.picture or "").replace(os.sep, "/")
            source = os.path.join(folder, row.picture or "")
            if not row.picture or "\0" in row.picture or not os.path.isfile(source):
                missing.append(f"{row.picture or 'no path'} ({row.place})")
                continue
        first = entries.setdefault(name, Entry(name, source, names))
        repeated += name in places
        if set(first.classes) != set(names):
            raise DatasetError(
                f"{where}: {name} is {'|'.join(first.classes)} in {places[name]}, but"
                f" {'|'.join(names)} in {row.place}",
                hint="correct the table; a picture of both has one row, with a | between",
            )
        places.setdefault(name, row.place)
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} of {counted(len(rows), 'picture')} not there: {few(missing)}",
            hint=f"paths are relative to {folder}, with / between folders",
        )
    return list(entries.values()), repeated
