"""The pictures to put into an index, with labels where a layout has them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.classifier import Classifier
from resnext.doctor.intake import PARTS as intake_parts
from resnext.doctor.intake import Intake, take_in
from resnext.errors import ConfigError, DatasetError, ImageError
from resnext.explore.embedding import embed_items
from resnext.explore.index import Row, describe, write
from resnext.sources import Source, iter_sources
from resnext.training.layouts import is_packed
from resnext.training.listing import Entry, make_labels, part_of, sort_names

PARTS = ("train", "val", "all")

_NO_LABELS = "the pictures have no labels"


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


def gather(data: str, *, part: str | None = None) -> Gathered:
    """Find pictures: labelled ones of any layout of `docs/data.md`, or any at all.

    What training would refuse, such as an empty class, does no harm here and is a note.

    Args:
        data: A data set; or a folder, glob or file of pictures that is none.
        part: Which part of a data set that has two: one of `PARTS`; by default "train", and
            all of what has no parts.

    Raises:
        ConfigError: Unknown part, or one that is not there.
        DatasetError: There is no picture, or a table or shard cannot be read.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    if part not in (None, *PARTS):
        raise ConfigError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    if not os.path.isdir(data) and not is_packed(data):
        _check_part(data, part, ())
        return Gathered(items=_plain(data), notes=(_NO_LABELS,))
    intake = take_in(data)
    parts = [intake_parts[number] for number in intake.parts.tolist()]
    keeps = intake.labelled and not intake.multi_label
    names = sort_names(name for entry in intake.entries for name in entry.classes) if keeps else ()
    if intake.refusal and names and all(map(part_of, names)):
        raise DatasetError(
            intake.refusal,
            hint=f"give the path of the part to put into an index: {os.path.join(data, names[0])}",
        )
    _check_part(data, part, parts if intake.labelled else ())
    chosen = ("train", "val") if part == "all" else (part or "train",)
    entries = [entry for entry, own in zip(intake.entries, parts, strict=True) if own in chosen]
    numbers = {name: number for number, name in enumerate(names)}
    return Gathered(
        items=[Item(_name(entry), entry.source, _number(entry, numbers)) for entry in entries],
        class_names=make_labels(names).class_names if names else (),
        total=len(entries),
        notes=(*_notes(intake, parts), *_left_out(part, parts)),
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
        found = embed_items(self._classifier, items, lambda item: item.source, keep=True)
        with contextlib.closing(found):  # which keeps what is done, however this ends
            for done, (item, row) in enumerate(found, start=1):
                count(done)
                if isinstance(row, ImageError):
                    self.failed.append(ImageError(item.name, row.reason, hint=row.hint))
                else:
                    yield Row(item.name, row, item.label)


def _plain(data: str) -> Iterator[Item]:
    """Find the pictures of what is no data set; say at once where there is nothing."""
    sources = iter_sources([data])
    first = list(itertools.islice(sources, 1))
    if not first:
        raise DatasetError(
            "standard input names no picture", hint="give one file, folder or glob a line"
        )
    [source] = first
    absent = not source.is_url and not os.path.lexists(source.name)
    if absent or source.problem:  # which among others is left out and told, as any
        first += itertools.islice(sources, 1)
        if len(first) == 1:
            reason = source.problem or "there is no such file or folder"
            raise DatasetError(f"{source.name}: {reason}")
    return (
        Item(source.name if source.is_url else _absolute(source.name), source)
        for source in itertools.chain(first, sources)
    )


def _check_part(data: str, part: str | None, parts: Collection[str]) -> None:
    """Refuse a part that was asked for and is not there."""
    if part in (None, "all") or part in parts:
        return
    there = " and ".join(name for name in intake_parts if name in parts)
    raise ConfigError(
        f"{data} has no part {part}; it has {there or 'no parts, and no classes'}",
        hint="leave --part away for all pictures" if not parts else "",
    )


def _notes(intake: Intake, parts: Collection[str]) -> Iterator[str]:
    yield from intake.notes
    if "test" in parts:
        yield "the part `test` is not used"
    if intake.refusal:
        yield f"each folder is taken for a class, though training refuses them: {intake.refusal}"
    if not intake.labelled:
        yield _NO_LABELS
    elif intake.multi_label:
        yield "the pictures have several labels each, of which an index keeps none"


def _left_out(part: str | None, parts: Sequence[str]) -> Iterator[str]:
    if part is None and {"train", "val"} <= set(parts):
        yield f"the part `val` is left out: {parts.count('val'):,} pictures; --part all takes both"


def _number(entry: Entry, numbers: Mapping[str, int]) -> int:
    """Return the number of the class of a picture, -1 where it has none that is kept."""
    return numbers[entry.classes[0]] if numbers and entry.classes else -1


def _name(entry: Entry) -> str:
    """Return what to open the picture by later, or else what it is called."""
    if isinstance(entry.source, Source):
        return entry.source.name
    return entry.source if isinstance(entry.source, str) else entry.name


def _absolute(name: str) -> str:
    return os.path.abspath(name) if os.path.exists(name) else name
