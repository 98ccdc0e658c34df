"""Open labelled pictures of any layout, to train on and to validate on.

A layout says where its parts are, or the split is made here: by class, by a seed, recorded.
Numbers of classes follow from names, the same in both parts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnext.errors import ConfigError, DatasetError, counted
from resnext.training.folders import hint_for
from resnext.training.layouts import read_layout
from resnext.training.listing import (
    Entry,
    FileSlice,
    Listing,
    class_name,
    few,
    make_set,
    sort_names,
)
from resnext.training.samples import SampleSet
from resnext.training.scan import Problem, scan, without
from resnext.training.split import find_copies, split

__all__ = [
    "Data",
    "FileSlice",
    "Problem",
    "balanced_weights",
    "open_data",
    "scan",
    "without",
]

_LOOK_FOR_COPIES = 200_000  # pictures up to which given parts are compared: some 20 s


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Pictures to train on and to validate on, of the same classes.

    Args:
        train: To learn from: at least one of each class.
        val: To validate on, or None.
        split: Where the parts come from, as plain JSON values: `kind` ("given", "automatic"
            or "none"), `seed` and `val_share` of an automatic one, `train` and `val` with
            their number of `pictures` and a `fingerprint`, and `copies`, the number of
            pictures with the same bytes as another (None where that was not looked for).
        notes: What one should know, such as what was left out; one sentence each.
    """

    train: SampleSet
    val: SampleSet | None
    split: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def without(self, problems: Iterable[Problem]) -> Data:
        """Return the data without the pictures that `scan` found problems with.

        Raises:
            DatasetError: A class would have no picture to learn from.
        """
        names = {problem.name for problem in problems}
        train = without(self.train, problems := [Problem(name, "") for name in names])
        before = zip(self.train.labels.class_names, self.train.counts, strict=True)
        gone = [
            name
            for (name, count), left in zip(before, train.counts, strict=True)
            if count and not left
        ]
        if gone:
            raise DatasetError(
                f"no picture of {few(gone)} can be read",
                hint="replace them, or remove the class",
            )
        val = self.val
        if val is not None:
            left = any(sample.name not in names for sample in val.samples)
            val = without(val, problems) if left else None
        return Data(
            train=train,
            val=val,
            split={**self.split, "train": _describe(train), "val": _describe(val)},
            notes=self.notes + _notes_on_lost(self.val, val),
        )


def open_data(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    val_share: float = 0.2,
    classes: Sequence[str] | None = None,
) -> Data:
    """Open labelled pictures; `docs/data.md` shows every layout.

    Args:
        path: A folder with a folder per class, alone or in `train` and `val`; a CSV or
            Parquet table of path,label; tar shards, as a folder or as
            `shard-{0000..0009}.tar`; a data set of Hugging Face's library on the disk.
        seed: Of the split, where the layout has no part to validate on.
        val_share: Share of each class to validate on in that case, 0 (none) to below 1.
        classes: Names of the classes, or synset ids, in the order of their numbers; by
            default the order of the layout, or else sorted. Some may have no picture.

    Returns:
        The pictures, not yet opened: `scan` finds those that cannot be read.

    Raises:
        DatasetError: The layout is unknown, or the pictures and labels do not fit together.
        ConfigError: An option is out of range.
        MissingExtraError: The layout needs pyarrow, which is not installed.
    """
    if not 0 <= val_share < 1:
        raise ConfigError(f"val_share is {val_share}; expected 0 to below 1")
    place = os.path.abspath(os.fsdecode(path))
    listing = read_layout(place)
    for part, entries in (("train", listing.train), ("val", listing.val)):
        if entries is not None and not entries:
            raise DatasetError(f"{place}: there is no picture in {part}")
    names, notes = _class_names(listing, classes, place)
    train, val = list(listing.train), listing.val
    kind, options = ("none" if val is None else "given"), {}
    same = None
    if val is not None:
        if len(train) + len(val) <= _LOOK_FOR_COPIES:
            same = find_copies([*train, *val])
            notes += _notes_on_leaks(train, val, same) + _notes_on_labels([*train, *val], same)
        if missing := _only_in_train(train, val):
            notes += (f"classes without a picture to validate on: {few(missing)}",)
    elif val_share:
        kind, options = "automatic", {"seed": seed, "val_share": val_share}
        same = find_copies(train)
        if count := _count_copies(same):
            notes += (
                f"{counted(count, 'picture has', 'pictures have')} the same bytes as another;"
                " such stay together",
            )
        notes += _notes_on_labels(train, same)
        first, second = split(train, same, seed=seed, val_share=val_share)
        val, train = [train[n] for n in second] or None, [train[n] for n in first]
        if missing := _only_in_train(train, val or []):
            notes += (f"classes with too few pictures to validate on: {few(missing)}",)
    train_set = make_set(train, names, multi_label=listing.multi_label)
    val_set = None if val is None else make_set(val, names, multi_label=listing.multi_label)
    return Data(
        train=train_set,
        val=val_set,
        split={
            "kind": kind,
            **options,
            "train": _describe(train_set),
            "val": _describe(val_set),
            "copies": None if same is None else _count_copies(same),
        },
        notes=listing.notes + notes,
    )


