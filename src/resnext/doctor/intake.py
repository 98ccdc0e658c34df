"""Find the pictures of a data set to examine, whatever state it is in.

What training refuses, such as an empty class, is a finding here and no reason to stop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnext.errors import DatasetError
from resnext.sources import Source, iter_sources
from resnext.training.folders import subfolders
from resnext.training.layouts import read_layout
from resnext.training.listing import Entry, class_name, part_of

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """The pictures to examine.

    Args:
        place: Absolute path of the data set.
        entries: N pictures, part by part.
        parts: (N,) positions in `PARTS`.
        labelled: Whether there are classes.
        multi_label: Whether a picture may be of several classes, or of none.
        notes: What the reader of the layout has to say; one sentence each.
        refusal: Why training would not take the data set, or "".
    """

    place: str
    entries: tuple[Entry, ...]
    parts: NDArray[np.int8]
    labelled: bool
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    refusal: str = ""

    def __len__(self) -> int:
        return len(self.entries)


def take_in(path: str | os.PathLike[str], *, labelled: bool = True) -> Intake:
    """List the pictures of any layout that training reads, or of any folder.

    Args:
        path: As for `training.data.open_data`, or a folder without classes.
        labelled: False takes folders for no classes.

    Raises:
        DatasetError: There is no picture, or a table or shard cannot be read.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    place = os.path.abspath(os.fsdecode(path))
    is_folder = os.path.isdir(place)
    if is_folder and not (labelled and subfolders(place)):
        labelled = labelled and _is_packed(place)
    if not labelled:
        if not is_folder:
            raise DatasetError(f"{place} is no folder; expected one of pictures")
        return _make(place, {"train": list(_walk(place, place, labelled=False))})
    try:
        listing = read_layout(place)
    except DatasetError as error:
        if not is_folder:
            raise
        found = _by_folders(place)
        if not any(found.values()):
            raise
        return _make(place, found, refusal=error.message)
    parts = {"train": listing.train, "val": listing.val or ()}
    if is_folder and listing.val:
        parts["test"] = _test_part(place, listing.val)
    notes = tuple(
        note for note in listing.notes if not (parts.get("test") and "`test` is not used" in note)
    )
    return _make(place, parts, multi_label=listing.multi_label, notes=notes)


def _is_packed(folder: str) -> bool:
    """Tell whether a folder without folders is a data set all the same."""
    try:
        read_layout(folder)
    except DatasetError:
        return False
    return True


def _make(
    place: str,
    parts: dict[str, Sequence[Entry]],
    *,
    multi_label: bool = False,
    notes: tuple[str, ...] = (),
    refusal: str = "",
) -> Intake:
    entries = tuple(entry for part in PARTS for entry in parts.get(part, ()))
    if not entries:
        raise DatasetError(
            f"{place}: there are no pictures",
            hint="expected JPEG, PNG, GIF, BMP, WebP, TIFF or PPM files in it",
        )
    numbers = [number for number, part in enumerate(PARTS) for _ in range(len(parts.get(part, ())))]
    labelled = any(entry.classes for entry in entries)
    return Intake(
        place=place,
        entries=entries,
        parts=np.array(numbers, np.int8),
        labelled=labelled,
        multi_label=multi_label,
        notes=notes,
        refusal=refusal if labelled else "",
    )


def _by_folders(place: str) -> dict[str, Sequence[Entry]]:
    """Read folders that training refuses: the first one below a part is the class."""
    parts = {name: part_of(name) or "" for name in subfolders(place)}
    if "train" not in parts.values():
        return {"train": list(_walk(place, place, labelled=True))}
    found: dict[str, list[Entry]] = {}
    for name, part in parts.items():
        if part:
            found.setdefault(part, []).extend(
                _walk(os.path.join(place, name), place, labelled=True)
            )
    return dict(found)


def _test_part(place: str, val: Sequence[Entry]) -> list[Entry]:
    """Read the folder `test`, which training leaves alone where there is `val` as well."""
    used = {entry.name.partition("/")[0] for entry in val}
    return [
        entry
        for name in subfolders(place)
        if part_of(name) == "test" and name not in used
        for entry in _walk(os.path.join(place, name), place, labelled=True)
    ]


def _walk(folder: str, place: str, *, labelled: bool) -> Iterator[Entry]:
    """Yield the pictures below a folder, and the folders that cannot be listed."""
    for source in iter_sources([folder]):
        if source.problem.startswith("there are no pictures"):
            continue
        name = os.path.relpath(source.name, place).replace(os.sep, "/")
        above = os.path.relpath(source.name, folder).split(os.sep)[:-1]
        classes = (class_name(above[0]),) if labelled and above else ()
        # A source with a problem is handed on: reading it says what is wrong.
        yield Entry(name, Source(source.name, source.problem), classes)
