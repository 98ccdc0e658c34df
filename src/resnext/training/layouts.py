"""Which layout a data set has, and so what reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from resnext.errors import DatasetError, closest
from resnext.training.folders import files, read_folder, subfolders
from resnext.training.listing import Listing, choose_parts, few, part_of
from resnext.training.shards import expand, read_classes, read_shards
from resnext.training.tables import is_saved, read_csv, read_parquet, read_saved

_TEXT, _ARROW = (".csv", ".tsv"), (".parquet", ".pq", ".arrow")
_TAR = (".tar", ".tar.gz", ".tgz")  # what is packed is refused with the reason


def read_layout(place: str) -> Listing:
    """Read the pictures of a data set, whatever its layout.

    Args:
        place: Absolute path of a folder, table or shard, or a pattern of shards.

    Raises:
        DatasetError: There is nothing, the layout is unknown, or what is there is not whole.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    lower = place.lower()
    if os.path.isdir(place):
        return _read_folder(place)
    paths = [place] if os.path.exists(place) else expand(place)
    top = os.path.dirname(place)
    if lower.endswith(_TAR) and (paths != [place] or os.path.isfile(place)):
        return _read_tars({"": paths}, top)
    if not os.path.isfile(place):
        raise _missing(place)
    if lower.endswith(_TEXT):
        return read_csv(place)
    if lower.endswith(_ARROW):
        return read_parquet({"": [place]}, top)
    raise DatasetError(
        f"{place} is one file; expected a folder, or a file that ends in"
        f" {', '.join((*_TEXT, *_ARROW, _TAR[0]))}",
    )


def is_packed(name: str) -> bool:
    """Tell whether a name is that of a table or of shards, and so of a data set."""
    return name.lower().endswith((*_TEXT, *_ARROW, *_TAR))


def _read_folder(place: str) -> Listing:
    if is_saved(place):
        return read_saved(place)
    if parts := _files_by_part(place, _ARROW):
        return read_parquet(parts, place)
    if parts := _files_by_part(place, _TAR):
        return _read_tars(parts, place)
    return read_folder(place)


def _files_by_part(top: str, endings: tuple[str, ...]) -> dict[str, list[str]]:
    """Find files in `data` or the folders of parts, or in a folder without any folder."""
    folders = subfolders(top)
    inner = [name for name in folders if name == "data" or part_of(name)]
    parts: dict[str, list[str]] = {}
    for folder in inner if folders else [""]:
        for name in files(os.path.join(top, folder), endings):
            words = [folder, *re.split(r"[-_.]", name)]
            part = next((part for word in words if (part := part_of(word))), "")
            parts.setdefault(part, []).append(os.path.join(top, folder, name))
    if len(parts) > 1 and "" in parts:
        raise DatasetError(
            f"{top}: it is not clear what {few(parts[''])} is for, beside"
            f" {' and '.join(sorted(filter(None, parts)))}",
            hint="begin its name with train, val or test",
        )
    return parts


def _read_tars(parts: Mapping[str, list[str]], top: str) -> Listing:
    chosen = choose_parts(parts, top)
    classes = read_classes(top) or read_classes(os.path.dirname(chosen.train[0]))
    train, several = read_shards(chosen.train, classes, top=top)
    val = None
    if chosen.val is not None:
        val, more = read_shards(chosen.val, classes, top=top)
        several = several or more
    return Listing(train=train, val=val, classes=classes, multi_label=several, notes=chosen.notes)


def _missing(place: str) -> DatasetError:
    if os.path.lexists(place):
        return DatasetError(f"{place} is no folder and no regular file")
    try:
        near = closest(os.path.basename(place), os.listdir(os.path.dirname(place)))
    except (OSError, ValueError):  # ValueError: the path holds a null character
        near = []
    return DatasetError(
        f"{place}: there is no such file or folder",
        hint=f"did you mean {few([repr(name) for name in near])}?" if near else "",
    )
