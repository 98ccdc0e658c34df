"""The pictures to put into an index, with labels where a layout has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.classifier import Classifier
from resnext.errors import ConfigError, DatasetError, ImageError
from resnext.explore.embedding import embed_items
from resnext.explore.index import Row, describe, write
from resnext.sources import iter_sources
from resnext.training.layouts import read_layout
from resnext.training.listing import Entry, make_set, sort_names

PARTS = ("train", "val", "all")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be: its name, what to open, its label or -1."""

    name: str
    source: Any
    label: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Pictures to put into an index.

    Args:
        items: The pictures.
        class_names: What the labels mean; empty where there are none.
        total: How many there are, where that is known.
        notes: What one should know, one sentence each.
    """

    items: Iterable[Item]
    class_names: tuple[str, ...] = ()
    total: int | None = None
    notes: tuple[str, ...] = ()


def gather(data: str, *, part: str = "train") -> Gathered:
    """Find pictures: labelled ones of any layout of `docs/data.md`, or any at all.

    Args:
        data: A data set; or a folder, glob or file of pictures that is none.
        part: Which part of a data set that has two: one of `PARTS`.

    Raises:
        ConfigError: Unknown part.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    if part not in PARTS:
        raise ConfigError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    try:
        listing = read_layout(os.path.abspath(os.fsdecode(data)))
    except DatasetError as error:
        note = f"the pictures have no labels: {error.message}"
        return Gathered(items=_plain(data), notes=(note,))
    parts = {"train": listing.train, "val": listing.val or ()}
    entries = [*listing.train, *(listing.val or ())] if part == "all" else [*parts[part]]
    if listing.multi_label:
        note = "the pictures have several labels each, of which an index keeps none"
        return Gathered(
            items=[Item(_name(entry), entry.source) for entry in entries],
            total=len(entries),
            notes=(*listing.notes, note),
        )
    names = listing.classes or sort_names(
        name for entry in (*listing.train, *(listing.val or ())) for name in entry.classes
    )
    found = make_set(entries, names, multi_label=False)
    items = [
        Item(_name(entry), sample.source, sample.labels[0])
        for entry, sample in zip(entries, found.samples, strict=True)
    ]
    return Gathered(
        items=items,
        class_names=found.labels.class_names,
        total=len(items),
        notes=listing.notes,
    )


class Builder:
    """Makes an index of pictures; those that cannot be read are left out, and told.

    Args:
        classifier: What computes the embeddings.
        model: What to open it by later.

    Attributes:
        failed: The pictures left out, and why.
    """

    def __init__(self, classifier: Classifier, model: str) -> None:
        self.failed: list[ImageError] = []
        self._classifier = classifier
        self._model = _absolute(model)

    def build(
        self,
        path: Path,
        pictures: Gathered,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Write the index; return how many pictures are in it.

        Args:
            path: Where to.
            pictures: What to put into it.
            progress: Called with the number of pictures done and that of all, 0 where it is
                not known.

        Raises:
            DatasetError: No picture can be read.
            OutputError: The file cannot be written.
        """
        names = pictures.class_names
        document = describe(self._classifier, model=self._model, class_names=names)

        def count(done: int) -> None:
            if progress is not None:
                progress(done, pictures.total or 0)

        return write(path, document, self._rows(pictures.items, count))

    def _rows(self, items: Iterable[Item], count: Callable[[int], None]) -> Iterator[Row]:
        found = embed_items(self._classifier, items, lambda item: item.source)
        for done, (item, row) in enumerate(found, start=1):
            count(done)
            if isinstance(row, ImageError):
                self.failed.append(ImageError(item.name, row.reason, hint=row.hint))
            else:
                yield Row(item.name, row, item.label)


def _plain(data: str) -> Iterator[Item]:
    for source in iter_sources([data]):
        yield Item(source.name if source.is_url else _absolute(source.name), source)


def _name(entry: Entry) -> str:
    """Return what to open the picture by later, or else what it is called."""
    return entry.source if isinstance(entry.source, str) else entry.name


def _absolute(name: str) -> str:
    return os.path.abspath(name) if os.path.exists(name) else name
