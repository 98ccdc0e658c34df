"""What the model answered to each picture, and whether that is right.

N pictures that can be read, K classes that an answer may be: all of the model's or, if
restricted, those of the data. Logits stay on the disk and are gone through in chunks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnext import predictions
from resnext.errors import DatasetError, counted
from resnext.evaluation import metrics, multilabel
from resnext.evaluation.arrays import UNLABELED, Booleans, Floats, Integers, Logits, chunks
from resnext.evaluation.matching import Matching, display_names
from resnext.files import output_error
from resnext.predictions import Labels
from resnext.training.listing import Entry, few

TOP = 5  # answers that are kept of each picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """The answers to pictures of known classes.

    Args:
        entries: The N pictures.
        class_names: (K,) names that tell the classes apart.
        classes: (K,) the model's index of each.
        data_classes: Those, of the K, that the data has.
        logits: (N, K).
        rights: All right classes of each picture.
        targets: (N,) right class; of several the likeliest, `UNLABELED` without any.
        several: Whether a picture may have several right classes.
        multi_label: Whether the model answers yes or no of each class: probabilities are
            then sigmoids.
        restricted: Whether an answer may only be a class that the data has.
        ranks: (N,) classes before the right one; -1 without any.
        other_ranks: The same with the other choice of classes: restricted, where these are
            not, or all; None where that is the same.
        best: (N, min(K, 5)) answers, best first.
        shares: Their probabilities, after the temperature if they are of a softmax.
        target_shares: (N,) probability of the right class; 0 without any.
        temperature: Of the model.
    """

    entries: Sequence[Entry]
    class_names: tuple[str, ...]
    classes: Integers
    data_classes: Integers
    logits: Logits
    rights: Sequence[tuple[int, ...]]
    targets: Integers
    several: bool
    multi_label: bool
    restricted: bool
    ranks: Integers
    other_ranks: Integers | None
    best: Integers
    shares: Floats
    target_shares: Floats
    temperature: float

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def answers(self) -> Integers:
        """(N,) best answers."""
        return self.best[:, 0]

    @property
    def right(self) -> Booleans:
        """(N,) whether the best answer is right."""
        right: Booleans = self.ranks == 0
        return right

    @property
    def confidence(self) -> Floats:
        """(N,) probabilities of the best answers."""
        return self.shares[:, 0]

    @property
    def labeled(self) -> Booleans:
        """(N,) whether a picture has a right class."""
        return self.targets >= 0

    @property
    def counted(self) -> int:
        """Number of pictures that count; where answers are yes or no, "none" is one too."""
        return len(self.entries) if self.multi_label else int(self.labeled.sum())

    @property
    def right_sets(self) -> Booleans:
        """(N, K) whether a class is right."""
        return _sets(self.rights, self.num_classes)

    @property
    def present(self) -> Integers:
        """Those of the data's classes that the figures of classes have a picture of."""
        if self.multi_label:
            having = np.flatnonzero(self.right_sets.sum(axis=0))
        else:
            having = self.targets
        return np.intersect1d(self.data_classes, having)

    @property
    def without_pictures(self) -> tuple[str, ...]:
        """Names of the data's other classes."""
        places = np.setdiff1d(self.data_classes, self.present)
        return tuple(self.class_names[place] for place in places)


def judge(
    logits: Logits,
    entries: Sequence[Entry],
    matching: Matching,
    labels: Labels,
    *,
    restrict: bool = False,
    multi_label: bool = False,
    temperature: float = 1.0,
    scratch: Path,
) -> Judged:
    """Compare answers with what is right.

    Args:
        logits: (N, classes of the model).
        entries: The N pictures; those whose class the map leaves out are not counted.
        matching: Which class of the model each class of the data is.
        labels: Of the model.
        restrict: Whether an answer may only be a class that the data has.
        multi_label: Whether the model answers yes or no of each class.
        temperature: Of the model.
        scratch: Folder on whose disk the logits of restricted classes, and of the pictures
            that count, have room; nothing stays there.

    Raises:
        DatasetError: No picture has a class.
        OutputError: The disk is full.
    """
    kept = [n for n, entry in enumerate(entries) if not _left_out(entry, matching)]
    if len(kept) < len(entries):
        entries = [entries[number] for number in kept]
    data_classes = np.array(
        sorted({index for index in matching.index.values() if index is not None}), np.int64
    )
    if not any(entry.classes for entry in entries):
        raise DatasetError("none of the pictures that can be read has a class")
    every = np.arange(len(labels))
    chosen, other = (data_classes, every) if restrict else (every, data_classes)
    rights = _rights(entries, matching, len(labels))
    other_ranks = None
    if len(data_classes) < len(labels):
        other_ranks = _ranks(logits, kept, rights, other)
        if len(chosen) < len(labels) or len(kept) < len(logits):
            logits = _select(logits, kept, chosen, scratch)
    elif len(kept) < len(logits):
        logits = _select(logits, kept, chosen, scratch)
    places = _renumber(rights, chosen, len(labels))
    shown = partial(predictions.probabilities, temperature=temperature)
    targets, ranks, best, shares, own = _look(
        logits, places, multilabel.probabilities if multi_label else shown
    )
    names = display_names(labels)
    return Judged(
        entries=entries,
        class_names=tuple(names[index] for index in chosen),
        classes=chosen,
        data_classes=np.searchsorted(chosen, data_classes),
        logits=logits,
        rights=places,
        targets=targets,
        several=any(len(right) > 1 for right in rights),
        multi_label=multi_label,
        restricted=restrict,
        ranks=ranks,
        other_ranks=other_ranks,
        best=best,
        shares=shares,
        target_shares=own,
        temperature=temperature,
    )


