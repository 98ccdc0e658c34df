"""The classes of a data set matched to those of a model.

In this order, for each class: the map file, the synset id, the exact name, the name without
regard to case and punctuation, several names with commas between (of which a model with synset
ids may lack some, another none); and in the map, or if all classes are whole numbers, the number.
What fits two classes, or none, is an error that names them.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from resnext.errors import ConfigError, DatasetError, closest, counted
from resnext.predictions import Labels
from resnext.training.listing import few

_SYNSET = re.compile(r"(n\d{8})(?![0-9A-Za-z])")
_DIGIT = re.compile(r"\d")
_COLUMNS = ["folder", "class"]
_NUMBER = "number"  # the rule that goes by the class's
_LEAST_LETTERS = 4  # of the end of a word: "ant" ends many
_HINT_LIST = "a class has a name, a number from 0, and may have a synset id"

Names = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Which class of the model each class of the data is.

    Args:
        index: Model's class by data's class; None where the map leaves it out.
        rules: How many classes each rule matched, such as "synset id".
        notes: What one should know, one sentence each.
    """

    index: Mapping[str, int | None]
    rules: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{count} by {rule}" for rule, count in self.rules.items())


def match(
    classes: Sequence[str],
    labels: Labels,
    *,
    given: Mapping[str, str] | None = None,
    has_map: bool = True,
) -> Matching:
    """Match the classes of a data set to those of a model.

    Args:
        classes: Names of the data's classes.
        labels: Of the model.
        given: Class of the model, as one would name a folder, by data's class; "" leaves the
            data's class out. Several may lead to the same.
        has_map: Whether who asks can give a map at all; else no hint speaks of one.

    Raises:
        DatasetError: A class matches none or several, two match the same, or `given` seems to
            mean a class by another name.
    """
    given = given or {}
    notes = _notes_on_unused(classes, given)
    finder = _Finder(labels)
    numbers = all(_is_number(name) for name in classes if name not in given)
    rules: Counter[str] = Counter()
    index: dict[str, int | None] = {}
    unknown, twofold, by_count = [], [], []
    for name in classes:
        wanted = given.get(name, name)
        left_out, by_number = name in given and not wanted, numbers or name in given
        rule, found = ("", []) if left_out else finder.find(wanted, by_number=by_number)
        if len(found) > 1:
            twofold.append(f"{name!r} is {' or '.join(finder.describe(one) for one in found)}")
        elif found or left_out:
            index[name] = found[0] if found else None
            rules["the map" if name in given else rule] += 1
            if rule == _NUMBER and name not in given:
                by_count.append(int(name))
        else:
            unknown.append(wanted)
    if twofold:
        raise DatasetError(
            f"{counted(len(twofold), 'class has', 'classes have')} a name that the model has more"
            f" than once: {'; '.join(twofold[:5])}",
            hint="name the folder by the synset id or the number"
            + (", or give --map with a CSV of folder,class" if has_map else ""),
        )
    if 1 in by_count and 0 not in index.values():
        raise _counted_from_one(has_map=has_map)
    if unknown:
        raise _unknown(unknown, len(classes), finder, has_map=has_map)
    _check_distinct(index, given, finder, has_map=has_map)
    return Matching(index=index, rules=dict(rules), notes=notes)


def find_class(name: str, labels: Labels) -> int:
    """Return the index of the one class that a name means, as `match` takes the name of a folder.

    Args:
        name: A synset id, a name or several names, whatever their case and punctuation, or a
            number.
        labels: Of the model.

    Raises:
        ConfigError: There is no such class, or more than one.
    """
    finder = _Finder(labels)
    _, found = finder.find(name, by_number=True)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{len(found)} classes are called {name!r}:"
            f" {few([finder.describe(one) for one in found])}",
            hint="name one by its synset id or its number",
        )
    near = finder.nearest(name)
    raise ConfigError(
        f"there is no class {name!r} among the {len(labels)} of the model",
        hint=f"did you mean {' or '.join(map(repr, near))}?" if near else _HINT_LIST,
    )