def balanced_weights(sample_set: SampleSet) -> tuple[float, ...]:
    """Return how often to draw each picture, so that all classes come equally often.

    A picture of several classes counts for the rarest, one of none for a class of its own.

    Returns:
        Weights for `Order`, which add up to the number of classes with pictures.
    """
    counts = sample_set.counts
    rarest = [
        min(sample.labels, key=lambda label: (counts[label], label), default=-1)
        for sample in sample_set.samples
    ]
    drawn = Counter(rarest)
    return tuple(1 / drawn[label] for label in rarest)


def _describe(sample_set: SampleSet | None) -> dict[str, Any] | None:
    if sample_set is None:
        return None
    return {"pictures": len(sample_set), "fingerprint": sample_set.fingerprint}


def _class_names(
    listing: Listing, classes: Sequence[str] | None, place: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes in order, and notes on them."""
    train, val = (
        {name: entry for entry in reversed(part or ()) for name in entry.classes}
        for part in (listing.train, listing.val)
    )
    if only := sorted(val.keys() - train.keys()):
        shown = [f"{name} ({val[name].name})" for name in only]
        raise DatasetError(
            f"{place}: {counted(len(only), 'class is', 'classes are')} only in the part to"
            f" validate on: {few(shown)}",
            hint="add pictures of them to train, or remove them there",
        )
    if classes is None:
        names = listing.classes or sort_names(train)
    else:
        names = tuple(class_name(name) for name in classes)
        if len(set(names)) < len(names):
            raise ConfigError("classes names one twice; expected each name once")
    if unknown := sorted(train.keys() - set(names)):
        raise DatasetError(
            f"{place}: {counted(len(unknown), 'class is', 'classes are')} not among those given:"
            f" {few(unknown)}",
            hint=f"given are {few(names)}",
        )
    if len(names) < 2 and not listing.multi_label:
        raise DatasetError(
            f"{place}: there is one class, {few(names)}; expected at least two",
            hint=hint_for(place),
        )
    without_pictures = [name for name in names if name not in train]
    if without_pictures and classes is None:
        raise DatasetError(
            f"{place}: {counted(len(without_pictures), 'class has', 'classes have')} no picture"
            f" to learn from: {few(without_pictures)}",
            hint="add some, or name the classes that are to be learned",
        )
    text = f"classes without a picture: {few(without_pictures)}"
    return names, ((text,) if without_pictures else ())


def _count_copies(same: Sequence[int]) -> int:
    return sum(first != number for number, first in enumerate(same))


def _notes_on_lost(before: SampleSet | None, after: SampleSet | None) -> tuple[str, ...]:
    """Say which classes have lost their last picture to validate on."""
    if before is None:
        return ()
    if after is None:
        return ("no picture to validate on can be read",)
    pairs = zip(before.labels.class_names, before.counts, after.counts, strict=True)
    lost = [name for name, count, left in pairs if count and not left]
    return (f"no picture to validate on can be read of: {few(lost)}",) if lost else ()


def _notes_on_leaks(
    train: Sequence[Entry], val: Sequence[Entry], same: Sequence[int]
) -> tuple[str, ...]:
    first_of_val = len(train)
    pairs = [
        f"{entry.name} = {train[first].name}"
        for entry, first in zip(val, same[first_of_val:], strict=True)
        if first < first_of_val
    ]
    if not pairs:
        return ()
    return (
        f"{counted(len(pairs), 'picture to validate on is', 'pictures to validate on are')} in"
        f" train as well: {few(pairs)}",
    )


def _notes_on_labels(entries: Sequence[Entry], same: Sequence[int]) -> tuple[str, ...]:
    pairs = [
        f"{entry.name} = {entries[first].name}"
        for entry, first in zip(entries, same, strict=True)
        if set(entry.classes) != set(entries[first].classes)
    ]
    if not pairs:
        return ()
    return (
        f"{counted(len(pairs), 'picture is', 'pictures are')} the same as another but labelled"
        f" otherwise: {few(pairs)}",
    )


def _only_in_train(train: Sequence[Entry], val: Sequence[Entry]) -> list[str]:
    learned = {name for entry in train for name in entry.classes}
    return sorted(learned.difference(name for entry in val for name in entry.classes))