def _left_out(entry: Entry, matching: Matching) -> bool:
    """Tell whether all classes of a picture are left out by the map; one without any stays."""
    return bool(entry.classes) and all(matching.index[name] is None for name in entry.classes)


def _rights(
    entries: Sequence[Entry], matching: Matching, num_classes: int
) -> list[tuple[int, ...]]:
    found = []
    for entry in entries:
        indices = (matching.index[name] for name in entry.classes)
        found.append(tuple(sorted({index for index in indices if index is not None})))
    return found


def _renumber(
    rights: Sequence[tuple[int, ...]], chosen: Integers, num_classes: int
) -> list[tuple[int, ...]]:
    """Number right classes by their place among those chosen, which have all of them."""
    place = np.full(num_classes, UNLABELED)
    place[chosen] = np.arange(len(chosen))
    return [tuple(int(place[index]) for index in right) for right in rights]


def _targets(rights: Sequence[tuple[int, ...]], num_classes: int) -> NDArray[np.integer] | Booleans:
    """Return (N,) indices or, where a picture has several, (N, K) bool."""
    if all(len(right) <= 1 for right in rights):
        return np.array([right[0] if right else UNLABELED for right in rights], np.int64)
    return _sets(rights, num_classes)


def _sets(rights: Sequence[tuple[int, ...]], num_classes: int) -> Booleans:
    sets = np.zeros((len(rights), num_classes), bool)
    for row, right in zip(sets, rights, strict=True):
        row[list(right)] = True
    return sets


def _ranks(
    logits: Logits, kept: Sequence[int], rights: Sequence[tuple[int, ...]], chosen: Integers
) -> Integers:
    """Rank the right classes of the pictures that count among some classes."""
    places = _renumber(rights, chosen, logits.shape[1])
    rows = np.asarray(kept)
    parts = [
        metrics.ranks(
            np.asarray(logits[rows[part]][:, chosen]), _targets(places[part], len(chosen))
        )
        for part in chunks(len(rows), logits.shape[1])
    ]
    return np.concatenate(parts)


def _select(logits: Logits, kept: Sequence[int], chosen: Integers, scratch: Path) -> Logits:
    """Copy rows and columns to a file without a name, and return it as an array."""
    rows = np.asarray(kept)
    shape = (len(rows), len(chosen))
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            # Written, not mapped: where the disk is full, a map ends the process.
            for part in chunks(len(rows), logits.shape[1]):
                file.write(np.asarray(logits[rows[part]][:, chosen], np.float32).tobytes())
            file.flush()
            return np.memmap(file, np.float32, mode="r", shape=shape)
    except OSError as error:
        raise output_error(scratch, error, needed=4 * shape[0] * shape[1]) from error


def _look(
    logits: Logits,
    rights: Sequence[tuple[int, ...]],
    probabilities: Callable[[NDArray[np.floating]], Floats],
) -> tuple[Integers, Integers, Integers, Floats, Floats]:
    """Return targets, ranks, best answers, their probabilities, and those of the targets."""
    count, num_classes = logits.shape
    top = min(TOP, num_classes)
    targets, ranks = np.full(count, UNLABELED), np.full(count, UNLABELED)
    best, shares = np.zeros((count, top), np.int64), np.zeros((count, top))
    own = np.zeros(count)
    for part in chunks(count, num_classes):
        rows = np.asarray(logits[part])
        wanted = _targets(rights[part], num_classes)
        ranks[part] = metrics.ranks(rows, wanted)
        if wanted.ndim == 2:
            likeliest = np.where(wanted, rows, -np.inf).argmax(axis=1)
            wanted = np.where(wanted.any(axis=1), likeliest, UNLABELED)
        targets[part] = wanted
        best[part] = _best(rows, top)
        all_shares = probabilities(rows)
        shares[part] = np.take_along_axis(all_shares, best[part], axis=1)
        at_target = np.take_along_axis(all_shares, np.maximum(wanted, 0)[:, None], axis=1)[:, 0]
        own[part] = np.where(wanted >= 0, at_target, 0.0)
    return targets, ranks, best, shares, own


def _best(rows: NDArray[np.floating], top: int) -> Integers:
    """Return the best answers; of equal ones the first, as `predictions.decide` has it."""
    left = rows.copy()
    found = np.empty((len(rows), top), np.int64)
    for place in range(top):
        found[:, place] = left.argmax(axis=1)
        np.put_along_axis(left, found[:, place : place + 1], -np.inf, axis=1)
    return found


def check_readable(entries: Sequence[Entry], bad: dict[int, str]) -> list[Entry]:
    """Return the pictures that could be read.

    Raises:
        DatasetError: None could.
    """
    if len(bad) == len(entries):
        shown = [f"{entries[place].name}: {reason}" for place, reason in list(bad.items())[:3]]
        raise DatasetError(
            f"none of the {counted(len(entries), 'picture')} can be read: {few(shown)}"
        )
    return [entry for place, entry in enumerate(entries) if place not in bad]