def read_map(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a CSV of `folder,class`; an empty class leaves the folder out.

    Raises:
        DatasetError: It is no such table, or names a folder twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{os.fspath(path)}: cannot be read as CSV: {reason}") from error
    if not rows or [cell.strip().lower() for cell in rows[0]] != _COLUMNS:
        raise DatasetError(
            f"{os.fspath(path)} begins with {few(rows[0]) if rows else 'nothing'}; expected the"
            f" columns {','.join(_COLUMNS)}",
        )
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(_COLUMNS):
            raise DatasetError(f"{os.fspath(path)}: row {number} has {len(row)} cells; expected 2")
        folder, name = unicodedata.normalize("NFC", row[0]).strip(), row[1].strip()
        if found.setdefault(folder, name) != name:
            raise DatasetError(f"{os.fspath(path)}: has {folder!r} twice, as {found[folder]!r}"
                               f" and {name!r}")  # fmt: skip
    return found


def display_names(labels: Labels) -> tuple[str, ...]:
    """Return a name for each class; those that repeat get what tells them apart."""
    counts = Counter(labels.class_names)
    ids = labels.synset_ids or tuple(f"class {index}" for index in range(len(labels)))
    return tuple(
        f"{name} ({key})" if counts[name] > 1 else name
        for name, key in zip(labels.class_names, ids, strict=True)
    )


class _Finder:
    """Finds the classes of a model that a text may mean."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._exact = _group(labels.class_names, lambda name: [name])
        self._folded = _group(labels.class_names, lambda name: [_fold(name)])
        self._parts = _group(labels.class_names, _fold_parts)
        self._ids = _group(labels.synset_ids or (), lambda name: [name])

    def find(self, name: str, *, by_number: bool) -> tuple[str, list[int]]:
        """Return the first rule that finds a class, and all that it finds."""
        id_ = _SYNSET.match(name)
        rules: tuple[tuple[str, Callable[[], Iterable[int]]], ...] = (
            ("synset id", lambda: self._ids.get(id_[1], []) if id_ else []),
            ("name", lambda: self._exact.get(name, [])),
            ("name but for case and punctuation", lambda: self._folded.get(_fold(name), [])),
            ("several names", lambda: self._all_parts(name)),
            (_NUMBER, lambda: self._number(name) if by_number else []),
        )
        for rule, search in rules:
            if found := sorted(set(search())):
                return rule, found
        return "", []

    def describe(self, index: int) -> str:
        """Name a class so that it can be told from all others."""
        ids = self._labels.synset_ids
        key = f"class {index}" if ids is None else f"{ids[index]}, class {index}"
        return f"{self._labels.class_names[index]!r} ({key})"

    def nearest(self, name: str, *, count: int = 3) -> list[str]:
        """Return the names likely meant by one that is not there: with it as a word first."""
        wanted = _fold(name)
        forms = (f" {wanted} ", f" {wanted.removesuffix('s')} ")
        near = [part for part in self._parts if any(form in f" {part} " for form in forms)]
        # What a thing is stands last: a Maltese dog is one, a dog sled and a birdhouse are none.
        near.sort(key=lambda part: not f" {part} ".endswith(forms))
        if not near and len(wanted) >= _LEAST_LETTERS:
            near = [part for part in self._parts if part.endswith(wanted)]
        near = near or closest(wanted, self._parts, count=count)
        names = self._labels.class_names
        return list(dict.fromkeys(names[self._parts[part][0]] for part in near))[:count]

    def _all_parts(self, name: str) -> Iterable[int]:
        found = [self._parts.get(part, []) for part in _fold_parts(name)]
        classes = {index for one in found for index in one}
        # A name that the model lacks may be of another class, "dog, wolf", but for WordNet's, of
        # which such models have one of several.
        known = all(found) or self._labels.synset_ids is not None
        return classes if known or len(classes) > 1 else ()

    def _number(self, name: str) -> Iterable[int]:
        return [int(name)] if _is_number(name) and int(name) < len(self._labels) else []


def _group(names: Iterable[str], keys: Callable[[str], Iterable[str]]) -> Names:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        for key in dict.fromkeys(keys(name)):
            found[key].append(index)
    return dict(found)


def _fold(name: str) -> str:
    """Return letters and digits in lower case, with one space for anything between."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("'", "").replace("\u2019", "")
    return " ".join(re.findall(r"[^\W_]+", text)) or text


def _fold_parts(name: str) -> list[str]:
    return [_fold(part) for part in name.split(",") if part.strip()]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _unknown(names: Sequence[str], total: int, finder: _Finder, *, has_map: bool) -> DatasetError:
    shown = []
    for name in names[:5]:
        near = finder.nearest(name, count=1)
        shown.append(f"{name!r}" + (f" (nearest: {near[0]!r})" if near else ""))
    return DatasetError(
        f"among the {len(finder._labels)} classes of the model is none for {len(names)} of the"
        f" {counted(total, 'class', 'classes')} of the data: {few(shown, total=len(names))}",
        hint="rename the folders, or give --map with a CSV of folder,class; an empty class leaves"
        " a folder out"
        if has_map
        else "rename the folders, or leave them out",
    )


def _counted_from_one(*, has_map: bool) -> DatasetError:
    return DatasetError(
        "the classes of the data are numbers with a 1 and without a 0; those of a model count"
        " from 0",
        hint="give --map with a CSV of folder,class: the row 1,1 if the data counts from 0 as"
        " well; the rows 1,0 and 2,1 and so on if it counts from 1"
        if has_map
        else "name the folders by the names of the classes",
    )


def _notes_on_unused(classes: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Say what a map names in vain, as one of more classes does; a likely slip is an error."""
    known = set(classes)
    unused = [name for name in given if name not in known]
    if given and len(unused) == len(given):
        raise DatasetError(
            f"the map names no class of the data: it has {few(unused)}; the data"
            f" {few(list(classes))}",
            hint="write in the column `folder` what the folders are named",
        )
    # Ids and numbers are all alike: n01440764 is no slip of n01440765, nor shelf 7 of shelf 8.
    slips = [name for name in unused if not _DIGIT.search(name)]
    others = [name for name in classes if name not in given and not _DIGIT.search(name)]
    likely = {name: near[0] for name in slips if (near := closest(name, others, count=1))}
    if likely:
        shown = [f"{name!r} (nearest: {near!r})" for name, near in likely.items()]
        raise DatasetError(
            f"the map names {counted(len(likely), 'class', 'classes')} that the data does not"
            f" have: {few(shown)}",
            hint="write them as the folders are named, or remove the rows",
        )
    if not unused:
        return ()
    many = counted(len(unused), "class", "classes")
    return (f"the map names {many} that the data does not have: {few(unused)}",)


def _check_distinct(
    index: Mapping[str, int | None], given: Mapping[str, str], finder: _Finder, *, has_map: bool
) -> None:
    """Two folders may be one class only where the map says so."""
    first: dict[int, str] = {}
    for name, number in index.items():
        if number is None:
            continue
        other = first.setdefault(number, name)
        if other != name and not (name in given and other in given):
            raise DatasetError(
                f"the classes {other!r} and {name!r} are both {finder.describe(number)}",
                hint="put them into one folder" + (", or name both in a --map" if has_map else ""),
            )
