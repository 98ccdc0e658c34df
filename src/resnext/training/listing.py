"""Pictures with labels by name: what every layout is read as first.

Classes are numbered only when all parts are known, so the same name has the same number in
each. A class name is text that can be written anywhere: composed Unicode, and what is no
Unicode escaped.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from resnext.catalogue import imagenet1k
from resnext.errors import ConfigError, DatasetError
from resnext.predictions import Labels
from resnext.results.formats import encodable
from resnext.sources import Source, open_file
from resnext.training.samples import Sample, SampleSet

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SHOWN = 5  # examples in a message
_TEST_AS_VAL = "there is no part `val`: `test` is taken for it"

_SYNSET = re.compile(r"n\d{8}")

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A picture inside a larger file: opened when it is read, so it can be pickled.

    Args:
        name: What to call it.
        path: The file.
        offset: First byte of the picture.
        size: Bytes of the picture.
    """

    name: str
    path: str
    offset: int
    size: int

    def read(self, count: int = -1) -> bytes:
        """Return its first bytes, all by default.

        Raises:
            OSError: The file cannot be read.
        """
        with open_file(self.path) as file:
            file.seek(self.offset)
            return file.read(self.size if count < 0 else min(count, self.size))


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture.

    Args:
        name: Path below the data set, with forward slashes; no two have the same.
        source: What `images.open_rgb` takes.
        classes: Names of its classes.
    """

    name: str
    source: Any
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Pictures in one or two parts.

    Args:
        train: To learn from.
        val: To validate on, or None where the layout has no such part.
        classes: Names in the order of the class indices, or None for those found, sorted.
        multi_label: Whether a picture may be of several classes, or of none.
        notes: What one should know, one sentence each.
    """

    train: Sequence[Entry]
    val: Sequence[Entry] | None = None
    classes: tuple[str, ...] | None = None
    multi_label: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts(Generic[Content]):
    """What there is for each purpose; `notes` names what is not used."""

    train: Content
    val: Content | None
    notes: tuple[str, ...]


def part_of(word: str) -> str | None:
    """Return "train", "val" or "test" for a usual name of that part, else None."""
    return PARTS.get(word.strip().lower())


def choose_parts(found: Mapping[str, Content], where: str) -> Parts[Content]:
    """Choose what to learn from and what to validate on.

    Args:
        found: By "train", "val" and "test"; "" stands for all there is.
        where: Name of the data set, for the error.

    Raises:
        DatasetError: There is nothing to learn from.
    """
    found = dict(found)
    if "" in found:
        return Parts(train=found[""], val=None, notes=())
    if "train" not in found:
        raise DatasetError(
            f"{where} has {' and '.join(sorted(found))}, but no train",
            hint="to use one part alone, give its own path",
        )
    second = next((part for part in ("val", "test") if part in found), "")
    notes: tuple[str, ...] = ()
    if "test" in found:  # the best epoch is chosen by it
        known = "val" in found
        notes = ("the part `test` is not used" if known else _TEST_AS_VAL,)
    return Parts(train=found["train"], val=found.get(second), notes=notes)


def few(items: Sequence[str], *, total: int | None = None) -> str:
    """Join the first few texts and count the others."""
    total = len(items) if total is None else total
    text = ", ".join(items[:SHOWN])
    return f"{text} and {total - SHOWN:,} more" if total > SHOWN else text


def class_name(text: str) -> str:
    """Return a name as it is compared and kept."""
    return encodable(unicodedata.normalize("NFC", text))


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names; as numbers where all are whole numbers."""
    found = set(names)
    if all(name.isascii() and name.isdigit() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def make_labels(names: tuple[str, ...]) -> Labels:
    """Return the classes; synset ids get the names that ImageNet has for them."""
    if not all(_SYNSET.fullmatch(name) for name in names):
        return Labels(names)
    imagenet = imagenet1k()
    known = dict(zip(imagenet.synset_ids or (), imagenet.class_names, strict=True))
    return Labels(tuple(known.get(name, name) for name in names), names)


def make_set(entries: Sequence[Entry], names: tuple[str, ...], *, multi_label: bool) -> SampleSet:
    """Number the classes of pictures by a list of names, which has all of them."""
    index = {name: number for number, name in enumerate(names)}
    samples = [
        Sample(entry.name, entry.source, tuple(index[name] for name in entry.classes))
        for entry in entries
    ]
    return SampleSet(samples=samples, labels=make_labels(names), multi_label=multi_label)


def check_apart(folder: Path, data: str | os.PathLike[str]) -> None:
    """Refuse results in a data set, which would be taken for a class of it.

    Args:
        folder: Of the results.
        data: The data set; one that is no folder has nothing in it.

    Raises:
        ConfigError: The folder is in it.
    """
    place, source = Path(os.path.realpath(folder)), Path(os.path.realpath(data))
    if source.is_dir() and place.is_relative_to(source):
        raise ConfigError(
            f"{folder} is in the data set, in which nothing is changed",
            hint="choose another folder with -o",
        )


def check_outside(folder: Path, pictures: Iterable[Entry]) -> None:
    """Refuse results among pictures, which a table may name anywhere.

    Args:
        folder: Of the results.
        pictures: All there are.

    Raises:
        ConfigError: The folder is in one that has pictures, or is it.
    """
    sources = (entry.source for entry in pictures)
    names = (source.name if isinstance(source, Source) else source for source in sources)
    tops = {os.path.dirname(name) for name in names if isinstance(name, str)}
    place = Path(os.path.realpath(folder))
    for top in sorted(map(os.path.realpath, tops)):
        if place.is_relative_to(top):
            raise ConfigError(
                f"{folder} is in {top}, among the pictures, where nothing is changed",
                hint="choose another folder with -o",
            )
