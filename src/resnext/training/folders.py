"""Labelled pictures from a folder per class, alone or in parts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping, Sequence

from resnext.errors import DatasetError
from resnext.sources import EXTENSIONS, Source, iter_sources
from resnext.training.listing import Entry, Listing, choose_parts, class_name, few, part_of

_IGNORED = {"__MACOSX"}  # what zip files from a Mac leave beside the folders
_TABLES = (".csv", ".tsv", ".parquet")
_EMPTY = "there are no pictures"


def subfolders(folder: str) -> list[str]:
    """List the visible folders in a folder by name, sorted.

    Raises:
        DatasetError: The folder cannot be listed.
    """
    return _entries(folder)[0]


def files(folder: str, endings: Collection[str]) -> list[str]:
    """List the visible files with one of these endings by name, sorted.

    Raises:
        DatasetError: The folder cannot be listed.
    """
    return [name for name in _entries(folder)[1] if name.lower().endswith(tuple(endings))]


def read_folder(top: str) -> Listing:
    """Read `CLASS/...` or `train/CLASS/...` with `val/CLASS/...`.

    Args:
        top: Absolute path.

    Raises:
        DatasetError: There are no such folders, it is not clear what one is for, or one is empty
            or cannot be listed.
    """
    names = subfolders(top)
    parts = _parts(top, names)
    if not parts:
        train, notes = _read_classes(top, top)
        return Listing(train=train, classes=_classes(train), notes=notes)
    chosen = choose_parts(parts, top)
    train, notes = _read_classes(chosen.train, top)
    val = None
    if chosen.val is not None:
        val, more = _read_classes(chosen.val, top, may_be_empty=True)
        notes += more
    others = [name for name in names if os.path.join(top, name) not in parts.values()]
    if others:
        notes += (f"left out, for they are beside `train`: {few(others)}",)
    return Listing(train=train, val=val, classes=_classes(train), notes=chosen.notes + notes)


def hint_for(folder: str) -> str:
    """Return what to do with a folder whose folders are no classes."""
    if os.path.isdir(folder) and (tables := files(folder, _TABLES)):
        return f"open its table: {os.path.join(folder, tables[0])}"
    return "make one folder of pictures for each class, or a table of path,label"


def _classes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Sort as text even what looks like numbers: so did those whose checkpoints people have."""
    return tuple(sorted({name for entry in entries for name in entry.classes}))


def _parts(top: str, names: Sequence[str]) -> dict[str, str]:
    """Return the folder of each part, or nothing where the folders are classes."""
    parts: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        if part in parts:
            raise DatasetError(
                f"{top} has both {os.path.basename(parts[part])} and {name}; expected one of them"
            )
        if part:
            parts[part] = os.path.join(top, name)
    if len(parts) in (len(names), 2, 3):
        return parts
    # A class may be called `train` as well; then other classes stand beside it.
    for part, folder in parts.items():
        _check_class(part, folder, [name for name in names if name != os.path.basename(folder)])
    return {}


def _check_class(part: str, folder: str, others: Sequence[str]) -> None:
    """Make sure that a folder with the name of a part is a class, as those beside it are.

    Raises:
        DatasetError: It may as well be the part: it has folders, and no pictures beside them.
    """
    inner = subfolders(folder)
    if not inner or files(folder, EXTENSIONS):
        return
    if part == "train":
        hint = f"give {folder} itself, if its folders are the classes"
    else:
        hint = "put the classes beside it into a folder train"
    raise DatasetError(
        f"{folder}: it is not clear whether this is a part, with the classes {few(inner)}, or a"
        f" class beside {few(others)}",
        hint=f"{hint}; if it is a class, put its pictures right into it",
    )


def _read_classes(
    folder: str, top: str, *, may_be_empty: bool = False
) -> tuple[list[Entry], tuple[str, ...]]:
    """Read the pictures of each class; the notes say what was left out."""
    entries: list[Entry] = []
    problems: list[str] = []
    root = os.path.join(top, "")
    places = _places(folder)
    if not places:
        raise DatasetError(
            f"{folder} has no folders; expected one for each class", hint=hint_for(top)
        )
    notes = _notes_on_files(folder)
    for name in places:
        before = len(entries)
        found, strays = _pictures(folder, name, places, os.path.realpath(top))
        for source in found:
            if source.problem and not (may_be_empty and source.problem.startswith(_EMPTY)):
                problems.append(f"{source.name.removeprefix(root)}: {source.problem}")
            elif not source.problem:
                below = source.name.removeprefix(root).replace(os.sep, "/")
                entries.append(Entry(below, source.name, (class_name(name),)))
        if strays:
            shown = [path.removeprefix(root) for path in strays]
            notes += (f"left out, for a link leads there from class {name}: {few(shown)}",)
            if len(entries) == before:
                problems.append(f"{name}: {_EMPTY} but those of another class, by a link")
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of its folders cannot be used: {few(problems)}",
            hint="every folder is a class: put pictures in it, or remove it",
        )
    return entries, notes


def _notes_on_files(folder: str) -> tuple[str, ...]:
    """Name the files beside class folders that one might think are used."""
    notes: tuple[str, ...] = ()
    if loose := files(folder, EXTENSIONS):
        notes += (f"left out, for they are in no class folder: {few(loose)}",)
    if tables := files(folder, _TABLES):
        notes += (f"not used, for there are class folders: {few(tables)}",)
    return notes


def _places(folder: str) -> dict[str, str]:
    """Return the real path of each class folder, without links that lead back up.

    Raises:
        DatasetError: Two are the same, or one is inside another.
    """
    above = os.path.realpath(folder)
    places: dict[str, str] = {}
    for name in subfolders(folder):
        place = os.path.realpath(os.path.join(folder, name))
        if not _is_in(above, place):
            places[name] = place
    ordered = sorted((os.path.join(place, ""), name) for name, place in places.items())
    for (first, one), (second, other) in itertools.pairwise(ordered):
        if second.startswith(first):
            raise DatasetError(
                f"{folder}: the folders {one} and {other} lead to the same pictures",
                hint="remove the link",
            )
    return places


def _pictures(
    folder: str, name: str, places: Mapping[str, str], top: str
) -> tuple[list[Source], list[str]]:
    """Return the pictures of a class, and the folders of other classes that links lead to."""
    found = list(iter_sources([os.path.join(folder, name)]))
    strays = []
    for path in sorted({os.path.dirname(source.name) for source in found if not source.problem}):
        real = os.path.realpath(path)
        if not _is_in(real, places[name]) and any(
            _is_in(real, other) for other in (top, *places.values())
        ):
            strays.append(path)
    left_out = set(strays)
    return [source for source in found if os.path.dirname(source.name) not in left_out], strays


def _is_in(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders and of the visible files."""
    names: tuple[list[str], list[str]] = ([], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in _IGNORED:
                    names[0 if _is_folder(entry) else 1].append(entry.name)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    return sorted(names[0]), sorted(names[1])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
